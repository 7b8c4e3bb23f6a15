"""The drift of every text as a picture, by matplotlib (the extra `plots`)."""

from pathlib import Path

import numpy as np

from provider.errors import InvalidRequest
from provider.verification.report import VerificationReport
from provider.verification.thresholds import ScoreThresholds

# Left of this, only rounding is left.
_LEAST_DRIFT = 1e-9
_BINS = 60
_COLORS = ("#3b6ea5", "#5b8c5a", "#7a5195")


def check_plot(path: Path) -> None:
    """See beforehand that a picture can be drawn: measuring takes a while.

    Raises:
        InvalidRequest: the file's name asks for another format, or matplotlib is not installed.
    """
    if path.suffix.lower() not in (".svg", ".png"):
        msg = f"cannot draw {path}: the name must end in .svg or .png"
        raise InvalidRequest(msg)
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra

        mpl.use("agg")
    except ImportError as exc:
        msg = "drawing needs matplotlib: pip install matplotlib"
        raise InvalidRequest(msg) from exc


def draw(report: VerificationReport, path: Path) -> None:
    """Write the histogram to `path`, as SVG or PNG by its name. Call `check_plot` first.

    Raises:
        InvalidRequest: the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    drift = {name: np.maximum(each, _LEAST_DRIFT) for name, each in report.drift.items()}
    neighbours = np.concatenate([np.maximum(each, _LEAST_DRIFT) for each in report.neighbour_drift.values()])
    bounds = report.thresholds
    is_difference = isinstance(bounds, ScoreThresholds)
    allowed = bounds.max_score_difference if isinstance(bounds, ScoreThresholds) else 1.0 - bounds.min_cosine
    most = max(float(max(map(np.max, drift.values()))), float(neighbours.max()), allowed, _LEAST_DRIFT)
    bins = np.geomspace(_LEAST_DRIFT, most * 3, _BINS).tolist()
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    what = "pairs" if is_difference else "texts"
    for (name, each), color in zip(drift.items(), _COLORS * len(drift), strict=False):
        axes.hist(each, bins, color=color, alpha=0.7, label=f"{name}: to the reference ({len(each)} {what})")
    label = f"alone or beside others ({len(neighbours)})"
    axes.hist(neighbours, bins, histtype="step", color="#d9822b", label=label)
    axes.axvline(max(allowed, _LEAST_DRIFT), color="#b3261e", linestyle="--", label=f"allowed: {allowed:.2g}")
    axes.set_xscale("log")
    drift_is = "difference of a score" if is_difference else "1 - cosine"
    axes.set_xlabel(f"drift, {drift_is} (at the left edge: {_LEAST_DRIFT:g} or less)")
    axes.set_ylabel(what)
    side = report.candidate
    verdict = "passed" if report.passed else "failed"
    axes.set_title(f"{report.model}: {side.backend}, {side.dtype}, {side.device} ({verdict})")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as exc:
        msg = f"cannot write {path}: {exc.strerror}"
        raise InvalidRequest(msg) from exc
