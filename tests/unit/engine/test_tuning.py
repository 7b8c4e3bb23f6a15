"""Before a model serves, batch size, lanes and threads are measured: a clear winner is taken, noise changes nothing."""

import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
from waiting import PATIENCE_SECONDS

from provider.backends import TokenBatch, Vectors
from provider.engine.batcher import BatchLimits
from provider.engine.plan import LanePlan
from provider.engine.tuning import BUDGET_SECONDS, Choices, Tuned, tune
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


SIZES = (256, 128, 512)
ROWS = BatchLimits(max_rows=32, max_tokens=1)


def tuned(backend: TimedBackend, plans: list[LanePlan] | None = None, limits: BatchLimits = ROWS) -> Tuned:
    choices = Choices(tuple(plans or [LanePlan(1, 1)]), SIZES, limits, max_tokens=128, vocabulary_size=50)
    return tune(backend, choices.of(backend), clock=backend.clock)


def per_batch(seconds: float) -> Cost:
    """A cost for every batch beside that of its tokens: large batches win."""
    return lambda tokens, _: seconds + tokens * 1e-5


def test_the_size_of_batch_with_the_highest_rate_is_taken() -> None:
    assert tuned(TimedBackend(per_batch(0.01))).batch_tokens == 512
    assert tuned(TimedBackend(lambda tokens, _: (tokens / 256) ** 2 * 0.01)).batch_tokens == 128


def test_noise_changes_nothing() -> None:
    assert tuned(TimedBackend(per_batch(0.00003))).batch_tokens == 256


def test_fewer_lanes_with_more_threads_have_to_win_clearly() -> None:
    plans = [LanePlan(2, 1), LanePlan(1, 2)]

    def threads_help(factor: float) -> Cost:
        return lambda tokens, threads: tokens * 1e-5 / (factor if threads == 2 else 1)

    backend = ThreadedBackend(threads_help(1.5))
    assert tuned(backend, plans).plan == LanePlan(1, 2)
    assert backend.threads == 2
    backend = ThreadedBackend(threads_help(1.1))
    assert tuned(backend, plans).plan == LanePlan(2, 1)
    assert backend.threads == 1


def test_a_backend_whose_threads_are_fixed_keeps_its_plan() -> None:
    backend = TimedBackend(lambda tokens, _: tokens * 1e-5)
    found = tuned(backend, [LanePlan(2, 1), LanePlan(1, 2)])
    assert found.plan == LanePlan(2, 1)
    assert {trial.plan for trial in found.trials} == {LanePlan(2, 1)}


def test_a_slow_model_is_not_measured_and_no_measurement_takes_longer_than_it_may() -> None:
    slow = TimedBackend(lambda tokens, _: tokens * 1e-3)
    found = tuned(slow)
    assert (found.batch_tokens, found.trials, len(slow.passes)) == (256, (), 5)
    for seconds in (1e-6, 1e-5, 1e-4, 3e-4):
        backend = ThreadedBackend(lambda tokens, _, seconds=seconds: tokens * seconds)  # type: ignore[misc]
        assert tuned(backend, [LanePlan(2, 1), LanePlan(1, 2)]).seconds <= BUDGET_SECONDS


def test_a_slow_first_pass_says_nothing_of_the_model() -> None:
    backend = TimedBackend(lambda tokens, _: tokens * 1e-5 if backend.passes else 1.0)
    assert len(tuned(backend).trials) == len(SIZES)


@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.5, 3.0, 20.0])
def test_passes_that_take_seconds_whatever_their_size_end_the_measurement(seconds: float) -> None:
    backend = ThreadedBackend(lambda _tokens, _threads: seconds)
    found = tuned(backend, [LanePlan(2, 1), LanePlan(1, 2)])
    assert found.seconds <= max(BUDGET_SECONDS, seconds)
    assert (found.plan, found.batch_tokens, backend.threads) == (LanePlan(2, 1), 256, 1)


@pytest.mark.parametrize("after", range(12))
def test_a_machine_that_gets_slow_ends_the_measurement_with_the_pass_under_way(after: int) -> None:
    """Twice as fast with one lane, as long as the machine lets it show."""
    backend = ThreadedBackend(lambda _tokens, threads: 0.01 / threads if len(backend.passes) < after else 1.9)
    found = tuned(backend, [LanePlan(2, 1), LanePlan(1, 2)])
    slow_slice = 2 * 1.9
    assert found.seconds <= BUDGET_SECONDS + slow_slice
    assert len(backend.passes) <= after + 3
    assert backend.threads == found.plan.threads


def test_a_model_of_single_rows_is_measured_with_single_rows_and_one_of_equal_lengths_with_equal_ones() -> None:
    for limits, rows in ((BatchLimits(1, 1), {1}), (BatchLimits(32, 1, equal_lengths=True), {4, 8, 16})):
        backend = TimedBackend(per_batch(0.01))
        tuned(backend, limits=limits)
        assert {batch.rows for batch in backend.given[3:]} == rows
        assert all(len(set(batch.lengths)) == 1 for batch in backend.given)


ALLOCATING = """
import resource
from pathlib import Path

import numpy as np

from provider.engine.batcher import BatchLimits
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


limits = BatchLimits(max_rows=32, max_tokens=1)
choices = Choices((LanePlan(1, 1),), (256, 128, 512), limits, max_tokens=128, vocabulary_size=50)
backend = Allocating()
before = resident_mib()
tune(backend, choices.of(backend), clock=clock)
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
    assert described["seconds"] > 0


def test_the_share_of_the_cores_that_others_took_is_told() -> None:
    backend = TimedBackend(per_batch(0.01))
    choices = Choices((LanePlan(2, 1),), SIZES, ROWS, max_tokens=128, vocabulary_size=50)
    found = tune(backend, choices, clock=backend.clock, waited=lambda: backend.clock.now / 2)
    assert found.waiting == pytest.approx(0.25)


def test_batches_are_full_by_the_count_of_a_backend_that_pads() -> None:
    backend = TimedBackend(per_batch(0.01))
    tuned(backend)
    assert {batch.rows * int(batch.lengths.max()) for batch in backend.given[3:]} == set(SIZES)


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
