"""The report in a terminal."""

from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from provider.bench.figures import Spread
from provider.bench.report import BenchReport, ContenderInfo, Result

# A load generator this busy, or this late, is part of what was measured.
_BUSY_CORES, _LATE_MS = 0.8, 5.0
# Where nobody looks at a terminal's edge, lines are as long as they are.
_WIDE = 200

Column = tuple[str, Callable[[Result], str]]


def show(report: BenchReport, console: Console | None = None) -> None:
    """Print who took part, the figures, and what a reader should know before believing them."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    machine, method = report.machine, report.method
    console.print(
        f"{machine.processor}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB; "
        f"{method.rounds} rounds of {method.seconds:g} s; texts: {method.texts}"
    )
    for each in report.contenders:
        console.print(f"{each.name}: {_facts(each)}")
    console.print(_table(report))
    for line in _remarks(report):
        console.print(line, soft_wrap=True)


def _facts(about: ContenderInfo) -> str:
    facts = dict(about.facts)
    lanes, threads = facts.pop("lanes", None), facts.pop("threads_per_lane", None)
    seconds, size = facts.pop("load_seconds", None), facts.pop("peak_bytes", None)
    parts = [str(value) for value in facts.values()]
    parts += [f"{lanes} lanes of {threads} threads"] if lanes else []
    parts += [f"loaded in {seconds:.1f} s"] if seconds is not None else []
    parts += [f"{size / 2**20:.0f} MiB of memory at most while loading"] if size is not None else []
    return ", ".join(parts)


def _table(report: BenchReport) -> Table:
    table = Table(box=box.SIMPLE, header_style="", pad_edge=False)
    columns = list(_columns(report))
    for i, (title, _) in enumerate(columns):
        table.add_column(title, justify="left" if i < 2 else "right", no_wrap=True)
    for load in report.loads:
        for result in report.of(load):
            table.add_row(*(cell(result) for _, cell in columns))
        if len(report.contenders) > 1:
            table.add_section()
    return table


def _columns(report: BenchReport) -> Iterator[Column]:
    """Those that have something to say."""
    results = report.results
    yield "requests x texts", lambda each: each.load.label
    if len(report.contenders) > 1:
        yield "contender", lambda each: each.contender
    if any(each.tokens_per_text for each in results):
        yield "tokens\na text", lambda each: f"{each.tokens_per_text:.1f}" if each.tokens_per_text else "-"
    if any(each.load.rate for each in results):
        yield "answered/s\n(of asked)", _achieved
    yield "texts/s\n(min..max)", lambda each: _spread(each.texts_per_second, _number)
    if any(each.tokens_per_second for each in results):
        yield "tokens/s", lambda each: _number(each.tokens_per_second.median) if each.tokens_per_second else "-"
    for name in ("p50", "p95", "p99", "max"):
        yield f"{name}\nms", _latency(name)
    if any(each.matmul for each in results):
        yield "of matmul\noverall", lambda each: f"{each.matmul.overall.median:.0%}" if each.matmul else "-"
        yield "of matmul\nin forward", lambda each: f"{each.matmul.forward.median:.0%}" if each.matmul else "-"
    if len(report.contenders) > 1:
        first = report.contenders[0].name
        yield f"ratio to {first}\n(min..max)", lambda each: "1" if each.contender == first else _ratio(each)
    yield "errors", lambda each: ", ".join(f"{kind}: {count}" for kind, count in each.errors.items()) or "0"


def _achieved(result: Result) -> str:
    rate = result.load.rate
    return (
        f"{_number(result.requests_per_second.median)} ({result.requests_per_second.median / rate:.0%})"
        if rate
        else "-"
    )


def _latency(name: str) -> Callable[[Result], str]:
    return lambda each: _number(getattr(each.latency_ms, name)) if each.latency_ms else "-"


def _ratio(result: Result) -> str:
    # The rate of an open loop is the one that was asked for; what differs is how long an answer takes.
    spread = result.ratio if result.load.rate is None else result.latency_ratio
    if spread is None:
        return "-"
    return _spread(spread, lambda number: f"{number:.2f}") + ("" if result.load.rate is None else " p50")


def _remarks(report: BenchReport) -> Iterator[str]:
    shares = [each.matmul for each in report.results if each.matmul]
    for dtype in dict.fromkeys(share.dtype for share in shares):
        rates = Spread.of(share.flops_per_second.median / 1e9 for share in shares if share.dtype == dtype)
        if rates:
            yield f"matrix-multiply rate measured at the model's shapes, {dtype}: {_spread(rates, _number)} GFLOP/s"
    for name, note in dict.fromkeys((each.contender, each.note) for each in report.results if each.note):
        yield f"{name}: {note}"
    said: dict[tuple[str, str], str] = {}
    for each in report.results:
        for kind, text in each.messages.items():
            said.setdefault((each.contender, kind), text)
    for (name, kind), text in said.items():
        yield f"{name}, first {kind}: {text}"
    for about in report.contenders:
        theirs = [each for each in report.results if each.contender == about.name]
        busiest = max(theirs, key=lambda each: each.generator_cpu or 0.0)
        if (cores := busiest.generator_cpu or 0.0) > _BUSY_CORES:
            yield (
                f"{about.name}: the load generator took {cores:.2f} of a core ({busiest.load.label}); "
                "the server may be faster than this"
            )
        latest = max(theirs, key=lambda each: each.lateness_ms)
        if latest.lateness_ms > _LATE_MS:
            yield (
                f"{about.name}: requests were sent up to {latest.lateness_ms:.0f} ms late (p99, {latest.load.label}), "
                "the machine was busy; latencies count from when they were due"
            )


def _spread(spread: Spread, shown: Callable[[float], str]) -> str:
    return f"{shown(spread.median)} ({shown(spread.min)}..{shown(spread.max)})"


def _number(value: float) -> str:
    """Three digits, or all before the point, in groups of three."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
