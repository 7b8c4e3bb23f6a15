"""What a forward pass came to, and how its rows learn of it."""

from collections.abc import Sequence

from attrs import frozen

from provider.domain import Outputs
from provider.engine.rows import Row
from provider.errors import EmbeddingFailed


@frozen(eq=False)
class BatchOutcome:
    """What one forward pass came to.

    Attributes:
        outputs: as the backend gave them, checked; None if it failed.
        error: why, if it failed; a MemoryError if memory ran out.
        started: when it began, by the clock that stamps rows.
        forward_seconds: how long it took.
    """

    rows: Sequence[Row]
    outputs: Outputs | None
    error: Exception | None
    started: float
    forward_seconds: float

    @property
    def ran_out(self) -> bool:
        """Whether it failed because memory ran out."""
        return isinstance(self.error, MemoryError)

    @property
    def tokens(self) -> int:
        """Tokens of its rows, padding not counted."""
        return sum(row.tokens for row in self.rows)

    @property
    def queue_seconds(self) -> float:
        """How long the oldest of its rows had waited."""
        return self.started - min(row.enqueued_at for row in self.rows)

    def settle(self) -> None:
        """Give every row its outputs, or the error; call it on the event loop's thread."""
        for i, row in enumerate(self.rows):
            row.queue_seconds = max(0.0, self.started - row.enqueued_at)
            row.forward_seconds = self.forward_seconds
            if self.outputs is not None:
                outputs = self.outputs
                row.settle(outputs={name: outputs[name][i] for name in row.features.outputs})
            else:
                reason = f"the forward pass failed ({type(self.error).__name__})"
                failure = EmbeddingFailed(reason, is_lasting=not self.ran_out)
                failure.__cause__ = self.error
                row.settle(error=failure)
