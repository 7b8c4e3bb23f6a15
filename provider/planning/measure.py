"""Measures a `CostProfile` on this machine: forward passes side by side in process, then a server under load. Linux."""

import asyncio
import json
import math
import os
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from attrs import asdict, evolve, frozen
from numpy.typing import NDArray

from provider.backends import TokenBatch
from provider.bench.local_server import LocalServer
from provider.bench.messages import Load, Outcome, ServerSetup, Slice, Texts
from provider.bench.processes import ContenderProcess
from provider.bench.report import this_machine
from provider.bench.texts import SHIPPED
from provider.cores import available_cores
from provider.engine.engine import Engine
from provider.engine.loading import ModelParts
from provider.planning import load as simulated
from provider.planning.load import simulate_local
from provider.planning.profile import CostProfile, PassCost, RequestCost
from provider.settings import CacheSettings, Settings

# Tokens of the rows, and shares of a full batch of them.
_LENGTHS, _SHARES = (8, 32, 128), (0.0, 0.5, 1.0)
_ROUNDS = 7
_SLICE_SECONDS, _WARM_UP_SECONDS = 4.0, 1.0
_ADJUSTMENTS, _MOST_SIMULATED_SECONDS = 4, 20.0
# What many searches send, what indexing sends, and what few searches send.
_LOADS = (Load(batch=1, concurrency=64), Load(batch=32, concurrency=4), Load(batch=1, concurrency=3))


@frozen
class _Passes:
    """What the engine runs, and what a pass takes."""

    parts: ModelParts
    cost: PassCost
    spread: float


@frozen
class Served:
    """A closed loop, and the texts a second that were answered."""

    load: simulated.Load
    rate: float

    @classmethod
    def of(cls, load: Load, outcome: Outcome) -> Self:
        """What a load came to, as if all texts were as long as the mean."""
        mean = max(1, round((outcome.tokens or 0) / max(1, outcome.texts)))
        return cls(simulated.Load(load.batch, (mean,), concurrency=load.concurrency), outcome.texts / outcome.seconds)

    @property
    def seconds(self) -> float:
        """How long each caller takes for eight requests; infinite where nothing was answered."""
        request = (self.load.concurrency or 1) * self.load.batch
        return 8 * request / self.rate if self.rate else math.inf

    def simulated_rate(self, profile: CostProfile) -> float:
        """Texts a second by a profile."""
        seconds = max(2.0, self.seconds)
        return simulate_local(profile, self.load, seconds=seconds, warm_up=seconds / 4).texts_per_second

    def tells_of_passes(self, profile: CostProfile) -> bool:
        """Whether quicker passes would answer more; not known of a load that takes too long to simulate."""
        if self.seconds > _MOST_SIMULATED_SECONDS:
            return False
        quicker = msgspec.structs.replace(profile, forward=profile.forward.times(0.5))
        return self.simulated_rate(quicker) > 1.2 * self.simulated_rate(profile) > 0


def measure(settings: Settings, *, on_step: Callable[[str], None]) -> CostProfile:
    """What serving the model of `settings` costs here; takes about 30 s beside loading it twice.

    Args:
        settings: with one model.
        on_step: called with what is about to happen.

    Raises:
        ProviderError: the model cannot be loaded, or the server does not start.
    """
    settings = evolve(settings, cache=CacheSettings(enabled=False))
    on_step("measuring forward passes")
    passes = asyncio.run(_measure_passes(settings))
    on_step("measuring a server")
    with _server(settings) as (server, start_seconds):
        return _measure_server(server, settings, passes, start_seconds)


async def _measure_passes(settings: Settings) -> _Passes:
    async with Engine.open(settings) as engine:
        runtime = engine.runtimes[settings.model.served_name]
        await runtime.settled()
        parts = await runtime.ready()
        return await asyncio.to_thread(_passes, parts)


def _passes(parts: ModelParts) -> _Passes:
    """The costs that come nearest to the measured passes, relative to each; none is negative."""
    batches = [(length, rows) for length in _LENGTHS for rows in _rows(parts, length)]
    measured = [_pass_seconds(parts, length, rows) for length, rows in batches]
    seconds = np.array([statistics.median(each) for each in measured])
    spread = statistics.median(statistics.stdev(each) / statistics.median(each) for each in measured)
    # Of one pass each: 1, rows, tokens, pairs of tokens.
    shapes = np.array([(1, rows, rows * length, rows * length**2) for length, rows in batches], np.float64)
    cost = PassCost(*_not_negative(shapes / seconds[:, None], np.ones(len(batches))))
    return _Passes(parts, cost, round(spread, 3))


def _rows(parts: ModelParts, length: int) -> Sequence[int]:
    most = max(1, min(parts.limits.max_rows, parts.limits.max_tokens // length))
    return sorted({max(1, round(share * most)) for share in _SHARES})


def _pass_seconds(parts: ModelParts, length: int, rows: int) -> list[float]:
    """Of passes that all lanes run side by side, as under load.

    Where a pass is one thread, it is that thread's processor time: others may use the machine meanwhile.
    """
    chance, vocabulary = np.random.default_rng(0), parts.tokenizer.vocabulary.size
    ids = [chance.integers(1, vocabulary, length).astype(np.int32) for _ in range(rows)]
    batch = TokenBatch.of_rows(ids, outputs=parts.spec.outputs)
    together = threading.Barrier(parts.plan.lanes)
    is_one_thread = parts.backend.traits.device == "cpu" and parts.plan.threads == 1
    clock = time.thread_time if is_one_thread else time.perf_counter

    def run() -> list[float]:
        found = []
        for _ in range(_ROUNDS):
            together.wait()
            began = clock()
            parts.backend.run(batch)
            found.append(clock() - began)
        return found[1:]

    with ThreadPoolExecutor(parts.plan.lanes) as lanes:
        found = [lanes.submit(run) for _ in range(parts.plan.lanes)]
        return [each for lane in found for each in lane.result()]


def _not_negative(shapes: NDArray[np.float64], wanted: NDArray[np.float64]) -> list[float]:
    """Least squares; columns that would get a negative share are left out."""
    left = list(range(shapes.shape[1]))
    while True:
        found = np.linalg.lstsq(shapes[:, left], wanted, rcond=None)[0]
        if (found >= 0).all():
            costs = np.zeros(shapes.shape[1])
            costs[left] = found
            return [float(cost) for cost in costs]
        del left[int(found.argmin())]


@contextmanager
def _server(settings: Settings) -> Iterator[tuple[LocalServer, float]]:
    """A server with the model of `settings`, and the seconds that it took to be ready."""
    document = {
        "model": asdict(settings.model),
        "hub": asdict(settings.hub),
        "cache": {"enabled": False},
        "log": {"level": "ERROR"},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.yaml"
        file.write_text(json.dumps(document), encoding="utf-8")
        command = [sys.executable, "-m", "provider", "serve", "--port", "{port}", "--config", str(file)]
        # The settings have what the environment says already.
        env = dict.fromkeys((name for name in os.environ if name.startswith("EMB_PROVIDER_")), "")
        began = time.perf_counter()
        with LocalServer.running(command, env=env) as server:
            yield server, time.perf_counter() - began


def _measure_server(server: LocalServer, settings: Settings, passes: _Passes, start_seconds: float) -> CostProfile:
    texts = Texts(tuple(SHIPPED.read_text(encoding="utf-8").splitlines()))
    shapes: list[tuple[int, int]] = []
    server_seconds: list[float] = []
    client_seconds: list[float] = []
    served: list[Served] = []
    with ContenderProcess.start(ServerSetup(f"{server.origin}/v1", texts, truncate="end")) as contender:
        for load in _LOADS:
            seed = secrets.randbits(32)
            contender.run(Slice(load, _WARM_UP_SECONDS, seed))
            before = _loop_seconds(server)
            outcome = contender.run(Slice(load, _SLICE_SECONDS, seed + 1))
            shapes.append((outcome.requests, outcome.texts))
            server_seconds.append(_loop_seconds(server) - before)
            client_seconds.append(outcome.cpu_seconds)
            served.append(Served.of(load, outcome))
    parts = passes.parts
    profile = CostProfile(
        processor=this_machine().processor,
        cores=available_cores(),
        model=settings.model.served_name,
        backend=settings.model.backend,
        device=parts.backend.traits.device,
        dtype=parts.backend.traits.dtype,
        lanes=parts.plan.lanes,
        threads=parts.plan.threads,
        max_rows=parts.limits.max_rows,
        max_tokens=parts.limits.max_tokens,
        padding_is_free=parts.limits.padding_is_free,
        forward=passes.cost,
        server=RequestCost(*_not_negative(np.array(shapes, np.float64), np.array(server_seconds))),
        client=RequestCost(*_not_negative(np.array(shapes, np.float64), np.array(client_seconds))),
        memory_bytes=server.resident_bytes(),
        start_seconds=round(start_seconds, 2),
        spread=passes.spread,
        max_length=parts.spec.max_tokens,
    )
    *many, few = served
    return as_served(profile, many, few)


def as_served(profile: CostProfile, many: Sequence[Served], few: Served) -> CostProfile:
    """`profile` with passes that take as long as the measured rates say.

    Beside an event loop, a tokeniser and a client a pass takes longer than beside other passes, as they share caches;
    and its thread is woken up, waits for the interpreter, and hands its rows over.

    Args:
        profile: passes as measured in process.
        many: closed loops that fill batches; they say how much longer all of a pass takes.
        few: one of passes over a row or two, which says how much longer every pass takes.

    Loads that something else than passes holds back say nothing, nor do those of a model that takes seconds for a text.
    """
    many = [each for each in many if each.tells_of_passes(profile)]
    for _ in range(_ADJUSTMENTS if many and few.tells_of_passes(profile) else 0):
        longer = statistics.geometric_mean(each.simulated_rate(profile) / each.rate for each in many)
        forward = profile.forward.times(longer)
        profile = msgspec.structs.replace(profile, forward=forward)
        missing = (few.simulated_rate(profile) / few.rate - 1) * profile.pass_seconds(few.load.lengths)
        each = max(0.0, forward.each + missing)
        profile = msgspec.structs.replace(profile, forward=msgspec.structs.replace(forward, each=each))
    return profile


def _loop_seconds(server: LocalServer) -> float:
    """Processor time of the main thread, which runs the event loop."""
    return int(Path(f"/proc/{server.pid}/task/{server.pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9
