"""When the requests of an open loop are to be sent."""

import random

from provider.cli.bench.messages import Arrivals


def arrival_times(rate: float, seconds: float, arrivals: Arrivals, seed: int) -> list[float]:
    """Seconds from the start, ascending, below `seconds`: `rate * seconds` of them, and at least one.

    Args:
        rate: requests a second.
        seconds: for how long.
        arrivals: `even` has the same pause between any two. `poisson` has them fall anywhere, as from many callers who
            know nothing of each other: a Poisson process of which the number is given is so many independent times of
            a uniform distribution (S. Ross, "Stochastic Processes", theorem 2.3.1).
        seed: the same seed gives the same times.
    """
    count = max(1, round(rate * seconds))
    if arrivals == "even":
        return [i / rate for i in range(count)]
    chance = random.Random(seed)  # noqa: S311 - no secret
    return sorted(chance.random() * seconds for _ in range(count))
