"""What makes vectors: the engine in this process or a server, behind one protocol."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from attrs import asdict, frozen

from provider.cli.records import Record
from provider.domain import Embedded, Truncation
from provider.errors import InvalidRequest

_NAMED_PROBLEMS = 3


@frozen
class Options:
    """What is asked for with every text; None leaves it to the model's configuration. See `EmbedRequest`."""

    dimensions: int | None = None
    truncate: Truncation | None = None
    normalize: bool | None = None
    input_type: str | None = None
    prompt_name: str | None = None

    def given(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Embedder(Protocol):
    """Texts to vectors.

    Attributes:
        model: its name.
        fingerprint: of its vectors; empty where it is not known.
        dimension: width of the vectors.
        facts: JSON values by name: all that the vectors depend on but the texts.
        most_texts: texts to give it at a time.
        most_characters: their characters.
        most_calls: calls of `embed` that it should have under way.
    """

    model: str
    fingerprint: str
    dimension: int
    facts: Mapping[str, object]
    most_texts: int
    most_characters: int
    most_calls: int

    async def check(self, records: Sequence[Record], advance: Callable[[int], None]) -> None:
        """Find the texts that cannot be embedded, as far as that can be known before.

        Args:
            records: all that will be embedded.
            advance: called with the number of records that were looked at.

        Raises:
            InvalidRequest: naming the first few and their number.
        """
        ...

    async def embed(self, records: Sequence[Record]) -> Embedded:
        """The vectors of a few records.

        Raises:
            ProviderError: naming the record at fault, if one is.
        """
        ...


def refused(problems: Sequence[str], *, any_too_long: bool) -> InvalidRequest:
    """The error for texts that cannot be embedded: the first few of them, and how many there are."""
    count = "" if len(problems) == 1 else f"{len(problems)} texts cannot be embedded: "
    more = "; …" if len(problems) > _NAMED_PROBLEMS else ""
    pronoun = "it" if len(problems) == 1 else "long texts"
    hint = f". Shorten {pronoun}, or pass --truncate end" if any_too_long else ""
    return InvalidRequest(f"{count}{'; '.join(problems[:_NAMED_PROBLEMS])}{more}{hint}")
