"""How many times faster one model runs than another, on a machine that others use too."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping

from attrs import frozen

from provider.verification.report import Check

_ROUNDS, _FEWEST_ROUNDS = 5, 3
# Slow machines and slow models get fewer rounds.
_MOST_SECONDS = 20.0
# A slice shorter than this would measure the clock.
_SLICE_SECONDS = 0.25


@frozen
class Speedup:
    """How many times faster: the median of all rounds, and the slowest and fastest of them."""

    median: float
    least: float
    most: float


def speed_checks(
    ours: Callable[[], object],
    reference: Callable[[], object] | None,
    peer: tuple[str, Callable[[], object]] | None,
    *,
    least: float | None,
) -> Iterator[Check]:
    """Times as fast as the reference, and as another implementation, each doing the same work.

    Args:
        ours: the candidate's work.
        reference: the reference's; None where the candidate is the reference.
        peer: the other implementation's name and its work.
        least: times the reference's speed that is asked for; None for any.
    """
    others = {"reference": reference, "peer": None if peer is None else peer[1]}
    found = speedups(ours, {name: work for name, work in others.items() if work is not None})
    advice = "backend, dtype and number of lanes"
    for name, each in found.items():
        whom = peer[0] if peer is not None and name == "peer" else "the reference"
        meaning = f"times as fast as {whom} ({each.least:.2f} to {each.most:.2f})"
        is_peer = name == "peer"
        figure = "speedup_peer" if is_peer else "speedup"
        yield Check(figure, meaning, each.median, None if is_peer else least, advice=advice, digits=2)


def speedups(
    ours: Callable[[], object],
    others: Mapping[str, Callable[[], object]],
    *,
    rounds: int = _ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Speedup]:
    """How many times faster `ours` is than each of `others`, all doing the same work.

    A shared machine changes its speed by a factor of two within minutes, so everyone takes a short slice in every
    round, in turn, and only ratios within a round are used.
    """
    if not others:
        return {}
    everyone = {"": ours, **others}
    first = {}
    for name, work in everyone.items():
        work()  # the first pass allocates
        first[name] = _seconds(work, 1, clock)
    repeats = {name: max(1, round(_SLICE_SECONDS / max(seconds, 1e-6))) for name, seconds in first.items()}
    names, started = list(everyone), clock()
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for i in range(rounds):
        if i >= _FEWEST_ROUNDS and clock() - started > _MOST_SECONDS:
            break
        # Another one begins each round: whoever follows a busy slice finds a warm processor.
        order = names[i % len(names) :] + names[: i % len(names)]
        took = {name: _seconds(everyone[name], repeats[name], clock) for name in order}
        for name in others:
            ratios[name].append(took[name] / took[""])
    return {name: Speedup(statistics.median(each), min(each), max(each)) for name, each in ratios.items()}


def _seconds(work: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """Seconds of one call, as the mean of `repeats`."""
    started = clock()
    for _ in range(repeats):
        work()
    return max(clock() - started, 1e-9) / repeats
