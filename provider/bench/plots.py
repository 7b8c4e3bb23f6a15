"""The report as PNG files: one for each thing that was varied."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from provider.bench.figures import Spread
from provider.bench.report import BenchReport, MatmulShare, Result

# Several measures of a contender share its colour and differ in the line.
_LINES = ("-", "--", ":")
Measure = tuple[str, Callable[[Result], float | None]]


def draw(report: BenchReport, folder: Path) -> list[Path]:
    """Write the plots that the report has something for, and say which.

    Args:
        report: of a run.
        folder: made if need be; files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    closed = [each for each in report.results if each.load.rate is None]
    open_ = [each for each in report.results if each.load.rate is not None]
    found = [
        _over(
            folder / "concurrency.png",
            "Throughput and latency over concurrency",
            "requests at a time",
            closed,
            lambda each: each.load.concurrency,
            ([("texts/s", _texts)], [("p50", _latency("p50")), ("p99", _latency("p99"))]),
            ("texts per second", "latency in ms"),
        ),
        _over(
            folder / "rate.png",
            "Latency over the rate of requests (open loop)",
            "requests per second, asked",
            open_,
            lambda each: each.load.rate,
            (
                [("answered", lambda each: each.requests_per_second.median)],
                [("p50", _latency("p50")), ("p99", _latency("p99")), ("max", _latency("max"))],
            ),
            ("requests per second, answered", "latency from when it was due, in ms"),
        ),
        _over(
            folder / "length.png",
            "Throughput over the length of texts",
            "tokens a text",
            [each for each in report.results if each.load.tokens],
            lambda each: each.load.tokens,
            (
                [("texts/s", _texts)],
                [("tokens/s", _tokens)],
            ),
            ("texts per second", "tokens per second"),
        ),
        _shares(folder / "matmul.png", [each for each in report.results if each.matmul]),
    ]
    return [path for path in found if path]


def _over(  # noqa: PLR0917
    path: Path,
    title: str,
    across: str,
    results: Sequence[Result],
    at: Callable[[Result], float | None],
    panels: tuple[Sequence[Measure], Sequence[Measure]],
    units: tuple[str, str],
) -> Path | None:
    """Two panels, one above the other, with a line for every series of loads that differ in `at` alone."""
    if not results:
        return None
    series: defaultdict[str, list[Result]] = defaultdict(list)
    for each in results:
        series[_rest(each, across)].append(each)
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle(title)
    axes: Sequence[Any] = figure.subplots(2, 1, sharex=True)
    ticks = sorted({place for each in results if (place := at(each))})
    for axis, measures, unit in zip(axes, panels, units, strict=True):
        for colour, (name, members) in enumerate(series.items()):
            for line, (measure, value) in zip(_LINES, measures, strict=False):
                points = sorted((place, y) for each in members if (place := at(each)) and (y := value(each)))
                label = name if len(measures) == 1 else f"{name}: {measure}"
                if points:
                    axis.plot(*zip(*points, strict=True), line, marker="o", color=f"C{colour}", label=label)
        axis.set_ylabel(unit)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [f"{each:g}" for each in ticks], minor=False)
        axis.set_xticks([], minor=True)
        axis.grid(visible=True, alpha=0.3)
        if axis.lines:
            _scale(axis)
            axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
    axes[-1].set_xlabel(across)
    figure.savefig(path, dpi=120)
    return path


def _scale(axis: Any) -> None:  # noqa: ANN401 - matplotlib's axes
    """From zero, so that twice as much looks like it; where values differ by more than 20 times, in decades."""
    values = [float(y) for line in axis.lines for y in line.get_ydata()]
    if max(values) > 20 * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
    else:
        axis.set_ylim(bottom=0)


def _rest(result: Result, across: str) -> str:
    """What a series has in common: everything that is not on the axis."""
    load = result.load
    parts = [result.contender]
    if not across.startswith("requests"):
        parts.append(f"{load.label} texts")
    else:
        parts.append(f"{load.batch} text{'s' if load.batch > 1 else ''} a request")
    if load.tokens and not across.startswith("tokens"):
        parts.append(f"{load.tokens} tokens")
    return ", ".join(parts)


def _shares(path: Path, results: Sequence[Result]) -> Path | None:
    if not results:
        return None
    figure = Figure(figsize=(9, 1.5 + 0.6 * len(results)), layout="constrained")
    axis = figure.subplots()
    names = [_name(each, results) for each in results]
    for offset, kind in ((-0.2, "forward"), (0.2, "overall")):
        spreads = [getattr(each.matmul, kind) for each in results]
        medians = [100 * each.median for each in spreads]
        margins = [
            [100 * (each.median - each.min) for each in spreads],
            [100 * (each.max - each.median) for each in spreads],
        ]
        label = "of the time in forward passes" if kind == "forward" else "of the whole time"
        places = [place + offset for place in range(len(results))]
        bars = axis.barh(places, medians, 0.38, xerr=margins, label=label)
        axis.bar_label(bars, [f"{each:.0f} %" for each in medians], padding=4, fontsize="small")
    axis.set_yticks(range(len(results)), names)
    axis.invert_yaxis()
    axis.axvline(100, color="black", linewidth=0.8)
    axis.set_xlabel("share of the measured matrix-multiply rate, in %")
    axis.set_title("MatmulShare of the matrix-multiply rate at the model's own shapes")
    axis.set_xlim(0, 115 * max(1.0, *(share.max for each in results if each.matmul for share in _both(each.matmul))))
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return path


def _both(share: MatmulShare) -> tuple[Spread, Spread]:
    return share.forward, share.overall


def _name(result: Result, results: Sequence[Result]) -> str:
    many = len({each.contender for each in results}) > 1
    tokens = f", {result.load.tokens} tokens" if result.load.tokens else ""
    return f"{result.contender}\n{result.load.label}{tokens}" if many else f"{result.load.label}{tokens}"


def _texts(result: Result) -> float | None:
    return result.texts_per_second.median


def _tokens(result: Result) -> float | None:
    return result.tokens_per_second.median if result.tokens_per_second else None


def _latency(name: str) -> Callable[[Result], float | None]:
    return lambda each: getattr(each.latency_ms, name) if each.latency_ms else None
