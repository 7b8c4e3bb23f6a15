"""Backends that change while they serve: lanes come and go, and they are closed when nothing improves them."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from waiting import PATIENCE_SECONDS, until, until_set

from provider.backends import BackendOptions, ModelSpec, RunsPasses
from provider.domain import EmbedRequest, Features
from provider.engine import running
from provider.engine.lanes import Lanes
from provider.engine.limits import BatchLimits
from provider.engine.rows import Row, Ticket
from provider.engine.scheduler import Scheduler
from provider.settings import ModelSettings, Settings
from provider.testing import FakeBackend, packaged_minilm

LOAD = FakeBackend.__dict__["load"].__func__


def opened(backend: FakeBackend) -> Lanes:
    return Lanes(
        backend,
        Scheduler(BatchLimits(1, 64), max_tokens=10_000, max_wait_seconds=60),
        check=lambda outputs, batch: None,
        count=1,
        name="followed",
        on_batch=lambda _: None,
    )


def lane_threads(model: str = "followed") -> int:
    return sum(thread.name.startswith(f"{model} lane") for thread in threading.enumerate())


async def test_lanes_come_and_go_while_passes_run() -> None:
    backend = FakeBackend()
    backend.gate.clear()
    lanes = opened(backend)
    lanes.start()
    rows: list[Any] = [Row(Features(np.full(8, 7, np.int32))) for _ in range(6)]
    ticket = Ticket(rows)
    try:
        lanes.submit(rows)
        await until_set(backend.started)
        assert (lanes.waiting_rows, lane_threads()) == (5, 1)
        await asyncio.to_thread(lanes.change_count, 4)
        await until(lambda: lanes.waiting_rows == 2)
        assert lanes.count == 4
        lanes.change_count(2)
        assert lanes.count == 2
        backend.gate.set()
        await asyncio.wait_for(ticket.wait(), PATIENCE_SECONDS)
        await until(lambda: lane_threads() == 2)
    finally:
        backend.gate.set()
        await lanes.close()


class Elsewhere(FakeBackend):
    """Passes on through the lanes what it is told of other processes."""

    lanes: RunsPasses | None = None

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> "Elsewhere":
        found: Elsewhere = LOAD(cls, spec, options)
        found.traits = evolve(found.traits, device="elsewhere", fingerprint="0123456789abcdef", lanes=3)
        return found

    def follow(self, lanes: RunsPasses) -> None:
        self.lanes = lanes


async def test_a_backend_may_follow_its_lanes_and_have_the_fingerprint_from_elsewhere(
    open_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "load", Elsewhere.load)
    model = ModelSettings(name="m", path=str(packaged_minilm()), backend="fake")
    async with open_service(Settings(model=model)) as engine:
        answer = await engine.embed(EmbedRequest("m", ("hello",)))
        assert answer.fingerprint == "0123456789abcdef"
        loaded = engine.runtimes["m"].loaded
        assert loaded is not None
        assert isinstance(loaded.backend, Elsewhere)
        assert engine.runtimes["m"].lanes.count == 3
        assert loaded.backend.lanes is engine.runtimes["m"].lanes
        loaded.backend.lanes.change_count(5)
        assert engine.runtimes["m"].lanes.count == 5


class Improving(FakeBackend):
    """Its improvement begins, and takes until it is told to end."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.improving, self.improved = threading.Event(), threading.Event()

    def improvements(self) -> Iterator[Callable[[], None]]:
        self.improving.set()
        assert self.improved.wait(PATIENCE_SECONDS)
        assert not self.closed
        yield lambda: None

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> "Improving":
        found: Improving = LOAD(cls, spec, options)
        return found


async def test_a_backend_is_not_closed_while_it_is_improved(open_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeBackend, "load", Improving.load)
    monkeypatch.setattr(running, "_END_SECONDS", PATIENCE_SECONDS)
    model = ModelSettings(name="m", path=str(packaged_minilm()), backend="fake")
    async with open_service(Settings(model=model), wait=False) as engine:
        runtime = engine.runtimes["m"]
        await until(lambda: runtime.loaded is not None)
        backend = runtime.loaded.backend
        await until_set(backend.improving)
        closing = asyncio.create_task(engine.close())
        await until(lambda: not lane_threads("m"))
        assert not closing.done()
        assert not backend.closed
        backend.improved.set()
        await asyncio.wait_for(closing, PATIENCE_SECONDS)
        assert backend.closed
