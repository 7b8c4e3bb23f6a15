"""A short measurement before a model serves: how large batches, how many lanes, how many threads each.

What is best depends on the processor, its caches and the model, so that any fixed default is wrong somewhere.
Contenders take turns in short slices, because machines that others share drift; what is configured is not measured.
Only for the CPU: an accelerator wants to be filled.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
from attrs import frozen

from provider.backends import AdjustsThreads, Backend, TokenBatch
from provider.engine.plan import LanePlan

BUDGET_SECONDS = 2.0
"""What the whole measurement may take; a model whose single batch takes longer is not measured."""

# Of which most goes unused: after so long the contenders are told apart.
_ENOUGH_SECONDS = 0.4
# Sentences, some paragraphs: what people send.
_LENGTHS = (8, 12, 16, 16, 24, 32, 64, 128)
# Fewer lanes with more threads look better here than under load, where the event loop interrupts them: a thread that is
# interrupted stalls the others of its forward pass at every barrier. So they must win clearly.
_CLEARLY = 1.25
# Differences below this are noise.
_NOTABLY = 1.05


@frozen
class Trial:
    """One contender; tokens a second is the median of its slices."""

    plan: LanePlan
    batch_tokens: int
    tokens_per_second: float


@frozen
class Tuned:
    """What came out.

    Attributes:
        trials: all that was measured, in order.
        seconds: what it took.
    """

    plan: LanePlan
    batch_tokens: int
    trials: tuple[Trial, ...]
    seconds: float

    def described(self) -> dict[str, Any]:
        """For the log and `/v1/models`: JSON values."""
        return {
            "seconds": round(self.seconds, 3),
            "tokens_per_second": {
                f"{each.plan.lanes}x{each.plan.threads}, {each.batch_tokens} tokens": round(each.tokens_per_second)
                for each in self.trials
            },
        }


def tune(
    backend: Backend,
    *,
    plans: Sequence[LanePlan],
    batch_tokens: Sequence[int],
    max_rows: int,
    max_tokens: int,
    vocabulary_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuned:
    """Measure `backend` and choose. Runs forward passes on threads of its own and waits for them.

    Args:
        backend: loaded; afterwards set to the threads that were chosen.
        plans: contenders; the first is the default, and all others need an `AdjustsThreads`.
        batch_tokens: contenders; the first is the default.
        max_rows: most rows of a batch.
        max_tokens: most tokens of a row.
        vocabulary_size: token ids are below it.
        clock: seconds, monotonic.
    """
    started = clock()
    batches = {tokens: _batch(tokens, max_rows, max_tokens, vocabulary_size) for tokens in batch_tokens}

    def compare(contenders: Sequence[tuple[LanePlan, int]], margin: float) -> tuple[LanePlan, int]:
        if len(contenders) == 1:
            return contenders[0]
        rates: list[list[float]] = [[] for _ in contenders]
        ends = clock() + _ENOUGH_SECONDS
        while not rates[0] or clock() < ends:
            for (plan, tokens), found in zip(contenders, rates, strict=True):
                found.append(_rate(backend, plan, batches[tokens], clock))
        for (plan, tokens), found in zip(contenders, rates, strict=True):
            trials.append(Trial(plan, tokens, median(found)))
        medians = [median(found) for found in rates]
        best = max(range(len(contenders)), key=medians.__getitem__)
        return contenders[best if medians[best] > margin * medians[0] else 0]

    trials: list[Trial] = []
    plan, tokens = plans[0], batch_tokens[0]
    _rate(backend, plan, batches[tokens], clock)
    slice_seconds = batches[tokens].tokens * plan.lanes / _rate(backend, plan, batches[tokens], clock)
    # Two rounds of all contenders, which are larger and smaller than the default, are the least that says something.
    if 2 * slice_seconds * (len(plans) + 2 * len(batch_tokens)) < BUDGET_SECONDS - (clock() - started):
        if isinstance(backend, AdjustsThreads):
            plan, _ = compare([(each, tokens) for each in plans], _CLEARLY)
        _, tokens = compare([(plan, each) for each in batch_tokens], _NOTABLY)
    if isinstance(backend, AdjustsThreads):
        backend.use_threads(plan.threads)
    return Tuned(plan, tokens, tuple(trials), clock() - started)


def _batch(budget: int, max_rows: int, max_tokens: int, vocabulary_size: int) -> TokenBatch:
    """Rows of usual lengths, as the batcher would put them together: of like length, up to the budget."""
    random = np.random.default_rng(0)
    rows: list[np.ndarray[Any, np.dtype[np.int32]]] = []
    for i in range(max_rows):
        length = min(max_tokens, _LENGTHS[i % len(_LENGTHS)])
        if rows and sum(map(len, rows)) + length > budget:
            break
        rows.append(random.integers(0, vocabulary_size, length).astype(np.int32))
    return TokenBatch.of_rows(rows)


def _rate(backend: Backend, plan: LanePlan, batch: TokenBatch, clock: Callable[[], float]) -> float:
    """Tokens a second of `plan.lanes` threads that run `batch` once each, side by side."""
    if isinstance(backend, AdjustsThreads):
        backend.use_threads(plan.threads)
    with ThreadPoolExecutor(plan.lanes, "tuning") as lanes:
        # Threads are there before the clock starts.
        list(lanes.map(threading.Barrier(plan.lanes).wait, [None] * plan.lanes))
        started = clock()
        list(lanes.map(backend.embed, [batch] * plan.lanes))
        return plan.lanes * batch.tokens / max(clock() - started, 1e-9)
