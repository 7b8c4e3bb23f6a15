"""What requests say of long inputs: whether they are cut, where, and how many tokens stay; under all names."""

from collections.abc import Mapping
from typing import Protocol, Self

from attrs import frozen

from provider.dialects.fields import MAX_INT32, contradiction, refusal, shown, whole
from provider.domain import Truncation
from provider.errors import InvalidRequest

_TRUNCATIONS: dict[object, Truncation] = {False: "none", True: "auto", "none": "none", "start": "start", "end": "end"}
_SIDES: Mapping[str, Truncation] = {"left": "start", "right": "end"}
_TO_MAXIMUM = "-1 cuts to the model's maximum, which is the operator's to set (`max_context_length`)."


class LimitFields(Protocol):
    """The fields of a body that say it under our own names."""

    truncate: bool | str | None
    max_tokens: int | float | None


def truncation(value: str | bool | None) -> Truncation | None:  # noqa: FBT001 - a value of the wire
    """What a value of `truncate` means; None where nothing was said.

    Raises:
        InvalidRequest: it is none of those.
    """
    if value is None or value == "":
        return None
    found = _TRUNCATIONS.get(value.lower() if isinstance(value, str) else value)
    if found is None:
        msg = f"Invalid value: {shown(value)}. Supported values are: true, false, 'NONE', 'START' and 'END'."
        raise InvalidRequest(msg, param="truncate", code="invalid_value")
    return found


def limit_of(
    truncate: bool | str | None,  # noqa: FBT001 - a value of the wire
    max_tokens: float | None,
    *,
    default: Truncation | None = None,
) -> tuple[Truncation | None, int | None]:
    """Whether and where inputs are cut, and the most tokens of one; None: as the model is configured.

    Args:
        truncate: as it came.
        max_tokens: as it came.
        default: the dialect's own way, where the body does not say.

    Raises:
        InvalidRequest: a value is none that is served.
    """
    asked = truncation(truncate) or default
    if max_tokens is None:
        return asked, None
    return asked, whole(max_tokens, "max_tokens", least=1, instead="Leave it out for the model's own limit.")


def truncates(body: LimitFields, name: str, value: bool | str, given_as: dict[str, str]) -> None:  # noqa: FBT001
    """Reads another name of `truncate`: of two that agree, the one that names a side holds."""
    present = truncation(body.truncate)
    asked = truncation(value)
    if present is None or (present == "auto" and asked in _SIDES.values()):
        body.truncate = value
        given_as["truncate"] = name
    elif asked != present and not (asked == "auto" and present in _SIDES.values()):
        raise contradiction(name, value, given_as.get("truncate", "truncate"), body.truncate)


def token_limit(body: LimitFields, name: str, value: float, given_as: dict[str, str]) -> None:
    """As vLLM has it: a positive number cuts to as many tokens, special tokens included, -1 to the model's maximum."""
    if value != -1:
        most = whole(value, name, least=-1, instead=_TO_MAXIMUM)
        if not most:
            raise refusal(name, value, (-1, f"1 to {MAX_INT32}"), _TO_MAXIMUM)
        if body.max_tokens not in (None, most):
            raise contradiction(name, value, given_as.get("max_tokens", "max_tokens"), body.max_tokens)
        body.max_tokens = most
        given_as["max_tokens"] = name
    truncates(body, name, True, given_as)  # noqa: FBT003 - a value of the wire


def truncation_side(body: LimitFields, name: str, value: str, given_as: dict[str, str]) -> None:
    """As vLLM and TEI have it: which end is cut off, where truncation is asked for by another field."""
    side = _SIDES.get(value.lower())
    if side is None:
        raise refusal(name, value, tuple(_SIDES), "")
    if body.truncate is None and body.max_tokens is None:
        msg = f"Invalid '{name}': it says which end is cut off, not whether. Send \"truncate\": true as well."
        raise InvalidRequest(msg, param=name, code="invalid_value")
    if body.truncate in {None, True}:
        body.truncate = side
    elif truncation(body.truncate) not in {side, "none"}:
        raise contradiction(name, value, given_as.get("truncate", "truncate"), body.truncate)


class SideFields(LimitFields, Protocol):
    """The same with the end by itself."""

    truncation_direction: str | None


@frozen
class Cut:
    """Whether and where too long inputs are cut, as TEI has it: the end that is cut off is said by itself.

    Attributes:
        truncate: what was asked for; None: as the model is configured.
        side: which end, where it is cut at all; None: as `truncate` or the model's configuration says.
        max_tokens: how many tokens may stay; None: as many as the model takes.
    """

    truncate: Truncation | None = None
    side: Truncation | None = None
    max_tokens: int | None = None

    @classmethod
    def of(cls, fields: SideFields) -> Self:
        """What a body asks for.

        Raises:
            InvalidRequest: a value is none that is served.
        """
        param, direction = "truncation_direction", fields.truncation_direction
        side = _SIDES.get(direction.lower()) if direction else None
        if direction and side is None:
            raise refusal(param, direction, ("Left", "Right"), "")
        asked, most = limit_of(fields.truncate, fields.max_tokens)
        if side and asked not in {None, "auto", "none", side}:
            raise contradiction(param, direction, "truncate", fields.truncate)
        return cls(asked, side, most)

    def resolved(self, configured: Truncation) -> Truncation | None:
        """What becomes of an input of a model that is `configured` so; None: what is configured."""
        if self.side is None:
            return self.truncate
        asked = self.truncate or (configured if self.max_tokens is None else "auto")
        return asked if asked == "none" else self.side
