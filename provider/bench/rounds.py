"""Contenders taking turns.

The rate of a machine that others share, or that gets hot, drifts by more than most differences worth knowing. So every
contender gets a short slice of every load in every round, and contenders are compared within a round.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from provider.bench.messages import Load, Outcome, Slice
from provider.bench.processes import ContenderProcess

_WARM_UP_SECONDS = 1.0

Outcomes = Mapping[tuple[Load, str], list[Outcome]]
"""By load and contender's name: what each round came to."""


@frozen
class Schedule:
    """How long and how often.

    Attributes:
        seconds: of a slice.
        rounds: slices of each contender under each load.
        timeout: seconds that a request under way at the end of a slice is waited for.
        seed: of texts and arrivals. Every run has another one: a server may remember the texts of the run before.
    """

    seconds: float
    rounds: int
    timeout: float
    seed: int

    @property
    def warm_up_seconds(self) -> float:
        """Of the slice before the first round, whose figures are thrown away."""
        return min(_WARM_UP_SECONDS, self.seconds)

    def total_seconds(self, loads: int, contenders: int) -> float:
        """How long it all takes at least."""
        return (self.seconds * self.rounds + self.warm_up_seconds) * loads * contenders


def run_rounds(
    contenders: Sequence[ContenderProcess], loads: Sequence[Load], schedule: Schedule, on_step: Callable[[str], None]
) -> Outcomes:
    """Warm everyone up under every load, then measure round by round.

    Args:
        contenders: at least one, ready.
        loads: at least one.
        schedule: how long and how often.
        on_step: called before every slice with what is about to happen.

    Raises:
        ContenderFailed: one of them gave up.
    """
    outcomes: defaultdict[tuple[Load, str], list[Outcome]] = defaultdict(list)
    for turn in range(schedule.rounds + 1):
        is_warm_up = turn == 0
        # There and back again: a drift that goes one way favours nobody.
        order = contenders if turn % 2 else contenders[::-1]
        for i, load in enumerate(loads):
            seconds = schedule.warm_up_seconds if is_warm_up else schedule.seconds
            for contender in order:
                # The same sentences for every contender, other ones in every slice.
                seed, salt = schedule.seed + turn * len(loads) + i, contenders.index(contender)
                slice_ = Slice(load, seconds, seed=seed, salt=salt, timeout=schedule.timeout)
                name = "warm-up" if is_warm_up else f"round {turn} of {schedule.rounds}"
                on_step(f"{name}: {load.label}, {contender.name}")
                outcome = contender.run(slice_)
                if not is_warm_up:
                    outcomes[load, contender.name].append(outcome)
    return outcomes
