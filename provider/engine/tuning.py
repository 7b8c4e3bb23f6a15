"""A short measurement while a model serves: how large batches, how many lanes, how many threads each.

What is best depends on the processor, its caches and the model, so that any fixed default is wrong somewhere.
Contenders take turns in short slices, because machines that others share drift, and because requests go first: a slice
begins when nothing waits. What is configured is not measured. Only for the CPU: an accelerator wants to be filled.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import numpy as np
from attrs import define, evolve, field, frozen

from provider.backends import AdjustsThreads, Backend, TokenBatch
from provider.cores import waited_seconds
from provider.domain import DENSE, Ids
from provider.engine.limits import BatchLimits
from provider.engine.plan import LanePlan
from provider.resident import give_memory_back

BUDGET_SECONDS = 2.0
"""What all passes may take: one only begins if it is expected to end within it."""
SLICE_SECONDS = 0.05
"""For how long requests may wait for a measurement: longer passes leave a lane to them, or are not measured."""
MOST_WAITING = 0.15
"""More, as a share of all cores' time, and nothing is believed: one busy neighbour on two cores makes it a third."""

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


class TrialLanes(Protocol):
    """What runs the passes that measure, and what is chosen by them. Calls block until the lanes are idle."""

    def run(self, plan: LanePlan, batch: TokenBatch, *, alone: bool) -> float:
        """Run `batch` once on each of `plan.lanes` lanes, side by side.

        Args:
            plan: its threads are used with `alone` only; else they are those of the plan in use.
            batch: what to run.
            alone: whether requests that come meanwhile wait; else other lanes serve them.

        Returns:
            Seconds.
        """
        ...

    def use(self, plan: LanePlan, batch_tokens: int) -> None:
        """Serve so from now on."""
        ...


@frozen
class Contender:
    """So many lanes and threads, that run a batch of so many tokens each; whether `alone`."""

    plan: LanePlan
    batch_tokens: int
    alone: bool


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


@frozen
class Tuned:
    """What came out.

    Attributes:
        trials: all that was measured, in order.
        seconds: what the passes took.
        waiting: how long its threads waited for a core, as a share of the time of all cores: others used them.
        is_complete: whether every comparison that fits into the time was made: a machine may get slow meanwhile.
        is_remembered: whether that was at an earlier start.
    """

    plan: LanePlan
    batch_tokens: int
    trials: tuple[Trial, ...]
    seconds: float
    waiting: float = 0.0
    is_complete: bool = True
    is_remembered: bool = False

    def described(self) -> dict[str, Any]:
        """For the log and `/v1/models`: JSON values."""
        return {
            "state": "remembered" if self.is_remembered else "measured",
            "seconds": round(self.seconds, 3),
            "waiting": round(self.waiting, 3),
            "tokens_per_second": {
                f"{each.plan.lanes}x{each.plan.threads}, {each.batch_tokens} tokens": round(each.tokens_per_second)
                for each in self.trials
            },
        }


def tune(lanes: TrialLanes, choices: Choices, *, waited: Callable[[], float] = waited_seconds) -> Tuned:
    """Measure a model and choose; afterwards its lanes are as chosen. Blocks while requests are served.

    Args:
        lanes: run the passes.
        choices: what there is.
        waited: seconds that threads waited for a core so far.
    """
    stopwatch = _Stopwatch(lanes, choices, waited)
    plan, tokens = choices.plans[0], choices.batch_tokens[0]
    # One row says what to expect, however slow the model is; then allocator and caches are filled.
    stopwatch.time_one_row(plan)
    most_lanes = max(each.lanes for each in choices.plans)
    for _ in range(2):
        if few := stopwatch.fitting(most_lanes):
            stopwatch.measure(Contender(plan, few, alone=True))
    if few := stopwatch.fitting(most_lanes):
        plan = stopwatch.compare([Contender(each, few, alone=True) for each in choices.plans], _CLEARLY).plan
    lanes.use(plan, tokens)
    # One lane is left to requests.
    some = LanePlan(max(1, plan.lanes - 1), plan.threads)
    sizes = [Contender(some, each, alone=plan.lanes == 1) for each in choices.batch_tokens]
    tokens = stopwatch.compare(sizes, _NOTABLY).batch_tokens
    waiting = max(0.0, stopwatch.waiting) / max(stopwatch.core_seconds, 1e-9)
    if waiting > MOST_WAITING:
        plan, tokens = choices.plans[0], choices.batch_tokens[0]
    lanes.use(plan, tokens)
    # Trials of sizes that lost leave memory behind that glibc would keep: 15 to 30 MiB.
    give_memory_back()
    return Tuned(plan, tokens, tuple(stopwatch.trials), stopwatch.seconds, waiting, stopwatch.is_complete)


@define(eq=False)
class _Stopwatch:
    """Measures contenders until the time is over.

    Attributes:
        trials: what was measured.
        seconds: spent in passes; in `core_seconds` each of their threads counts.
        waiting: seconds that threads waited for a core meanwhile.
        is_complete: whether no comparison was broken off.
    """

    _lanes: TrialLanes
    _choices: Choices
    _waited: Callable[[], float]
    trials: list[Trial] = field(factory=list)
    seconds: float = 0.0
    core_seconds: float = 0.0
    waiting: float = 0.0
    is_complete: bool = True
    # The seconds of a contender's last slice, and of a token in the last slice of all.
    _took: dict[Contender, float] = field(factory=dict)
    _seconds_per_token: float = 0.0
    _batches: dict[int, TokenBatch] = field(factory=dict)

    def time_one_row(self, plan: LanePlan) -> None:
        """The fastest of a few passes: a busy machine interrupts others."""
        first = self._batch(1)
        one_row = TokenBatch.of_rows([first.row(0)], outputs=sorted(first.outputs))
        one_lane, fastest = LanePlan(1, plan.threads), 0.0
        for _ in range(_FIRST_PASSES):
            if self.seconds + fastest > BUDGET_SECONDS:
                break
            seconds = self._run(one_lane, one_row, alone=plan.lanes == 1)
            fastest = min(fastest, seconds) if fastest else seconds
        self._seconds_per_token = fastest / one_row.tokens

    def fitting(self, lanes: int) -> int:
        """The most tokens of a batch that so many lanes run side by side within a slice; 0 if no row does."""
        tokens = min(self._choices.batch_tokens[0], int(SLICE_SECONDS / (lanes * self._seconds_per_token)))
        return tokens if tokens >= self._batch(1).tokens else 0

    def measure(self, contender: Contender) -> float | None:
        """Tokens a second; None: no time left."""
        if self.seconds + self._expected(contender) > BUDGET_SECONDS:
            return None
        batch = self._batch(contender.batch_tokens)
        seconds = self._took[contender] = self._run(contender.plan, batch, alone=contender.alone)
        measured = contender.plan.lanes * batch.tokens
        self._seconds_per_token = seconds / measured
        return measured / seconds

    def compare(self, contenders: Sequence[Contender], margin: float) -> Contender:
        """The fastest of those that can be measured, if it is faster than the first by `margin`."""
        default = contenders[0]
        contenders = [each for each in contenders if not each.alone or self._expected(each) <= SLICE_SECONDS]
        round_seconds = sum(self._expected(each) for each in contenders)
        if (
            len(contenders) < 2
            or contenders[0] != default
            or self.seconds + _FEWEST_ROUNDS * round_seconds > BUDGET_SECONDS
        ):
            return default
        rates: list[list[float]] = []
        enough = self.seconds + _ENOUGH_SECONDS
        while len(rates) < _FEWEST_ROUNDS or (len(rates) < _MOST_ROUNDS and self.seconds < enough):
            found = [self.measure(each) for each in contenders]
            if None in found:
                break
            rates.append([rate for rate in found if rate is not None])
        if len(rates) < _FEWEST_ROUNDS:
            self.is_complete = False
            return default
        fastest = [max(found) for found in zip(*rates, strict=True)]
        self.trials += [
            Trial(each.plan, each.batch_tokens, most) for each, most in zip(contenders, fastest, strict=True)
        ]
        best = max(range(len(contenders)), key=fastest.__getitem__)
        return contenders[best if fastest[best] > margin * fastest[0] else 0]

    def _expected(self, contender: Contender) -> float:
        tokens = contender.plan.lanes * self._batch(contender.batch_tokens).tokens
        return self._took.get(contender, tokens * self._seconds_per_token)

    def _run(self, plan: LanePlan, batch: TokenBatch, *, alone: bool) -> float:
        waited = self._waited()
        seconds = max(self._lanes.run(plan, batch, alone=alone), 1e-9)
        self.waiting += self._waited() - waited
        self.seconds += seconds
        self.core_seconds += seconds * plan.lanes * plan.threads
        return seconds

    def _batch(self, tokens: int) -> TokenBatch:
        if tokens not in self._batches:
            self._batches[tokens] = _batch(self._choices, tokens)
        return self._batches[tokens]


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
