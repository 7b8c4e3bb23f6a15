"""The drift of every text as a picture, by matplotlib (the extra `plots`)."""

from pathlib import Path

import numpy as np

from provider.engine.verification import Report
from provider.errors import InvalidRequest

# Left of this, only rounding is left.
_LEAST_DRIFT = 1e-9
_BINS = 60


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
        msg = "drawing needs matplotlib: pip install 'emb-provider[plots]'"
        raise InvalidRequest(msg) from exc


def draw(report: Report, path: Path) -> None:
    """Write the histogram to `path`, as SVG or PNG by its name. Call `check_plot` first.

    Raises:
        InvalidRequest: the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415

    drift, neighbours = (np.maximum(each, _LEAST_DRIFT) for each in (report.drift, report.neighbour_drift))
    allowed = max(1.0 - report.thresholds.min_cosine, _LEAST_DRIFT)
    most = max(float(drift.max()), float(neighbours.max()), allowed)
    bins = np.geomspace(_LEAST_DRIFT, most * 3, _BINS).tolist()
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(drift, bins, color="#3b6ea5", label=f"to the reference ({len(drift)} texts)")
    axes.hist(neighbours, bins, histtype="step", color="#d9822b", label=f"alone or beside others ({len(neighbours)})")
    axes.axvline(allowed, color="#b3261e", linestyle="--", label=f"most that is allowed: {allowed:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel(f"drift, 1 - cosine (at the left edge: {_LEAST_DRIFT:g} or less)")
    axes.set_ylabel("texts")
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
