"""What a verification found: every figure, what is allowed, and the verdict."""

import math
from collections.abc import Mapping
from typing import Any, Literal

from attrs import asdict, field, frozen

from provider.engine.neighbours import Precision
from provider.errors import VerificationFailed
from provider.verification.measures import Floats
from provider.verification.thresholds import Thresholds

Bound = Literal["least", "most"]


@frozen
class Check:
    """One figure.

    Attributes:
        name: for programs, such as `min_cosine`; the figures of a model's further outputs begin with the output.
        meaning: for people, in a few words.
        measured: NaN where nothing could be measured, which does not pass.
        allowed: None for a figure that is for information only.
        bound: whether `allowed` is the least or the most that passes.
        advice: what to look at if it fails.
        digits: after the point, for people.
        noise: how far the reference's own figure is from that of equal outputs when its batches are composed otherwise;
            None where that was not measured.
        place: of the text that the figure comes from; "" for figures of many texts.
    """

    name: str
    meaning: str
    measured: float
    allowed: float | None = None
    bound: Bound = "least"
    advice: str = ""
    digits: int = 6
    noise: float | None = None
    place: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure is within what is allowed."""
        if self.allowed is None:
            return True
        return self.measured >= self.allowed if self.bound == "least" else self.measured <= self.allowed

    @property
    def sentence(self) -> str:
        """The figure, its text and its bound in words."""
        place = f" ({self.place})" if self.place else ""
        bound = "" if self.allowed is None else f", allowed at {self.bound} {self.shown(self.allowed)}"
        return f"{self.meaning}: {self.shown(self.measured)}{place}{bound}"

    def shown(self, value: float) -> str:
        """A value of this figure for people."""
        return f"{value:.{self.digits}f}"


@frozen
class Deviation:
    """A text whose output is far from the reference.

    Attributes:
        output: of the model, such as `dense`.
        place: where the text stands.
        drift: see `VerificationReport.drift`.
        text: it may be private; shown only if asked for.
    """

    output: str
    place: str
    drift: float
    text: str = field(repr=False)


@frozen
class BackendFacts:
    """What a model ran on."""

    backend: str
    device: str
    dtype: str
    details: Mapping[str, Any]


@frozen(eq=False)
class VerificationReport:
    """The whole result.

    Attributes:
        model: its configured name.
        fingerprint: of the candidate.
        candidate: what was verified.
        reference: what it was compared with.
        is_reference: whether the candidate is the very configuration that serves as reference.
        precision: the class of the candidate's dtype, by which thresholds were chosen.
        thresholds: what had to be reached.
        texts: how many were compared; pairs for models that give scores.
        checks: ordered so that the first one that failed says most about the cause.
        worst: of each output the texts that are furthest from the reference, furthest first.
        drift: by output, how far each text is from the reference, (texts,): 1 - cosine, or the difference of a score.
        neighbour_drift: by output, how far each sampled text alone is from itself beside others, (sampled texts,).
        notes: sentences about what was not done, and why.
        seconds: what it took, loading not counted.
    """

    model: str
    fingerprint: str
    candidate: BackendFacts
    reference: BackendFacts
    is_reference: bool
    precision: Precision
    thresholds: Thresholds
    texts: int
    checks: tuple[Check, ...]
    worst: tuple[Deviation, ...]
    drift: Mapping[str, Floats]
    neighbour_drift: Mapping[str, Floats]
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

    def check(self) -> None:
        """Refuse a model whose figures are not good enough.

        Raises:
            VerificationFailed: naming the figure, what is allowed, and what to do.
        """
        failed = self.first_failure
        if failed is None:
            return
        msg = (
            f"the model {self.model!r} on backend {self.candidate.backend!r} with dtype {self.candidate.dtype} "
            f"drifts from its float32 reference: {failed.sentence}. `emb-provider verify` shows every figure; choose "
            f"another dtype or backend, change {self.thresholds.setting}, or set model.verify_at_start to false"
        )
        raise VerificationFailed(msg)

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
                    "noise": None if check.noise is None else _finite(check.noise),
                    "place": check.place or None,
                    "passed": check.passed,
                }
                for check in self.checks
            ],
            "worst": [
                {"output": each.output, "place": each.place, "drift": _finite(each.drift)}
                | ({"text": each.text} if with_texts else {})
                for each in self.worst
            ],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
