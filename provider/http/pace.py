"""How soon there is room for a request, from how long others before it took."""

import math

from provider.errors import MOST_RETRY_SECONDS

# The share of a new measurement in the mean.
_NEWEST = 0.1


class Pace:
    """The mean time that requests hold what there is a limit of.

    Attributes:
        mean_seconds: 0 as long as none has ended.
    """

    def __init__(self) -> None:
        """Nothing has been measured."""
        self.mean_seconds = 0.0

    def ended(self, seconds: float) -> None:
        """A request held its part for so long."""
        self.mean_seconds += (_NEWEST if self.mean_seconds else 1.0) * (seconds - self.mean_seconds)

    def seconds_until(self, excess: int, held: int) -> float:
        """An estimate of when `excess` of what is `held` is given back: requests end at an even pace."""
        return max(0.0, excess / max(1, held)) * self.mean_seconds


def retry_seconds(seconds: float) -> int:
    """An estimate as `Retry-After` has it."""
    return min(MOST_RETRY_SECONDS, max(1, math.ceil(seconds)))
