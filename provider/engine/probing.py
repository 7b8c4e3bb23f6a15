"""Are the inputs bad or is the model? A harmless text decides."""

import asyncio
from collections.abc import Awaitable, Callable

from provider.engine.loading import ModelParts
from provider.engine.rows import Row
from provider.errors import EmbeddingFailed, ModelLoading, ModelStalled, Overloaded, ShuttingDown
from provider.tasks import all_outputs

FAILURES_UNTIL_PROBED = 3
"""Forward passes without a single success after which the model may be broken, rather than the inputs bad."""

_HARMLESS_TEXT = "The quick brown fox jumps over the lazy dog."


def probe_row(parts: ModelParts) -> Row:
    """A harmless text, all outputs wanted."""
    (probe,) = parts.tokenizer.encode([_HARMLESS_TEXT], truncate="end")
    return Row(all_outputs(probe.features, parts.spec))


def warm_up_rows(parts: ModelParts) -> list[Row]:
    """What a model runs before its first caller: a short batch for every lane, then the longest input."""
    ways = [(parts.tokenizer, parts.spec)]
    ways += [] if parts.spec.queries is None else [(parts.tokenizer.queries, parts.spec.queries)]
    rows = []
    for tokenizer, spec in ways:
        (short,) = tokenizer.encode([_HARMLESS_TEXT], truncate="end")
        (long,) = tokenizer.encode([_HARMLESS_TEXT * spec.max_tokens], truncate="end")
        inputs = [short] * parts.limits.max_rows * parts.plan.lanes + [long]
        rows += [Row(all_outputs(each.features, spec)) for each in inputs]
    return rows


class Prober:
    """Embeds a harmless text when forward passes fail, again and again until that works.

    Counting failures alone would let one caller with a bad input take the service out of the load balancer. Used on the
    event loop's thread.

    Attributes:
        has_failed: whether the last probe failed: the model cannot be relied on.
        pause_seconds: between two probes.
    """

    def __init__(self, embed: Callable[[], Awaitable[None]], *, name: str, pause_seconds: float) -> None:
        """Nothing happens until `look`.

        Args:
            embed: runs a harmless text through the model.
            name: of the model, for the task's name.
            pause_seconds: between two probes.
        """
        self.has_failed = False
        self.pause_seconds = pause_seconds
        self._embed, self._name = embed, name
        self._task: asyncio.Task[None] | None = None

    def look(self, failures_in_a_row: int) -> None:
        """Begin to probe if so many forward passes failed in a row."""
        if failures_in_a_row >= FAILURES_UNTIL_PROBED and self._task is None:
            self._task = asyncio.create_task(self._probe(), name=f"probe {self._name}")

    def stop(self) -> None:
        """Probe no more."""
        if self._task is not None:
            self._task.cancel()

    async def _probe(self) -> None:
        while True:
            try:
                await self._embed()
            except (ModelLoading, ShuttingDown):
                # The model was unloaded; if it is loaded again, it may work.
                break
            except (ModelStalled, Overloaded):
                # Others wait already; what comes of them is as good a probe.
                await asyncio.sleep(self.pause_seconds)
            except EmbeddingFailed:
                self.has_failed = True
                await asyncio.sleep(self.pause_seconds)
            else:
                break
        self.has_failed, self._task = False, None
