"""A short measurement before a model serves: how large batches, how many lanes, how many threads each.

What is best depends on the processor, its caches and the model, so that any fixed default is wrong somewhere.
Contenders take turns in short slices, because machines that others share drift; what is configured is not measured.
Only for the CPU: an accelerator wants to be filled.
"""

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from attrs import define, evolve, field, frozen

from provider.backends import AdjustsThreads, Backend, TokenBatch
from provider.domain import Ids
from provider.engine.batcher import BatchLimits
from provider.engine.plan import LanePlan

BUDGET_SECONDS = 2.0
"""What the whole measurement may take: a pass only begins if it is expected to end within it."""

# Of which most goes unused: after so long, or so many rounds, the contenders are told apart.
_ENOUGH_SECONDS = 0.4
_FEWEST_ROUNDS, _MOST_ROUNDS = 2, 12
# Of one row, before anything is compared.
_FIRST_PASSES = 3
# The batcher sorts by length, so the rows of a batch are alike and padding is rare. They are so long that the most rows
# of a batch fill every contender.
_LENGTHS = (32, 31)
# Fewer lanes with more threads look better here than under load, where the event loop interrupts them: a thread that is
# interrupted stalls the others of its forward pass at every barrier. So they must win clearly.
_CLEARLY = 1.25
# Differences below this are noise.
_NOTABLY = 1.05


Contender = tuple[LanePlan, int]
"""A plan, and the tokens of a batch."""


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
    limits: BatchLimits,
    max_tokens: int,
    vocabulary_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuned:
    """Measure `backend` and choose. Runs forward passes on threads of its own and waits for them.

    Args:
        backend: loaded; afterwards set to the threads that were chosen.
        plans: contenders; the first is the default, and all others need an `AdjustsThreads`.
        batch_tokens: contenders; the first is the default.
        limits: of a batch; `batch_tokens` take the place of its tokens.
        max_tokens: most tokens of a row.
        vocabulary_size: token ids are below it.
        clock: seconds, monotonic.
    """
    started = clock()
    batches = {
        tokens: _batch(evolve(limits, max_tokens=tokens), max_tokens, vocabulary_size) for tokens in batch_tokens
    }
    plan, tokens = plans[0], batch_tokens[0]
    most_lanes = max(each.lanes for each in plans)
    with ThreadPoolExecutor(most_lanes, "tuning") as lanes:
        # As many threads as any plan has lanes, and all of them there before the first slice.
        list(lanes.map(threading.Barrier(most_lanes).wait, [None] * most_lanes))
        stopwatch = _Stopwatch(backend, lanes, batches, clock, ends=started + BUDGET_SECONDS)
        # One row says what to expect, however slow the model is; then allocator and caches are filled.
        stopwatch.time_one_row()
        for _ in range(2):
            stopwatch.measure(plan, tokens)
        if isinstance(backend, AdjustsThreads):
            plan, _ = stopwatch.compare([(each, tokens) for each in plans], _CLEARLY)
            backend.use_threads(plan.threads)
        _, tokens = stopwatch.compare([(plan, each) for each in batch_tokens], _NOTABLY)
    _give_memory_back()
    return Tuned(plan, tokens, tuple(stopwatch.trials), clock() - started)


@define(eq=False)
class _Stopwatch:
    """Measures contenders until the time is over.

    Attributes:
        batches: tokens to a batch of so many.
        ends: when no further pass begins.
        trials: what was measured.
    """

    backend: Backend
    lanes: ThreadPoolExecutor
    batches: Mapping[int, TokenBatch]
    clock: Callable[[], float]
    ends: float
    trials: list[Trial] = field(factory=list)
    # The seconds of a contender's last slice, and of a token in the last slice of all.
    _took: dict[Contender, float] = field(factory=dict)
    _seconds_per_token: float = 0.0

    def time_one_row(self) -> None:
        """The fastest of a few passes: the first sets libraries up, and a busy machine interrupts others."""
        one_row = TokenBatch.of_rows([next(iter(self.batches.values())).row(0)])
        fastest = 0.0
        for _ in range(_FIRST_PASSES):
            begin = self.clock()
            if begin + fastest > self.ends:
                break
            self.lanes.submit(self.backend.embed, one_row).result()
            seconds = self.clock() - begin
            fastest = min(fastest, seconds) if fastest else seconds
        self._seconds_per_token = fastest / one_row.tokens

    def measure(self, plan: LanePlan, tokens: int) -> float | None:
        """Tokens a second of `plan.lanes` threads that run such a batch once each, side by side; None: no time left."""
        begin = self.clock()
        if begin + self._expected(plan, tokens) > self.ends:
            return None
        if isinstance(self.backend, AdjustsThreads):
            self.backend.use_threads(plan.threads)
            begin = self.clock()
        list(self.lanes.map(self.backend.embed, [self.batches[tokens]] * plan.lanes))
        seconds = self._took[plan, tokens] = max(self.clock() - begin, 1e-9)
        measured = plan.lanes * self.batches[tokens].tokens
        self._seconds_per_token = seconds / measured
        return measured / seconds

    def compare(self, contenders: Sequence[Contender], margin: float) -> Contender:
        """The fastest, if it is faster than the first by `margin`."""
        round_seconds = sum(self._expected(*each) for each in contenders)
        if len(contenders) == 1 or self.clock() + _FEWEST_ROUNDS * round_seconds > self.ends:
            return contenders[0]
        rates: list[list[float]] = []
        enough = self.clock() + _ENOUGH_SECONDS
        while len(rates) < _FEWEST_ROUNDS or (len(rates) < _MOST_ROUNDS and self.clock() < enough):
            found = [self.measure(*each) for each in contenders]
            if None in found:
                break
            rates.append([rate for rate in found if rate is not None])
        if len(rates) < _FEWEST_ROUNDS:
            return contenders[0]
        fastest = [max(found) for found in zip(*rates, strict=True)]
        self.trials += [Trial(*each, most) for each, most in zip(contenders, fastest, strict=True)]
        best = max(range(len(contenders)), key=fastest.__getitem__)
        return contenders[best if fastest[best] > margin * fastest[0] else 0]

    def _expected(self, plan: LanePlan, tokens: int) -> float:
        by_tokens = plan.lanes * self.batches[tokens].tokens * self._seconds_per_token
        return self._took.get((plan, tokens), by_tokens)


def _batch(limits: BatchLimits, max_tokens: int, vocabulary_size: int) -> TokenBatch:
    """A full batch of rows of like length, as the batcher would put them together."""
    random = np.random.default_rng(0)
    lengths = [min(max_tokens, length) for length in _LENGTHS[: 1 if limits.equal_lengths else None]]
    rows: list[Ids] = []
    while not rows or limits.hold(len(rows) + 1, lengths[0], sum(map(len, rows)) + lengths[len(rows) % len(lengths)]):
        rows.append(random.integers(0, vocabulary_size, lengths[len(rows) % len(lengths)]).astype(np.int32))
    return TokenBatch.of_rows(rows)


def _give_memory_back() -> None:
    """Trials of sizes that lost leave memory behind that glibc would keep: 15 to 30 MiB."""
    if sys.platform == "linux":
        # Only glibc has it, see `man malloc_trim`.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
