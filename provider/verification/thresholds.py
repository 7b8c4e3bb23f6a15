"""How far outputs may drift, by what they are computed in."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import attrs
from attrs import frozen

from provider.domain import ModelSpec, ScoreTask
from provider.engine.neighbours import SAME, Precision, precision_of
from provider.errors import InvalidRequest, SettingsError
from provider.settings import ModelSettings


@frozen
class VectorThresholds:
    """What a model that gives vectors has to reach. Cosines are -1 to 1.

    Attributes:
        min_cosine: of each sentence, passage, query and over-long text with the reference.
        min_odd_cosine: of each odd text (a single letter, digits, emoji) with the reference.
        min_mean_cosine: of all texts with the reference.
        min_invariance: of a text alone with the same text beside others.
        min_overlap: share of the nearest ten documents that reference and candidate have in common.
        max_spearman_drop: points of Spearman's rank correlation (of 100) below the reference.
        min_speedup: times the reference's speed; None: any speed will do.
    """

    setting: ClassVar[str] = "model.verify_min_cosine"
    about: ClassVar[str] = "vectors"

    min_cosine: float
    min_odd_cosine: float
    min_mean_cosine: float
    min_invariance: float
    min_overlap: float
    max_spearman_drop: float
    min_speedup: float | None = None

    @classmethod
    def of(cls, dtype: str) -> Self:
        """The thresholds for what a backend computes in; see docs/explanation/verify.md for the reasons."""
        precision = precision_of(dtype)
        return cls(**_BY_PRECISION[precision], min_invariance=SAME[precision])

    def configured(self, settings: ModelSettings) -> Self:
        """The same with what a model's settings say: the mean follows the smallest, odd texts keep their distance.

        Raises:
            SettingsError: a bound for scores is set.
        """
        if settings.verify_max_score_difference is not None:
            raise _other_task(settings, "verify_max_score_difference", "scores", self)
        least = settings.verify_min_cosine
        if least is None:
            return self
        slack = self.min_cosine - self.min_odd_cosine
        return attrs.evolve(
            self,
            min_cosine=least,
            min_odd_cosine=least - slack,
            min_mean_cosine=max(least, self.min_mean_cosine) if least >= self.min_cosine else least,
        )


@frozen
class ScoreThresholds:
    """What a model that gives scores has to reach.

    Attributes:
        max_score_difference: of a score, activated, with the reference's; scores without activation are compared by
            their standard deviation. The same for a pair alone and beside others.
        max_flips: share of the pairs of documents that the other side orders otherwise, of those that the reference
            tells apart by more than `max_score_difference`.
        min_kendall_tau: rank correlation of a query's documents with the reference, mean of all queries.
        min_speedup: times the reference's speed; None: any speed will do.
    """

    setting: ClassVar[str] = "model.verify_max_score_difference"
    about: ClassVar[str] = "scores"

    max_score_difference: float
    max_flips: float
    min_kendall_tau: float
    min_speedup: float | None = None

    @classmethod
    def of(cls, dtype: str) -> Self:
        """The thresholds for what a backend computes in."""
        return cls(*_SCORES_BY_PRECISION[precision_of(dtype)])

    def configured(self, settings: ModelSettings) -> Self:
        """The same with what a model's settings say.

        Raises:
            SettingsError: a bound for vectors is set.
        """
        if settings.verify_min_cosine is not None:
            raise _other_task(settings, "verify_min_cosine", "vectors", self)
        most = settings.verify_max_score_difference
        return self if most is None else attrs.evolve(self, max_score_difference=most)


Thresholds = VectorThresholds | ScoreThresholds


def thresholds_for(
    spec: ModelSpec, dtype: str, settings: ModelSettings, options: Mapping[str, float] | None = None
) -> Thresholds:
    """What a model has to reach: by its task and dtype, its settings, and `options`, which win.

    Args:
        spec: of the model.
        dtype: that it computes in.
        settings: of the model.
        options: from a threshold's name to another value.

    Raises:
        SettingsError: a setting is a bound for another task.
        InvalidRequest: an option is.
    """
    kind: type[VectorThresholds | ScoreThresholds]
    kind = VectorThresholds if spec.find(ScoreTask) is None else ScoreThresholds
    usual: Any = kind.of(dtype).configured(settings)
    known = tuple(field.name for field in attrs.fields(kind))
    for name in options or ():
        if name not in known:
            msg = f"{_option(name)} is no bound for {kind.about}; {spec.name} has {', '.join(map(_option, known))}"
            raise InvalidRequest(msg)
    changed: Thresholds = attrs.evolve(usual, **(options or {}))
    return changed


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _other_task(settings: ModelSettings, name: str, about: str, own: Thresholds) -> SettingsError:
    msg = (
        f"model.{name} is a bound for {about}, and the model {settings.served_name!r} gives {own.about}: set "
        f"{own.setting} instead"
    )
    return SettingsError(msg)


_SCORES_BY_PRECISION: dict[Precision, tuple[float, float, float]] = {
    "float32": (1e-4, 0.0, 0.99),
    "half": (0.02, 0.01, 0.95),
    "int8": (0.15, 0.05, 0.8),
}
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
