"""How far vectors may drift, by what they are computed in."""

from typing import Self

import attrs
from attrs import frozen

from provider.engine.neighbours import SAME, Precision, precision_of


@frozen
class Thresholds:
    """What a configuration has to reach. Cosines are -1 to 1.

    Attributes:
        min_cosine: of each sentence, passage and over-long text with the reference.
        min_odd_cosine: of each odd text (a single letter, digits, emoji) with the reference.
        min_mean_cosine: of all texts with the reference.
        min_invariance: of a text alone with the same text beside others.
        min_overlap: share of the nearest ten documents that reference and candidate have in common.
        max_spearman_drop: points of Spearman's rank correlation (of 100) below the reference.
        min_speedup: times the reference's speed; None: any speed will do.
    """

    min_cosine: float
    min_odd_cosine: float
    min_mean_cosine: float
    min_invariance: float
    min_overlap: float
    max_spearman_drop: float
    min_speedup: float | None = None

    @classmethod
    def of(cls, dtype: str) -> Self:
        """The thresholds for what a backend computes in; see docs/verify.md for the reasons."""
        precision = precision_of(dtype)
        return cls(**_BY_PRECISION[precision], min_invariance=SAME[precision])

    def with_min_cosine(self, least: float) -> Self:
        """The same for another smallest cosine: the mean may not be asked for more, odd texts keep their distance."""
        slack = self.min_cosine - self.min_odd_cosine
        return attrs.evolve(
            self,
            min_cosine=least,
            min_odd_cosine=least - slack,
            min_mean_cosine=max(least, self.min_mean_cosine) if least >= self.min_cosine else least,
        )


_BY_PRECISION: dict[Precision, dict[str, float]] = {
    "float32": {
        "min_cosine": 0.9999,
        "min_odd_cosine": 0.9999,
        "min_mean_cosine": 0.99999,
        "min_overlap": 0.99,
        "max_spearman_drop": 0.05,
    },
    "half": {
        "min_cosine": 0.999,
        "min_odd_cosine": 0.995,
        "min_mean_cosine": 0.9995,
        "min_overlap": 0.95,
        "max_spearman_drop": 0.2,
    },
    "int8": {
        "min_cosine": 0.97,
        "min_odd_cosine": 0.85,
        "min_mean_cosine": 0.98,
        "min_overlap": 0.8,
        "max_spearman_drop": 0.3,
    },
}
