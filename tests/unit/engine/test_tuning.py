"""Batch size, lanes and threads are measured in slices: a clear winner is taken, noise changes nothing."""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from attrs import define, field
from waiting import PATIENCE_SECONDS

from provider.backends import TokenBatch, Vectors
from provider.engine.limits import BatchLimits
from provider.engine.plan import LanePlan
from provider.engine.tuning import BUDGET_SECONDS, SLICE_SECONDS, Choices, Tuned, tune, use_plan
from provider.settings import ModelSettings
from provider.testing import FakeBackend, TickingClock

Cost = Callable[[int, int], float]


class TimedBackend(FakeBackend):
    """Takes as long as `cost(tokens, threads)` says, on a clock of its own."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.clock, self.threads, self._cost, self._lock = TickingClock(), 1, cost, threading.Lock()
        self.passes: list[tuple[int, int]] = []
        self.given: list[TokenBatch] = []

    def vectors(self, batch: TokenBatch) -> Vectors:
        with self._lock:
            self.clock.advance(self._cost(batch.tokens, self.threads))
            self.passes.append((batch.tokens, self.threads))
            self.given.append(batch)
        return np.zeros((batch.rows, 8), np.float32)


class ThreadedBackend(TimedBackend):
    def use_threads(self, threads: int) -> None:
        self.threads = threads


@define(eq=False)
class TimedLanes:
    """Lanes that run one after the other, on the backend's clock."""

    backend: TimedBackend
    plan: LanePlan
    slices: list[tuple[LanePlan, float, bool]] = field(factory=list)
    used: list[tuple[LanePlan, int]] = field(factory=list)

    def run(self, plan: LanePlan, batch: TokenBatch, *, alone: bool) -> float:
        begin = self.backend.clock()
        use_plan(self.backend, plan if alone else self.plan)
        for _ in range(plan.lanes):
            self.backend.run(batch)
        use_plan(self.backend, self.plan)
        self.slices.append((plan, self.backend.clock() - begin, alone))
        return self.slices[-1][1]

    def use(self, plan: LanePlan, batch_tokens: int) -> None:
        use_plan(self.backend, plan)
        self.plan = plan
        self.used.append((plan, batch_tokens))


SIZES = (256, 128, 512)
ROWS = BatchLimits(max_rows=32, max_tokens=1)
TWO, WIDE = LanePlan(2, 1), LanePlan(1, 2)


def measured(
    backend: TimedBackend, plans: Sequence[LanePlan] = (TWO,), limits: BatchLimits = ROWS, **more: Any
) -> tuple[Tuned, TimedLanes]:
    choices = Choices(tuple(plans), SIZES, limits, max_tokens=128, vocabulary_size=50)
    lanes = TimedLanes(backend, plans[0])
    # How busy this machine is now decides nothing.
    return tune(lanes, choices.of(backend), **{"waited": lambda: 0.0} | more), lanes


def tuned(backend: TimedBackend, plans: Sequence[LanePlan] = (TWO,), limits: BatchLimits = ROWS) -> Tuned:
    return measured(backend, plans, limits)[0]


def per_batch(seconds: float) -> Cost:
    """A cost for every batch beside that of its tokens: large batches win."""
    return lambda tokens, _: seconds + tokens * 1e-5


def test_the_size_of_batch_with_the_highest_rate_is_taken() -> None:
    assert tuned(TimedBackend(per_batch(0.01))).batch_tokens == 512
    assert tuned(TimedBackend(lambda tokens, _: (tokens / 256) ** 2 * 0.01)).batch_tokens == 128


def test_noise_changes_nothing() -> None:
    assert tuned(TimedBackend(per_batch(0.00003))).batch_tokens == 256


def test_fewer_lanes_with_more_threads_have_to_win_clearly() -> None:
    def threads_help(factor: float) -> Cost:
        return lambda tokens, threads: tokens * 1e-5 / (factor if threads == 2 else 1)

    backend = ThreadedBackend(threads_help(1.5))
    assert tuned(backend, [TWO, WIDE]).plan == WIDE
    assert backend.threads == 2
    backend = ThreadedBackend(threads_help(1.1))
    assert tuned(backend, [TWO, WIDE]).plan == TWO
    assert backend.threads == 1


def test_a_backend_whose_threads_are_fixed_keeps_its_plan() -> None:
    found = tuned(TimedBackend(lambda tokens, _: tokens * 1e-5), [TWO, WIDE])
    assert found.plan == TWO
    assert {trial.plan.threads for trial in found.trials} == {1}


def test_what_was_chosen_is_in_use_in_the_end() -> None:
    found, lanes = measured(ThreadedBackend(lambda tokens, threads: 0.001 + tokens * 1e-5 / threads), [TWO, WIDE])
    assert lanes.used[-1] == (found.plan, found.batch_tokens) == (WIDE, 512)


@pytest.mark.parametrize("seconds_per_token", [1e-6, 1e-5, 1e-4, 3e-4, 1e-3])
@pytest.mark.parametrize("plans", [(TWO, WIDE), (LanePlan(1, 1),), (LanePlan(4, 1), LanePlan(8, 1))])
def test_requests_wait_for_a_slice_at_most(seconds_per_token: float, plans: Sequence[LanePlan]) -> None:
    found, lanes = measured(ThreadedBackend(lambda tokens, _: tokens * seconds_per_token), plans)
    assert all(seconds <= SLICE_SECONDS for _, seconds, alone in lanes.slices if alone)
    # Longer ones leave a lane, and there is one to leave.
    assert all(alone or plan.lanes < found.plan.lanes or plan.lanes < plans[0].lanes for plan, _, alone in lanes.slices)
    assert found.seconds <= BUDGET_SECONDS


def test_sizes_are_compared_on_all_lanes_but_one() -> None:
    _, lanes = measured(TimedBackend(per_batch(0.01)), [LanePlan(4, 1)])
    assert {plan.lanes for plan, _, alone in lanes.slices if not alone} == {1, 3}


def test_what_takes_longer_than_a_slice_is_not_compared_on_the_only_lane() -> None:
    found, _ = measured(TimedBackend(lambda tokens, _: tokens * 1e-4), [LanePlan(1, 1)])
    assert [trial.batch_tokens for trial in found.trials] == [256, 128]
    found, _ = measured(TimedBackend(lambda tokens, _: tokens * 3e-4), [LanePlan(1, 1)])
    assert (found.trials, found.is_complete, found.batch_tokens) == ((), True, 256)


def test_a_slow_model_is_not_measured_again_and_again() -> None:
    slow = TimedBackend(lambda tokens, _: tokens * 3e-3)
    found = tuned(slow)
    assert (found.batch_tokens, found.trials, found.is_complete, len(slow.passes)) == (256, (), True, 3)


def test_a_slow_first_pass_says_nothing_of_the_model() -> None:
    backend = TimedBackend(lambda tokens, _: tokens * 1e-5 if backend.passes else 1.0)
    assert len(tuned(backend).trials) == len(SIZES)


@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.5, 3.0, 20.0])
def test_passes_that_take_seconds_whatever_their_size_end_the_measurement(seconds: float) -> None:
    backend = ThreadedBackend(lambda _tokens, _threads: seconds)
    found = tuned(backend, [TWO, WIDE])
    assert found.seconds <= max(BUDGET_SECONDS, seconds)
    assert (found.plan, found.batch_tokens, backend.threads) == (TWO, 256, 1)


@pytest.mark.parametrize("after", range(12))
def test_a_machine_that_gets_slow_ends_the_measurement_with_the_pass_under_way(after: int) -> None:
    """Twice as fast with one lane, as long as the machine lets it show."""
    backend = ThreadedBackend(lambda _tokens, threads: 0.01 / threads if len(backend.passes) < after else 1.9)
    found = tuned(backend, [TWO, WIDE])
    slow_slice = 2 * 1.9
    assert found.seconds <= BUDGET_SECONDS + slow_slice
    assert len(backend.passes) <= after + 3
    assert backend.threads == found.plan.threads


def test_a_comparison_that_is_broken_off_is_not_complete() -> None:
    backend = TimedBackend(lambda _tokens, _threads: 0.01 if len(backend.passes) < 8 else 1.9)
    found = tuned(backend)
    assert (found.trials, found.is_complete, found.batch_tokens) == ((), False, 256)


def test_a_model_of_single_rows_is_measured_with_single_rows_and_one_of_equal_lengths_with_equal_ones() -> None:
    for limits, rows in ((BatchLimits(1, 1), {1}), (BatchLimits(32, 1, equal_lengths=True), {4, 8, 16})):
        backend = TimedBackend(per_batch(0.01))
        tuned(backend, limits=limits)
        assert {batch.rows for batch in backend.given[7:]} == rows
        assert all(len(set(batch.lengths)) == 1 for batch in backend.given)


ALLOCATING = """
import resource
from pathlib import Path

import numpy as np

from provider.engine.limits import BatchLimits
from provider.engine.plan import LanePlan
from provider.engine.tuning import Choices, tune
from provider.testing import FakeBackend, TickingClock

clock, left = TickingClock(), []


class Allocating(FakeBackend):
    def vectors(self, batch):
        clock.advance(0.01 + batch.tokens * 1e-5)
        # 100 MiB, and behind it, so that its end is not the heap's, what stays.
        blocks = [np.ones(25_000, np.float32) for _ in range(1_000)]
        left.append(np.ones(1_000, np.float32))
        del blocks
        return np.zeros((batch.rows, 8), np.float32)


def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


class Lanes:
    def run(self, plan, batch, *, alone):
        begin = clock()
        backend.run(batch)
        return clock() - begin

    def use(self, plan, batch_tokens):
        pass


limits = BatchLimits(max_rows=32, max_tokens=1)
choices = Choices((LanePlan(1, 1),), (256, 128, 512), limits, max_tokens=128, vocabulary_size=50)
backend = Allocating()
before = resident_mib()
tune(Lanes(), choices.of(backend))
print(len(left), resident_mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and gives back what glibc keeps")
def test_what_the_trials_allocated_is_given_back() -> None:
    # A process of its own: what other tests allocate meanwhile is not counted.
    command = [sys.executable, "-c", ALLOCATING]
    passes, grown = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    ).stdout.split()
    assert int(passes) > 10
    assert float(grown) < 50


def test_what_was_measured_can_be_read() -> None:
    described = tuned(TimedBackend(per_batch(0.01))).described()
    assert set(described["tokens_per_second"]) == {"1x1, 256 tokens", "1x1, 128 tokens", "1x1, 512 tokens"}
    assert described["state"] == "measured"
    assert described["seconds"] > 0


def test_the_share_of_the_cores_that_others_took_is_told() -> None:
    backend = TimedBackend(per_batch(0.01))
    found, lanes = measured(backend, [LanePlan(3, 1)], waited=lambda: backend.clock.now / 2)
    slices = sum(seconds for _, seconds, _ in lanes.slices)
    in_all = sum(plan.lanes * plan.threads * seconds for plan, seconds, _ in lanes.slices)
    assert found.waiting == pytest.approx(slices / 2 / in_all)


def test_nothing_is_chosen_while_others_use_the_cores() -> None:
    for share, chosen in ((0.1, (WIDE, 512)), (0.5, (TWO, 256))):
        backend = ThreadedBackend(lambda tokens, threads: (0.01 + tokens * 1e-5) / threads)
        found, lanes = measured(backend, [TWO, WIDE], waited=lambda: backend.clock.now * share)  # noqa: B023
        assert (found.plan, found.batch_tokens) == lanes.used[-1] == chosen
        assert backend.threads == chosen[0].threads


def test_batches_are_full_by_the_count_of_a_backend_that_pads() -> None:
    backend = TimedBackend(per_batch(0.01))
    tuned(backend)
    assert {batch.rows * int(batch.lengths.max()) for batch in backend.given[7:]} == set(SIZES)


@pytest.mark.parametrize(
    ("fields", "cores", "expected"),
    [
        ({}, 2, [(2, 1), (1, 2)]),
        ({}, 1, [(1, 1)]),
        ({}, 16, [(4, 4), (1, 16), (2, 8), (8, 2)]),
        ({"lanes": 2}, 16, [(2, 8)]),
        ({"threads_per_lane": 4}, 16, [(4, 4)]),
    ],
)
def test_only_what_is_not_set_has_alternatives(
    fields: dict[str, int], cores: int, expected: list[tuple[int, int]]
) -> None:
    settings = ModelSettings(**fields)  # type: ignore[arg-type]
    plan = LanePlan.of(settings, is_concurrent=True, cores=cores)
    plans = plan.alternatives(settings, is_concurrent=True, cores=cores)
    assert [(each.lanes, each.threads) for each in plans] == expected
