"""A short measurement before a model serves: how large batches, how many lanes, how many threads each.

What is best depends on the processor, its caches and the model, so that any fixed default is wrong somewhere.
Contenders take turns in short slices, because machines that others share drift; what is configured is not measured.
Only for the CPU: an accelerator wants to be filled.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from attrs import define, evolve, field, frozen

from provider.backends import AdjustsThreads, Backend, TokenBatch
from provider.cores import waited_seconds
from provider.domain import DENSE, Ids
from provider.engine.batcher import BatchLimits
from provider.engine.plan import LanePlan
from provider.resident import give_memory_back

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
class Choices:
    """What is to be chosen from, for which batches.

    Attributes:
        plans: contenders; the first is the default.
        batch_tokens: contenders; the first is the default.
        limits: of a batch; `batch_tokens` take the place of its tokens.
        max_tokens: most tokens of a row.
        vocabulary_size: token ids are below it.
        outputs: names of the outputs that rows want.
    """

    plans: tuple[LanePlan, ...]
    batch_tokens: tuple[int, ...]
    limits: BatchLimits
    max_tokens: int
    vocabulary_size: int
    outputs: tuple[str, ...] = (DENSE,)

    def of(self, backend: Backend) -> Self:
        """Those that `backend` has: without `AdjustsThreads` only the first plan."""
        return self if isinstance(backend, AdjustsThreads) else evolve(self, plans=self.plans[:1])

    @property
    def is_open(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.plans) > 1 or len(self.batch_tokens) > 1

    def are_compared_in(self, trials: Collection[Trial]) -> bool:
        """Whether all of them were measured: on a busy machine, or with a slow model, the time ends before."""
        plans, tokens = {each.plan for each in trials}, {each.batch_tokens for each in trials}
        return plans >= set(self.plans) and tokens >= set(self.batch_tokens)


@frozen
class Tuned:
    """What came out.

    Attributes:
        trials: all that was measured, in order.
        seconds: what it took.
        waiting: how long its threads waited for a core, as a share of the time of all cores: others used them.
        is_remembered: whether that was at an earlier start.
    """

    plan: LanePlan
    batch_tokens: int
    trials: tuple[Trial, ...]
    seconds: float
    waiting: float = 0.0
    is_remembered: bool = False

    def described(self) -> dict[str, Any]:
        """For the log and `/v1/models`: JSON values."""
        return {
            "source": "remembered" if self.is_remembered else "measured",
            "seconds": round(self.seconds, 3),
            "waiting": round(self.waiting, 3),
            "tokens_per_second": {
                f"{each.plan.lanes}x{each.plan.threads}, {each.batch_tokens} tokens": round(each.tokens_per_second)
                for each in self.trials
            },
        }


def tune(
    backend: Backend,
    choices: Choices,
    *,
    clock: Callable[[], float] = time.perf_counter,
    waited: Callable[[], float] = waited_seconds,
) -> Tuned:
    """Measure `backend` and choose. Runs forward passes on threads of its own and waits for them.

    Args:
        backend: loaded; afterwards set to the threads that were chosen.
        choices: what it has.
        clock: seconds, monotonic.
        waited: seconds that threads waited for a core so far.
    """
    started, waited_before = clock(), waited()
    batches = {tokens: _batch(choices, tokens) for tokens in choices.batch_tokens}
    plan, tokens = choices.plans[0], choices.batch_tokens[0]
    most_lanes = max(each.lanes for each in choices.plans)
    with ThreadPoolExecutor(most_lanes, "tuning") as lanes:
        # As many threads as any plan has lanes, and all of them there before the first slice.
        list(lanes.map(threading.Barrier(most_lanes).wait, [None] * most_lanes))
        stopwatch = _Stopwatch(backend, lanes, batches, clock, ends=started + BUDGET_SECONDS)
        # One row says what to expect, however slow the model is; then allocator and caches are filled.
        stopwatch.time_one_row()
        for _ in range(2):
            stopwatch.measure(plan, tokens)
        plan, _ = stopwatch.compare([(each, tokens) for each in choices.plans], _CLEARLY)
        use_plan(backend, plan)
        _, tokens = stopwatch.compare([(plan, each) for each in choices.batch_tokens], _NOTABLY)
        # Before the lanes end, and what they waited is forgotten.
        seconds, waiting = clock() - started, waited() - waited_before
    # Trials of sizes that lost leave memory behind that glibc would keep: 15 to 30 MiB.
    give_memory_back()
    most_threads = max(each.lanes * each.threads for each in choices.plans)
    share = max(0.0, waiting) / max(seconds * most_threads, 1e-9)
    return Tuned(plan, tokens, tuple(stopwatch.trials), seconds, share)


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
        first = next(iter(self.batches.values()))
        one_row = TokenBatch.of_rows([first.row(0)], outputs=sorted(first.outputs))
        fastest = 0.0
        for _ in range(_FIRST_PASSES):
            begin = self.clock()
            if begin + fastest > self.ends:
                break
            self.lanes.submit(self.backend.run, one_row).result()
            seconds = self.clock() - begin
            fastest = min(fastest, seconds) if fastest else seconds
        self._seconds_per_token = fastest / one_row.tokens

    def measure(self, plan: LanePlan, tokens: int) -> float | None:
        """Tokens a second of `plan.lanes` threads that run such a batch once each, side by side; None: no time left."""
        begin = self.clock()
        if begin + self._expected(plan, tokens) > self.ends:
            return None
        use_plan(self.backend, plan)
        begin = self.clock()
        list(self.lanes.map(self.backend.run, [self.batches[tokens]] * plan.lanes))
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


def use_plan(backend: Backend, plan: LanePlan) -> None:
    """Set a backend's threads, where they can change."""
    if isinstance(backend, AdjustsThreads):
        backend.use_threads(plan.threads)


def _batch(choices: Choices, tokens: int) -> TokenBatch:
    """A full batch of rows of like length, as the batcher would put them together."""
    random = np.random.default_rng(0)
    limits = evolve(choices.limits, max_tokens=tokens)
    lengths = [min(choices.max_tokens, length) for length in _LENGTHS[: 1 if limits.equal_lengths else None]]
    rows: list[Ids] = []
    while not rows or limits.hold(len(rows) + 1, lengths[0], sum(map(len, rows)) + lengths[len(rows) % len(lengths)]):
        rows.append(random.integers(0, choices.vocabulary_size, lengths[len(rows) % len(lengths)]).astype(np.int32))
    return TokenBatch.of_rows(rows, outputs=choices.outputs)
