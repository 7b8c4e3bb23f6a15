"""Numbers from measurements: percentiles, and the spread of a figure over the rounds."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Self

import msgspec


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` (0 to 1) of them do not exceed (nearest rank).

    Args:
        ascending: at least one value, sorted.
        share: 0.99 for the 99th percentile.
    """
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure over the rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """None for no values."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found)) if found else None

    @classmethod
    def of_ratios(cls, values: Sequence[float], references: Sequence[float]) -> Self | None:
        """Of `values[i] / references[i]`, round by round: what slows both down in a round leaves their ratio alone.

        Rounds in which either came to nothing have no ratio.
        """
        return cls.of(mine / theirs for mine, theirs in zip(values, references, strict=True) if mine and theirs)


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds within which that share of the requests was answered."""

    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, microseconds: Iterable[int]) -> Self | None:
        """Of all requests of all rounds together; None for no requests."""
        ascending = [each / 1000 for each in sorted(microseconds)]
        if not ascending:
            return None
        p50, p95, p99 = (percentile(ascending, share) for share in (0.5, 0.95, 0.99))
        return cls(p50, p95, p99, ascending[-1])
