"""What makes vectors: the engine in this process or others, or servers, behind one protocol."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, get_args

from attrs import asdict, frozen

from provider.domain import DENSE, Embedded, Truncation
from provider.errors import InvalidRequest, ServerFailed
from provider.texts.records import Record

ENGINE_TEXTS = 1024
"""Texts of a call to an engine: every lane can sort them by length, and little is lost when a run is interrupted."""

ENGINE_CALLS = 2
"""Calls of an engine under way: the next texts wait in its queue while vectors are written, so that no lane waits."""

MOST_CHARACTERS = 65_536
"""Of the texts of a call."""


@frozen
class Options:
    """What is asked for with every text; None leaves it to the model's configuration. See `EmbedRequest`."""

    dimensions: int | None = None
    truncate: Truncation | None = None
    normalize: bool | None = None
    input_type: str | None = None
    prompt_name: str | None = None
    outputs: tuple[str, ...] = (DENSE,)

    def __attrs_post_init__(self) -> None:
        """Refuse a truncation that is none: it would cut.

        Raises:
            InvalidRequest: `truncate` is another value.
        """
        allowed = get_args(Truncation)
        if self.truncate is not None and self.truncate not in allowed:
            msg = f"truncate: got {self.truncate!r}; it is one of {', '.join(allowed)}"
            raise InvalidRequest(msg)

    @property
    def is_dense(self) -> bool:
        """Whether dense vectors are all that is wanted."""
        return self.outputs == (DENSE,)

    def given(self) -> dict[str, Any]:
        """Those that are not None, without the outputs."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "outputs"}


@frozen
class Problem:
    """Why a text cannot be embedded.

    Attributes:
        clause: names the text.
        is_too_long: whether it could be cut.
    """

    clause: str
    is_too_long: bool


class Embedder(Protocol):
    """Texts to vectors. The attributes are known after `begin`.

    Attributes:
        model: its name.
        fingerprint: of its vectors; empty where it is not known.
        dimension: width of the dense vectors; 0 where none are asked for.
        facts: JSON values by name: all that the vectors depend on but the texts.
        about: JSON values by name: what else is said of them in the output, such as the model's name.
        most_texts: texts to give it at a time.
        most_characters: their characters.
        most_calls: calls of `embed` that it should have under way.
        can_check: whether it knows without embedding them which texts cannot be embedded.
    """

    model: str
    fingerprint: str
    dimension: int
    facts: Mapping[str, object]
    about: Mapping[str, object]
    most_texts: int
    most_characters: int
    most_calls: int
    can_check: bool

    async def begin(self) -> None:
        """Be ready to embed.

        Raises:
            ProviderError: there is no model, or an option is not for it.
            Unavailable: perhaps later.
        """
        ...

    async def check(self, records: Sequence[Record]) -> Sequence[Problem]:
        """What is wrong with a few records; only if `can_check`."""
        ...

    async def embed(self, records: Sequence[Record]) -> Embedded:
        """The vectors of a few records.

        Raises:
            ProviderError: naming the record at fault, if one is.
            Unavailable: perhaps later.
        """
        ...


class Unavailable(ServerFailed):
    """It may work later.

    Attributes:
        wanted_seconds: how long it asked to be left alone; 0 if it did not say.
        most_attempts: after so many in a row there is no hope.
    """

    def __init__(self, message: str, *, wanted_seconds: float = 0.0, most_attempts: int) -> None:
        super().__init__(message)
        self.wanted_seconds, self.most_attempts = wanted_seconds, most_attempts
