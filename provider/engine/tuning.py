"""A short measurement before a model serves: how large batches, how many lanes, how many threads each.

What is best depends on the processor, its caches and the model, so that any fixed default is wrong somewhere.
Contenders take turns in short slices, because machines that others share drift; what is configured is not measured.
Only for the CPU: an accelerator wants to be filled.
"""

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from attrs import frozen

from provider.backends import AdjustsThreads, Backend, TokenBatch
from provider.engine.plan import LanePlan

BUDGET_SECONDS = 2.0
"""What the whole measurement may take; a comparison that does not fit in what is left of it is not made."""

# Of which most goes unused: after so long, or so many rounds, the contenders are told apart.
_ENOUGH_SECONDS = 0.4
_FEWEST_ROUNDS, _MOST_ROUNDS = 2, 12
# The batcher sorts by length, so the rows of a batch are alike and padding is rare. They are so long that `max_rows` of
# them fill every contender.
_LENGTHS = (32, 31, 30, 29)
# Fewer lanes with more threads look better here than under load, where the event loop interrupts them: a thread that is
# interrupted stalls the others of its forward pass at every barrier. So they must win clearly.
_CLEARLY = 1.25
# Differences below this are noise.
_NOTABLY = 1.05


@frozen
class Trial:
    """One contender; tokens a second is that of its fastest slice: whatever disturbs one slows it down."""

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
    most_lanes = max(plan.lanes for plan in plans)
    batches = {tokens: _batch(tokens, max_rows, max_tokens, vocabulary_size) for tokens in batch_tokens}

    def compare(contenders: Sequence[tuple[LanePlan, int]], margin: float) -> tuple[LanePlan, int]:
        round_seconds = seconds_per_token * sum(plan.lanes * batches[tokens].tokens for plan, tokens in contenders)
        if len(contenders) == 1 or clock() - started + _FEWEST_ROUNDS * round_seconds > BUDGET_SECONDS:
            return contenders[0]
        rates: list[list[float]] = [[] for _ in contenders]
        ends = clock() + _ENOUGH_SECONDS
        while len(rates[0]) < _FEWEST_ROUNDS or (len(rates[0]) < _MOST_ROUNDS and clock() < ends):
            for (plan, tokens), found in zip(contenders, rates, strict=True):
                found.append(rate(plan, tokens))
        fastest = [max(found) for found in rates]
        trials.extend(Trial(plan, tokens, most) for (plan, tokens), most in zip(contenders, fastest, strict=True))
        best = max(range(len(contenders)), key=fastest.__getitem__)
        return contenders[best if fastest[best] > margin * fastest[0] else 0]

    def rate(plan: LanePlan, tokens: int) -> float:
        """Tokens a second of `plan.lanes` threads that run such a batch once each, side by side."""
        if isinstance(backend, AdjustsThreads):
            backend.use_threads(plan.threads)
        begin = clock()
        list(lanes.map(backend.embed, [batches[tokens]] * plan.lanes))
        return plan.lanes * batches[tokens].tokens / max(clock() - begin, 1e-9)

    trials: list[Trial] = []
    plan, tokens = plans[0], batch_tokens[0]
    # As many threads as any plan has lanes, and all of them there before the first slice.
    with ThreadPoolExecutor(most_lanes, "tuning") as lanes:
        list(lanes.map(threading.Barrier(most_lanes).wait, [None] * most_lanes))
        rate(plan, tokens)
        seconds_per_token = 1 / rate(plan, tokens)
        if isinstance(backend, AdjustsThreads):
            plan, _ = compare([(each, tokens) for each in plans], _CLEARLY)
            backend.use_threads(plan.threads)
        _, tokens = compare([(plan, each) for each in batch_tokens], _NOTABLY)
    _give_memory_back()
    return Tuned(plan, tokens, tuple(trials), clock() - started)


def _batch(budget: int, max_rows: int, max_tokens: int, vocabulary_size: int) -> TokenBatch:
    """Rows of like length, as the batcher would put them together: with padding, as many as the budget holds."""
    random = np.random.default_rng(0)
    lengths = [min(max_tokens, length) for length in _LENGTHS]
    rows = min(max_rows, max(1, budget // lengths[0]))
    return TokenBatch.of_rows(
        [random.integers(0, vocabulary_size, lengths[i % len(lengths)]).astype(np.int32) for i in range(rows)]
    )


def _give_memory_back() -> None:
    """Trials of sizes that lost leave memory behind that glibc would keep: 15 to 30 MiB."""
    if sys.platform == "linux":
        # Only glibc has it, see `man malloc_trim`.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
