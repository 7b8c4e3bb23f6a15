"""What a verification found: every figure, what is allowed, and the verdict."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from attrs import asdict, field, frozen

from provider.engine.neighbours import Precision
from provider.engine.verification.measures import Floats
from provider.engine.verification.thresholds import Thresholds

Bound = Literal["least", "most"]


@frozen
class Check:
    """One figure.

    Attributes:
        name: for programs, such as `min_cosine`.
        meaning: for people, in a few words.
        measured: NaN where nothing could be measured, which does not pass.
        allowed: None for a figure that is for information only.
        bound: whether `allowed` is the least or the most that passes.
        advice: what to look at if it fails.
        digits: after the point, for people.
    """

    name: str
    meaning: str
    measured: float
    allowed: float | None = None
    bound: Bound = "least"
    advice: str = ""
    digits: int = 6

    @property
    def passed(self) -> bool:
        """Whether the figure is within what is allowed."""
        if self.allowed is None:
            return True
        return self.measured >= self.allowed if self.bound == "least" else self.measured <= self.allowed

    @property
    def sentence(self) -> str:
        """The figure and its bound in words."""
        bound = "" if self.allowed is None else f", allowed at {self.bound} {self.shown(self.allowed)}"
        return f"{self.meaning}: {self.shown(self.measured)}{bound}"

    def shown(self, value: float) -> str:
        """A value of this figure for people."""
        return f"{value:.{self.digits}f}"


@frozen
class Worst:
    """A text that is far from the reference.

    Attributes:
        place: where it stands.
        cosine: with the reference's vector.
        text: it may be private; shown only if asked for.
    """

    place: str
    cosine: float
    text: str = field(repr=False)


@frozen
class Side:
    """What a side of the comparison ran on."""

    backend: str
    device: str
    dtype: str
    details: Mapping[str, Any]


@frozen(eq=False)
class Report:
    """The whole result.

    Attributes:
        model: its configured name.
        fingerprint: of the candidate.
        candidate: what was verified.
        reference: what it was compared with.
        is_reference: whether the candidate is the very configuration that serves as reference.
        precision: the class of the candidate's dtype, by which thresholds were chosen.
        thresholds: what had to be reached.
        texts: how many were compared.
        checks: ordered so that the first one that failed says most about the cause.
        worst: texts with the smallest cosines, smallest first.
        drift: 1 - cosine with the reference, of each text, (texts,).
        neighbour_drift: 1 - cosine of each text alone with itself beside others, (sampled texts,).
        notes: sentences about what was not done, and why.
        seconds: what it took, loading not counted.
    """

    model: str
    fingerprint: str
    candidate: Side
    reference: Side
    is_reference: bool
    precision: Precision
    thresholds: Thresholds
    texts: int
    checks: tuple[Check, ...]
    worst: tuple[Worst, ...]
    drift: Floats
    neighbour_drift: Floats
    notes: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def first_failure(self) -> Check | None:
        """The failed check that says most about the cause; None if all passed."""
        return next((check for check in self.checks if not check.passed), None)

    def figures(self) -> dict[str, float | None]:
        """Name to measured value; None where nothing could be measured (JSON has no NaN)."""
        return {check.name: _finite(check.measured) for check in self.checks}

    def summary(self) -> dict[str, Any]:
        """The essential in JSON values, for logs and `GET /v1/models`."""
        failed = self.first_failure
        return {
            "passed": self.passed,
            "is_reference": self.is_reference,
            "texts": self.texts,
            "failed": failed.name if failed else None,
            **self.figures(),
        }

    def document(self, *, with_texts: bool = False) -> dict[str, Any]:
        """Everything in JSON values; the worst texts themselves only `with_texts`."""
        return {
            "model": self.model,
            "passed": self.passed,
            "fingerprint": self.fingerprint,
            "candidate": asdict(self.candidate),
            "reference": asdict(self.reference),
            "is_reference": self.is_reference,
            "precision": self.precision,
            "texts": self.texts,
            "checks": [
                {
                    "name": check.name,
                    "meaning": check.meaning,
                    "measured": _finite(check.measured),
                    "allowed": check.allowed,
                    "bound": check.bound if check.allowed is not None else None,
                    "passed": check.passed,
                }
                for check in self.checks
            ],
            "worst": [
                {"place": each.place, "cosine": _finite(each.cosine)} | ({"text": each.text} if with_texts else {})
                for each in self.worst
            ],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
