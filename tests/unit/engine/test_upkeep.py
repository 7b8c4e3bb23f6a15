"""Hung lanes, failed loads, idle models and memory, on fake backends and a clock that a test moves."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from attrs import define, evolve, field
from waiting import PATIENCE_SECONDS, until, until_set

from provider.backends import BackendOptions, Memory
from provider.domain import Embedded, EmbedRequest, ModelSpec, Outputs, TokenBatch
from provider.engine import upkeep
from provider.engine.engine import Engine
from provider.engine.hooks import Event, Hooks, ModelChanged, ModelNoticed, ModelState
from provider.engine.probing import FAILURES_UNTIL_PROBED
from provider.errors import EmbeddingFailed, ModelFailed, ModelLoading, ModelStalled
from provider.settings import CacheSettings, MemorySettings, ModelSettings, QueueSettings, Settings
from provider.testing import FakeBackend, TickingClock

OFF = CacheSettings(enabled=False)
WEIGHTS = 90_868_376  # bytes of the packaged model's


@define
class Hanging:
    thread: str = ""
    begun: threading.Event = field(factory=threading.Event)
    go: threading.Event = field(factory=threading.Event)


@asynccontextmanager
async def opened(
    *models: ModelSettings, clock: TickingClock, events: list[Event] | None = None, **sections: Any
) -> AsyncIterator[Engine]:
    first, *further = models
    settings = Settings(model=first, models=further, cache=OFF, **sections)
    service = Engine(settings, Hooks(*([events.append] if events is not None else [])), clock=clock).start()
    try:
        for runtime in service.runtimes.values():
            if not runtime.settings.lazy:
                await runtime.start_loading()
        yield service
    finally:
        for runtime in service.runtimes.values():
            if runtime.loaded is not None:
                backend(service, runtime.name).gate.set()
        await service.close()


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


def fake(minilm: Path, name: str = "m", **fields: Any) -> ModelSettings:
    return ModelSettings(name=name, path=str(minilm), backend="fake", tune=False, **fields)


def backend(service: Engine, name: str) -> FakeBackend:
    loaded = service.runtimes[name].loaded
    assert loaded is not None
    assert isinstance(loaded.backend, FakeBackend)
    return loaded.backend


def embed(service: Engine, text: str, model: str = "m") -> "asyncio.Task[Embedded]":
    return asyncio.create_task(service.embed(EmbedRequest(model, (text,))))


async def hold(service: Engine, text: str) -> "asyncio.Task[Embedded]":
    """A request that is in a forward pass until the gate opens."""
    backend(service, "m").gate.clear()
    backend(service, "m").started.clear()
    task = embed(service, text)
    await until_set(backend(service, "m").started)
    # The other lanes have come back from the warm-up, and are not taken for hung when the clock moves.
    lanes = service.runtimes["m"].lanes
    await until(lambda: lanes is not None and lanes.stalled(-1) == 1)
    return task


async def test_rows_of_a_hung_lane_fail_and_the_other_lane_serves(minilm: Path, clock: TickingClock) -> None:
    async with opened(fake(minilm, lanes=2), clock=clock) as service:
        runtime, stalled = service.runtimes["m"], []
        service.upkeep.on_stalled = stalled.append
        hung = await hold(service, "hangs")
        clock.advance(121)
        await service.upkeep.look()
        with pytest.raises(ModelStalled):
            await hung
        assert (service.problems, stalled) == ({}, [])
        assert runtime.degraded == "1 of 2 lanes: a forward pass runs for more than 120 s"
        gate, backend(service, "m").gate = backend(service, "m").gate, threading.Event()
        backend(service, "m").gate.set()
        assert (await embed(service, "served")).usage.inputs == 1
        gate.set()
        await until(lambda: runtime.degraded is None)


async def test_where_every_lane_hangs_what_waits_fails_too_and_the_server_is_told(
    minilm: Path, clock: TickingClock
) -> None:
    async with opened(fake(minilm, lanes=1), clock=clock, queue=QueueSettings(stall_seconds=7)) as service:
        stalled: list[str] = []
        service.upkeep.on_stalled = stalled.append
        hung = await hold(service, "hangs")
        waiting = embed(service, "waits")
        await until(lambda: service.runtimes["m"].waiting[0])
        clock.advance(8)
        await service.upkeep.look()
        for each in (hung, waiting):
            with pytest.raises(ModelStalled):
                await each
        assert stalled == ["m"]
        assert service.problems == {"m": "1 of 1 lanes: a forward pass runs for more than 7 s"}
        backend(service, "m").gate.set()
        await until(lambda: not service.problems)
        assert (await embed(service, "after")).usage.inputs == 1


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """Forward passes hang on threads whose name begins with `thread`, until `go` is set."""
    hanging, run = Hanging(), FakeBackend.run

    def hang(backend: FakeBackend, batch: TokenBatch) -> Outputs:
        if hanging.thread and threading.current_thread().name.startswith(hanging.thread):
            hanging.begun.set()
            assert hanging.go.wait(PATIENCE_SECONDS)
        return run(backend, batch)

    monkeypatch.setattr(FakeBackend, "run", hang)
    yield hanging
    hanging.go.set()


@pytest.mark.parametrize(("thread", "lazy"), [("load m", False), ("m lane", False), ("load m", True)])
async def test_a_load_in_which_a_pass_hangs_fails_and_the_server_is_told(
    minilm: Path, clock: TickingClock, hanging: Hanging, thread: str, lazy: bool
) -> None:
    hanging.thread, stalled = thread, list[str]()
    service = Engine(Settings(model=fake(minilm, lazy=lazy), cache=OFF), Hooks(), clock=clock).start()
    service.upkeep.on_stalled = stalled.append
    try:
        runtime = service.runtimes["m"]
        loading = runtime.start_loading()
        await until_set(hanging.begun)
        clock.advance(119)
        await service.upkeep.look()
        assert (runtime.state, stalled) == (ModelState.LOADING, [])
        clock.advance(2)
        await service.upkeep.look()
        await asyncio.wait_for(loading, PATIENCE_SECONDS)
        assert (runtime.state, stalled) == (ModelState.FAILED, ["m"])
        assert runtime.problem == "a forward pass hangs: it has been running for more than 120 s"
        # What hangs is not loaded again beside it.
        clock.advance(10_000)
        await service.upkeep.look()
        assert (runtime.state, stalled) == (ModelState.FAILED, ["m"])
    finally:
        hanging.go.set()
        await service.close()


@pytest.mark.parametrize("name", ["late", "m"])
async def test_a_model_that_hangs_when_it_is_added_or_replaced_leaves_those_that_serve(
    minilm: Path, clock: TickingClock, hanging: Hanging, name: str
) -> None:
    async with opened(fake(minilm), clock=clock) as service:
        stalled: list[str] = []
        service.upkeep.on_stalled = stalled.append
        hanging.thread = f"load {name}"
        models = {"m": fake(minilm)} | {name: fake(minilm, name, lanes=1)}
        first, *further = models.values()
        service.reconfigure(Settings(model=first, models=further, cache=OFF))
        await until_set(hanging.begun)
        clock.advance(121)
        await service.upkeep.look()
        if name == "late":
            await until(lambda: service.runtimes[name].state is ModelState.FAILED)
        assert (stalled, service.problems) == ([], {})
        assert (await embed(service, "served")).usage.inputs == 1


async def test_an_eager_model_that_failed_is_tried_again_after_longer_and_longer_pauses(
    minilm: Path, tmp_path: Path, clock: TickingClock
) -> None:
    events: list[Event] = []
    late = fake(tmp_path / "late", "late")
    async with opened(fake(minilm), late, clock=clock, events=events) as service:
        runtime = service.runtimes["late"]
        tries = 1
        for pause in (5, 10, 20):
            assert runtime.state is ModelState.FAILED
            clock.advance(pause - 1)
            await service.upkeep.look()
            assert runtime.use.failures == tries
            if pause == 20:
                shutil.copytree(minilm, tmp_path / "late")
            clock.advance(1)
            await service.upkeep.look()
            assert "late" in service.problems
            await runtime.start_loading()
            tries += 1
        assert (runtime.state, service.problems) == (ModelState.READY, {})
        failures = [each for each in events if isinstance(each, ModelChanged) and each.state is ModelState.FAILED]
        assert [each.detail["retry_seconds"] for each in failures] == [5, 10, 20]


async def test_a_lazy_model_that_is_idle_is_unloaded_and_comes_back(minilm: Path, clock: TickingClock) -> None:
    lazy = fake(minilm, lazy=True, idle_unload_seconds=60)
    pinned = fake(minilm, "pinned", lazy=True, idle_unload_seconds=60, pinned=True)
    async with opened(lazy, pinned, clock=clock) as service:
        runtime = service.runtimes["m"]
        await asyncio.gather(embed(service, "first"), embed(service, "first", "pinned"))
        clock.advance(59)
        await service.upkeep.look()
        assert runtime.state is ModelState.READY
        running = await hold(service, "runs for a minute")
        clock.advance(61)
        await service.upkeep.look()
        assert runtime.state is ModelState.READY
        used = backend(service, "m")
        used.gate.set()
        await running
        clock.advance(60)
        await service.upkeep.look()
        assert (runtime.state, used.closed, runtime.use.bytes) == (ModelState.WAITING, 1, 0)
        assert service.runtimes["pinned"].state is ModelState.READY
        assert (await embed(service, "again")).usage.inputs == 1


async def test_a_backend_that_cannot_be_closed_is_told_and_harms_no_other(
    minilm: Path, clock: TickingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [fake(minilm, name, lazy=True, idle_unload_seconds=60) for name in ("m", "n")]
    async with opened(*models, clock=clock) as service:
        await asyncio.gather(embed(service, "text"), embed(service, "text", "n"))
        monkeypatch.setattr(backend(service, "m"), "close", lambda: 1 / 0)
        clock.advance(60)
        await service.upkeep.look()
        assert {runtime.state for runtime in service.runtimes.values()} == {ModelState.WAITING}
        told = "closing its backend failed: ZeroDivisionError: division by zero"
        assert service.runtimes["m"].notices == (told,)


async def test_a_model_that_was_unloaded_while_it_was_probed_is_probed_again(minilm: Path, clock: TickingClock) -> None:
    async with opened(fake(minilm, lazy=True, lanes=1), clock=clock) as service:
        runtime = service.runtimes["m"]
        await embed(service, "loads")
        holding, probed = await hold(service, "holds the lane"), backend(service, "m")
        runtime.prober.look(FAILURES_UNTIL_PROBED)
        await until(lambda: runtime.waiting[0])
        unloading = asyncio.create_task(runtime.unload("test"))
        await until(lambda: runtime.lanes is None)
        probed.gate.set()
        await unloading
        await holding
        await embed(service, "loads again")
        backend(service, "m").failing = True
        for i in range(FAILURES_UNTIL_PROBED):
            with pytest.raises(EmbeddingFailed):
                await embed(service, f"text {i}")
        await until(lambda: runtime.prober.has_failed)


async def test_the_least_recently_used_idle_model_makes_room(minilm: Path, clock: TickingClock) -> None:
    models = [fake(minilm, name, lazy=True) for name in ("a", "b", "c")]
    # Whatever else the process allocates while they load, two of them fit and three do not.
    budget = MemorySettings(max_model_bytes=int(2.9 * WEIGHTS))
    async with opened(*models, clock=clock, memory=budget) as service:

        async def use(name: str) -> None:
            await embed(service, "text", name)
            service.runtimes[name].use.bytes = WEIGHTS
            clock.advance(1)

        for name in ("a", "b", "a", "c"):
            await use(name)
        states = {name: runtime.state for name, runtime in service.runtimes.items()}
        assert states == {"a": ModelState.READY, "b": ModelState.WAITING, "c": ModelState.READY}


async def test_a_model_waits_for_the_room_of_others_that_are_in_use(
    minilm: Path, clock: TickingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_ROOM_SECONDS", 0.5)
    events: list[Event] = []
    models = [fake(minilm, "m", lazy=True), fake(minilm, "other", lazy=True)]
    budget = MemorySettings(max_model_bytes=int(1.9 * WEIGHTS))
    async with opened(*models, clock=clock, memory=budget, events=events) as service:
        await embed(service, "text")
        service.runtimes["m"].use.bytes = WEIGHTS
        held = await hold(service, "held")
        # For so long, and then it has not failed: it is tried again by whoever asks next.
        with pytest.raises(ModelLoading):
            await embed(service, "text", "other")
        assert service.runtimes["other"].state is ModelState.WAITING
        assert [each.model for each in events if isinstance(each, ModelNoticed) and "in use" in each.notice] == [
            "other"
        ]
        monkeypatch.setattr(upkeep, "_ROOM_SECONDS", PATIENCE_SECONDS)
        waiting = embed(service, "text", "other")
        await until(lambda: service.runtimes["other"].state is ModelState.LOADING)
        backend(service, "m").gate.set()
        assert (await held).usage.inputs == (await waiting).usage.inputs == 1
        assert service.runtimes["m"].state is ModelState.WAITING


async def test_a_model_for_which_no_other_can_leave_is_refused_with_the_sum(minilm: Path, clock: TickingClock) -> None:
    budget = MemorySettings(max_model_bytes=int(1.5 * WEIGHTS))
    async with opened(fake(minilm), fake(minilm, "b", lazy=True), clock=clock, memory=budget) as service:
        service.runtimes["m"].use.bytes = WEIGHTS
        with pytest.raises(ModelFailed):
            await embed(service, "text", "b")
        failure = service.runtimes["b"].failure
        assert failure is not None
        assert f"loaded models hold {WEIGHTS} of {budget.max_model_bytes}" in failure.message
        assert not service.problems


class OnDevice(FakeBackend):
    """A backend whose models are in a device's memory: so many bytes each, by `device`."""

    held: ClassVar[dict[str, int]] = {}

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Take the memory."""
        made = super().load(spec, evolve(options, device="auto"))
        made.place = f"card:{options.worker}"
        cls.held[made.place] = cls.held.get(made.place, 0) + WEIGHTS
        return made

    @classmethod
    def device_memory(cls, options: BackendOptions) -> Memory:
        """What is held."""
        place = f"card:{options.worker}"
        return Memory(place, cls.held.get(place, 0), int(3.7 * WEIGHTS))

    def close(self) -> None:
        """Give it back."""
        super().close()
        type(self).held[self.place] -= WEIGHTS


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> type[OnDevice]:
    monkeypatch.setattr(OnDevice, "held", {})
    monkeypatch.setattr("provider.engine.finding.find_backend", lambda _: OnDevice)
    return OnDevice


@pytest.mark.parametrize("budget", [None, int(2.5 * WEIGHTS)], ids=["80 % of the device", "configured"])
async def test_models_in_a_devices_memory_share_that(
    minilm: Path, clock: TickingClock, on_device: type[OnDevice], budget: int | None
) -> None:
    models = [fake(minilm, name, lazy=True) for name in ("a", "b", "c")]
    # What the process may hold does not matter.
    memory = MemorySettings(max_model_bytes=1, max_device_bytes=budget)
    async with opened(*models, clock=clock, memory=memory) as service:
        for name in ("a", "b", "a", "c"):
            await embed(service, "text", name)
            clock.advance(1)
        states = {name: runtime.state for name, runtime in service.runtimes.items()}
        assert states == {"a": ModelState.READY, "b": ModelState.WAITING, "c": ModelState.READY}
        assert {name: runtime.use.bytes for name, runtime in service.runtimes.items()} == {
            "a": WEIGHTS,
            "b": 0,
            "c": WEIGHTS,
        }
        assert on_device.held == {"card:0": 2 * WEIGHTS}


async def test_a_device_that_is_full_is_told_with_its_setting(
    minilm: Path, clock: TickingClock, on_device: type[OnDevice]
) -> None:
    memory = MemorySettings(max_device_bytes=int(1.5 * WEIGHTS))
    async with opened(fake(minilm), fake(minilm, "b", lazy=True), clock=clock, memory=memory) as service:
        with pytest.raises(ModelFailed):
            await embed(service, "text", "b")
        failure = service.runtimes["b"].failure
        assert failure is not None
        assert f"hold {WEIGHTS} of {memory.max_device_bytes}" in failure.message
        assert "raise memory.max_device_bytes" in failure.message
        assert on_device.held == {"card:0": WEIGHTS}


async def test_free_memory_is_given_back_again_and_again(
    minilm: Path, clock: TickingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(upkeep, "_TICK_SECONDS", 0.001)
    monkeypatch.setattr(upkeep, "_TICKS_UNTIL_TRIM", 3)
    monkeypatch.setattr(upkeep, "give_memory_back", lambda: given.append(threading.current_thread().name))
    async with opened(fake(minilm), clock=clock):
        await until(lambda: len(given) > 2)
    assert threading.main_thread().name not in given
