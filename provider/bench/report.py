"""What a run came to, as the JSON file has it; table and plots are drawn from the same."""

import os
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import provider
from provider.bench.figures import Latency, Spread
from provider.bench.messages import Load, Outcome
from provider.bench.processes import ContenderProcess
from provider.bench.rounds import Outcomes, Schedule
from provider.cores import available_cores


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the load came from; servers may run elsewhere."""

    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str


class Method(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it was measured."""

    seconds: float
    rounds: int
    warm_up_seconds: float
    texts: str
    repeats_texts: bool
    truncate: str | None
    seed: int


class ContenderInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A contender and what it says of itself."""

    name: str
    kind: str
    facts: dict[str, Any]


class MatmulShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parts of the measured matrix-multiply rate, 0 to 1.

    Attributes:
        overall: operations of the forward passes, per second of the slice.
        forward: the same, per second that lanes spent in forward passes: what the backend makes of its time.
        flops_per_second: the matrix-multiply rate itself, all lanes together.
        dtype: in which dtype it was measured.
    """

    overall: Spread
    forward: Spread
    flops_per_second: Spread
    dtype: str


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One contender under one load.

    Attributes:
        tokens_per_text: mean; None where a server does not say.
        requests_per_second: answered ones.
        latency_ms: of all answered requests of all rounds; None if there were none.
        ratio: texts per second to those of the first contender, round by round; None for the first one.
        latency_ratio: median latency, likewise.
        errors: requests that failed, by HTTP status or kind of failure, and `messages` of the first of each.
        lateness_ms: 99th percentile of how much too late requests of an open loop were sent.
        generator_cpu: cores that the load generator took, of a server's load; None for the others.
        rounds: texts per second of each round.
        rounds_p50_ms: median latency of each round; 0 where nothing was answered.
    """

    contender: str
    load: Load
    texts: int
    tokens_per_text: float | None
    texts_per_second: Spread
    tokens_per_second: Spread | None
    requests_per_second: Spread
    latency_ms: Latency | None
    ratio: Spread | None
    latency_ratio: Spread | None
    errors: dict[str, int]
    messages: dict[str, str]
    lateness_ms: float
    generator_cpu: float | None
    matmul: MatmulShare | None
    note: str
    rounds: list[float]
    rounds_p50_ms: list[float]


class BenchReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole run. `version` is this product's."""

    version: str
    started: datetime
    machine: Machine
    method: Method
    contenders: list[ContenderInfo]
    results: list[Result]

    def of(self, load: Load) -> list[Result]:
        """The results under one load, in the order of the contenders."""
        return [each for each in self.results if each.load == load]

    @property
    def loads(self) -> list[Load]:
        """In the order in which they were asked for."""
        return list(dict.fromkeys(each.load for each in self.results))


def build_report(
    contenders: Sequence[ContenderProcess],
    loads: Sequence[Load],
    outcomes: Outcomes,
    *,
    schedule: Schedule,
    texts: str,
    started: datetime,
    repeats_texts: bool = False,
    truncate: str | None = None,
) -> BenchReport:
    """Figures from outcomes."""
    first = contenders[0]
    results = [
        _result(each, load, outcomes[load, each.name], None if each is first else outcomes[load, first.name])
        for load in loads
        for each in contenders
    ]
    method = Method(
        schedule.seconds, schedule.rounds, schedule.warm_up_seconds, texts, repeats_texts, truncate, schedule.seed
    )
    about = [ContenderInfo(each.name, each.kind, each.facts) for each in contenders]
    return BenchReport(provider.__version__, started.astimezone(UTC), this_machine(), method, about, results)


def _result(
    contender: ContenderProcess, load: Load, mine: Sequence[Outcome], first: Sequence[Outcome] | None
) -> Result:
    rates = [_rate(each, each.texts) for each in mine]
    errors: Counter[str] = Counter()
    messages: dict[str, str] = {}
    for each in mine:
        errors.update(each.errors)
        messages = {**each.messages, **messages}
    knows_tokens = all(each.tokens is not None for each in mine if each.texts) and any(each.texts for each in mine)
    texts, tokens = sum(each.texts for each in mine), sum(each.tokens or 0 for each in mine)
    return Result(
        contender=contender.name,
        load=load,
        texts=texts,
        tokens_per_text=tokens / texts if knows_tokens else None,
        texts_per_second=_spread(rates),
        tokens_per_second=_spread([_rate(each, each.tokens or 0) for each in mine]) if knows_tokens else None,
        requests_per_second=_spread([_rate(each, each.requests) for each in mine]),
        latency_ms=Latency.of(us for each in mine for us in each.latencies_us),
        ratio=Spread.of_ratios(rates, [_rate(each, each.texts) for each in first]) if first else None,
        latency_ratio=Spread.of_ratios([*map(_p50, mine)], [*map(_p50, first)]) if first else None,
        errors=dict(errors),
        messages=messages,
        lateness_ms=max(each.lateness_us for each in mine) / 1000,
        generator_cpu=max(_rate(each, each.cpu_seconds) for each in mine) if contender.kind == "server" else None,
        matmul=_share(mine),
        note=next((each.note for each in mine if each.note), ""),
        rounds=rates,
        rounds_p50_ms=[*map(_p50, mine)],
    )


def _share(outcomes: Sequence[Outcome]) -> MatmulShare | None:
    found = [(each.forward, each.seconds) for each in outcomes if each.forward is not None]
    if not found:
        return None
    return MatmulShare(
        overall=_spread([each.flops / seconds / each.matmul_flops_per_second for each, seconds in found]),
        forward=_spread([each.flops / each.seconds * each.lanes / each.matmul_flops_per_second for each, _ in found]),
        flops_per_second=_spread([each.matmul_flops_per_second for each, _ in found]),
        dtype=found[0][0].matmul_dtype,
    )


def _rate(outcome: Outcome, amount: float) -> float:
    return amount / outcome.seconds if outcome.seconds else 0.0


def _p50(outcome: Outcome) -> float:
    latency = Latency.of(outcome.latencies_us)
    return latency.p50 if latency else 0.0


def _spread(values: list[float]) -> Spread:
    found = Spread.of(values)
    assert found is not None  # noqa: S101 - there is at least one round
    return found


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """What a reader wants to know of it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return Machine(
        processor=name or platform.processor() or platform.machine(),
        cores=available_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )
