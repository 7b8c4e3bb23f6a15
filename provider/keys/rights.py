"""What a key may do, as the words that follow it in its line."""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from attrs import frozen

from provider.domain import Caller, Quota, Tier
from provider.errors import SettingsError

TASKS = ("embed", "rerank", "score", "classify")
"""What a key can be limited to."""

_NO_TASKS = "none"
_QUOTING = re.compile(r"[\\'\"]")


def read_rights(text: str, where: str) -> dict[str, str]:
    """The words of `text`, each once.

    Args:
        text: what follows a key.
        where: where it is written, for messages.

    Raises:
        SettingsError: it is not of known words; the message does not repeat them, as they may be part of a key.
    """
    try:
        # What has nothing to unquote is split forty times as fast.
        parts = shlex.split(text) if _QUOTING.search(text) else text.split()
    except ValueError as exc:
        msg = f"{where}: a quotation mark is not closed in what follows the key"
        raise SettingsError(msg) from exc
    words: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or name not in _RIGHTS:
            msg = f"{where}: after the key, expected words of the form NAME=VALUE with the names {', '.join(_RIGHTS)}"
            raise SettingsError(msg)
        if name in words:
            msg = f"{where}: {name} is given twice; leave one of them out"
            raise SettingsError(msg)
        words[name] = value
    return words


def caller_of_rights(words: Mapping[str, str], where: str) -> Caller:
    """The caller whose key has these words.

    Raises:
        SettingsError: a value is not allowed.
    """
    values: dict[str, Any] = {}
    for name, text in words.items():
        try:
            values[name] = _RIGHTS[name].read(text)
        except ValueError as exc:
            msg = f"{where}: {name}: expected {_RIGHTS[name].expected}, got {text!r}"
            raise SettingsError(msg) from exc
    quota = Quota(**{name: values.pop(name) for name in _LIMITS if name in values})
    return Caller(**{_FIELDS.get(name, name): value for name, value in values.items()}, quota=quota)


def rights_text(caller: Caller, *, with_name: bool = True) -> str:
    """The words of a caller's key, its name among them or not."""
    words = ((name, right.write(caller)) for name, right in _RIGHTS.items() if with_name or name != "name")
    return " ".join(f"{name}={shlex.quote(text)}" for name, text in words if text is not None)


@frozen
class _Right:
    """A word.

    Attributes:
        expected: which values it has.
        read: a value as a field of `Caller` or of `Quota`; raises ValueError.
        write: the inverse; None where nothing is to be said.
    """

    expected: str
    read: Callable[[str], Any]
    write: Callable[[Caller], str | None]


def _one_of(text: str, values: Iterable[str]) -> str:
    if text not in values:
        raise ValueError(text)
    return text


def _name(text: str) -> str:
    if not text.isprintable() or text.strip() != text or not text:
        raise ValueError(text)
    return text


def _names(text: str) -> frozenset[str]:
    return frozenset(_name(part.strip()) for part in text.split(","))


def _tasks(text: str) -> frozenset[str]:
    return frozenset() if text == _NO_TASKS else frozenset(_one_of(each, TASKS) for each in _names(text))


def _listed(names: frozenset[str] | None, nothing: str) -> str | None:
    return None if names is None else ",".join(sorted(names)) or nothing


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
        raise ValueError(text)
    return int(text)


def _limit(field: str) -> _Right:
    def write(caller: Caller) -> str | None:
        limit = getattr(caller.quota, field)
        return None if limit is None else str(limit)

    return _Right(_NUMBER, _positive, write)


_NUMBER = "a whole number, at least 1"
_LIMITS = ("requests_per_minute", "tokens_per_minute", "requests_per_day", "tokens_per_day")
_TIERS = get_args(Tier)
_RIGHTS: Mapping[str, _Right] = {
    "name": _Right("printable characters", _name, lambda caller: caller.name),
    "models": _Right("names of models, separated by commas", _names, lambda caller: _listed(caller.models, "")),
    "tasks": _Right(
        f"some of {', '.join(TASKS)}, separated by commas, or {_NO_TASKS}",
        _tasks,
        lambda caller: _listed(caller.tasks, _NO_TASKS),
    ),
    "admin": _Right(
        "yes or no",
        lambda text: _one_of(text, ("yes", "no")) == "yes",
        lambda caller: "yes" if caller.is_admin else None,
    ),
    "tier": _Right(f"one of {', '.join(_TIERS)}", lambda text: _one_of(text, _TIERS), lambda caller: caller.tier),
    "weight": _Right(_NUMBER, _positive, lambda caller: None if caller.weight == 1 else str(caller.weight)),
    **{name: _limit(name) for name in _LIMITS},
}
_FIELDS = {"admin": "is_admin"}
