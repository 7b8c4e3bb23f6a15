"""What makes vectors: the engine in this process or a server, behind one protocol."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from attrs import asdict, frozen

from provider.domain import DENSE, Embedded, Truncation
from provider.texts.records import Record


@frozen
class Options:
    """What is asked for with every text; None leaves it to the model's configuration. See `EmbedRequest`."""

    dimensions: int | None = None
    truncate: Truncation | None = None
    normalize: bool | None = None
    input_type: str | None = None
    prompt_name: str | None = None
    outputs: tuple[str, ...] = (DENSE,)

    @property
    def is_dense(self) -> bool:
        """Whether dense vectors are all that is wanted."""
        return self.outputs == (DENSE,)

    def given(self) -> dict[str, Any]:
        """Those that are not None, without the outputs."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "outputs"}


class Embedder(Protocol):
    """Texts to vectors.

    Attributes:
        model: its name.
        fingerprint: of its vectors; empty where it is not known.
        dimension: width of the dense vectors; 0 where none are asked for.
        facts: JSON values by name: all that the vectors depend on but the texts.
        about: JSON values by name: what else is said of them in the output, such as the model's name.
        most_texts: texts to give it at a time.
        most_characters: their characters.
        most_calls: calls of `embed` that it should have under way.
    """

    model: str
    fingerprint: str
    dimension: int
    facts: Mapping[str, object]
    about: Mapping[str, object]
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
