"""The cache's second level: hits of all kinds, a store that is slow, broken or full, and what listeners are told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import until

from provider.domain import DENSE, MULTI_VECTOR, SPARSE, CacheKey, EmbedRequest, ScoreRequest
from provider.engine.engine import Engine
from provider.engine.guarded_store import GuardedStore
from provider.engine.hooks import Event, StoreChanged, StoreRead, StoreWritten
from provider.engine.stored_outputs import StoredOutputs
from provider.settings import CacheSettings, ModelSettings, Settings, StoreSettings
from provider.testing import FakeVectorStore, TickingClock
from provider.testing.tiny import tiny_bert, tiny_bge_m3, tiny_classifier
from provider.vector_stores.entries import encode

VECTOR = {DENSE: np.array([1.0, 2.0], np.float32)}


@pytest.fixture
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "stores-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stores\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[provider.vector_stores]\nfake = provider.testing:FakeVectorStore\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


Opened = Callable[..., AbstractAsyncContextManager[tuple[Engine, list[Event]]]]


@pytest.fixture
def opened(_site: None, request: pytest.FixtureRequest) -> Opened:
    """Engines with a fake backend that share one fake store."""

    @asynccontextmanager
    async def open_one(folder: Path, **cache: Any) -> AsyncIterator[tuple[Engine, list[Event]]]:
        store = StoreSettings("fake", url=request.node.nodeid, timeout_ms=60_000)
        model = ModelSettings(name="m", path=str(folder), backend="fake")
        events: list[Event] = []
        settings = Settings(model=model, cache=CacheSettings(store=store, **cache))
        async with Engine.open(settings, events.append) as engine:
            yield engine, events

    return open_one


def total(events: list[Event], name: str) -> int:
    return sum(getattr(each, name, 0) for each in events if isinstance(each, StoreRead | StoreWritten))


async def test_what_one_engine_computed_another_finds(opened: Opened, tmp_path: Path) -> None:
    request = EmbedRequest("m", ("the cat", "the dog", "the cat"))
    async with opened(tiny_bert(tmp_path / "model")) as (engine, events):
        first = await engine.embed(request)
        assert first.usage[2:] == (0, 0)
        await until(lambda: total(events, "written") == 2)
    async with opened(tmp_path / "model") as (engine, events):
        again = await engine.embed(EmbedRequest("m", ("the mat", *request.inputs)))
        assert again.usage == (4, again.usage.tokens, 3, 3)
        assert (total(events, "found"), total(events, "missing"), total(events, "corrupt")) == (2, 1, 0)
        np.testing.assert_array_equal(again.vectors[1:], first.vectors)
        assert again.timings.store_seconds > 0
        # Now the first level has them.
        for _ in range(2):
            third = await engine.embed(request)
            assert third.usage[2:] == (3, 0)
            assert third.timings.store_seconds == 0
        assert total(events, "found") == 2


async def test_sparse_and_token_vectors_are_kept_too(opened: Opened, tmp_path: Path) -> None:
    request = EmbedRequest("m", ("the cat",), outputs=(DENSE, SPARSE, MULTI_VECTOR))
    async with opened(tiny_bge_m3(tmp_path / "model", pickled=False)) as (engine, events):
        first = await engine.embed(request)
        await until(lambda: total(events, "written") == 1)
    async with opened(tmp_path / "model") as (engine, events):
        again = await engine.embed(request)
        assert again.usage.store_hits == 1
        # An output alone is another entry.
        assert (await engine.embed(EmbedRequest("m", ("the cat",)))).usage.store_hits == 0
    np.testing.assert_array_equal(again.vectors, first.vectors)
    np.testing.assert_array_equal(again.multi_vector[0], first.multi_vector[0])
    np.testing.assert_array_equal(again.sparse[0].ids, first.sparse[0].ids)
    np.testing.assert_array_equal(again.sparse[0].weights, first.sparse[0].weights)


async def test_scores_are_kept_too(opened: Opened, tmp_path: Path) -> None:
    request = ScoreRequest("m", ("the cat", "the dog"), queries=("a mat",))
    async with opened(tiny_classifier(tmp_path / "model")) as (engine, events):
        first = await engine.score(request)
        await until(lambda: total(events, "written") == 2)
    async with opened(tmp_path / "model") as (engine, events):
        again = await engine.score(request)
    assert again.usage[2:] == (2, 2)
    np.testing.assert_array_equal(again.scores, first.scores)


async def test_another_model_does_not_find_them(opened: Opened, tmp_path: Path) -> None:
    request = EmbedRequest("m", ("the cat",))
    async with opened(tiny_bert(tmp_path / "model")) as (engine, events):
        await engine.embed(request)
        await until(lambda: total(events, "written") == 1)
    (tmp_path / "model" / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: "}}')
    async with opened(tmp_path / "model") as (engine, events):
        assert (await engine.embed(request)).usage.cache_hits == 0


async def test_without_room_in_memory_the_store_alone_serves(opened: Opened, tmp_path: Path) -> None:
    request = EmbedRequest("m", ("the cat",))
    async with opened(tiny_bert(tmp_path / "model"), max_bytes=0) as (engine, events):
        await engine.embed(request)
        await until(lambda: total(events, "written") == 1)
        for _ in range(2):
            assert (await engine.embed(request)).usage[2:] == (1, 1)


async def test_equal_inputs_that_wait_for_the_store_are_computed_once(opened: Opened, tmp_path: Path) -> None:
    request = EmbedRequest("m", ("the cat",))
    async with opened(tiny_bert(tmp_path / "model")) as (engine, events):
        done = await asyncio.gather(*(engine.embed(request) for _ in range(5)))
        await until(lambda: total(events, "written"))
    assert len({each.vectors.tobytes() for each in done}) == 1
    assert total(events, "written") == 1


# The level alone, beside a store that does what a test says.


def key(number: int) -> CacheKey:
    return CacheKey("f", number.to_bytes(16))


class Level:
    """The second level over a fake store, with a short timeout."""

    def __init__(self, *, timeout_seconds: float = 0.05) -> None:
        self.store, self.events, self.clock = FakeVectorStore(), list[Event](), TickingClock()
        guarded = GuardedStore(
            self.store, "fake", timeout_seconds=timeout_seconds, hooks=self.events.append, clock=self.clock
        )
        self.outputs = StoredOutputs(guarded, self.events.append)

    async def find(self, *numbers: int) -> set[int]:
        found = await self.outputs.find({key(each): 3 for each in numbers})
        return {int.from_bytes(each.digest) for each in found}

    async def has_written(self, *numbers: int) -> None:
        before = total(self.events, "written")
        for each in numbers:
            self.outputs.keep(key(each), 3, VECTOR)
        await until(lambda: total(self.events, "written") == before + len(numbers))

    @property
    def changes(self) -> list[tuple[str, bool]]:
        return [(each.operation, each.is_up) for each in self.events if isinstance(each, StoreChanged)]

    def fails(self, *, how: str) -> None:
        if how == "slow":
            self.store.gate.clear()
        else:
            self.store.failing = True

    def works(self) -> None:
        self.store.failing = False
        self.store.gate.set()


@pytest.fixture
async def level() -> AsyncIterator[Level]:
    level = Level()
    yield level
    level.works()
    await level.outputs.close()
    assert level.store.closed == 1


@pytest.mark.parametrize("how", ["slow", "down"])
@pytest.mark.parametrize("ignores_cancelling", [False, True])
async def test_a_store_that_does_not_work_costs_one_wait_and_is_skipped_until_it_is_back(
    level: Level, how: str, ignores_cancelling: bool
) -> None:
    level.store.ignores_cancelling = ignores_cancelling
    await level.has_written(1)
    level.fails(how=how)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await asyncio.gather(*(level.find(1) for _ in range(20))) == [set()] * 20
    assert loop.time() - began < 10
    # The requests may have given up a moment before.
    await until(lambda: level.changes)
    assert level.changes == [("read", False)]
    calls = len(level.store.reads)
    for _ in range(100):
        assert await level.find(1) == set()
        level.outputs.keep(key(2), 3, VECTOR)
    assert len(level.store.reads) == calls
    assert total(level.events, "dropped") == 100
    level.works()
    await until(lambda: level.changes == [("read", False), ("read", True)])
    assert await level.find(1) == {1}
    await level.has_written(3)
    assert level.changes == [("read", False), ("read", True)]


async def test_nobody_waits_for_a_call_that_has_failed(level: Level) -> None:
    level.outputs._store.timeout_seconds = 600
    level.store.failing = True
    async with asyncio.timeout(60):
        assert await asyncio.gather(*(level.find(*range(i, i + 200)) for i in range(3))) == [set()] * 3
    assert level.changes == [("read", False)]


async def test_a_store_that_cannot_be_written_is_read_on(level: Level) -> None:
    await level.has_written(1)
    level.store.full = True
    for number in range(2, 10):
        level.outputs.keep(key(number), 3, VECTOR)
    await until(lambda: level.changes)
    assert level.changes == [("write", False)]
    assert total(level.events, "dropped") == 8
    assert await level.find(1) == {1}
    level.outputs.keep(key(2), 3, VECTOR)
    assert len(level.store.writes) == 2
    level.store.full = False
    level.clock.advance(1)
    await level.has_written(2)
    assert level.changes == [("write", False), ("write", True)]


async def test_a_store_that_is_gone_when_it_is_written_is_told_of_once(level: Level) -> None:
    level.store.failing = True
    level.outputs.keep(key(1), 3, VECTOR)
    await until(lambda: level.changes)
    assert await level.find(1) == set()
    assert level.changes == [("read", False)]


async def test_no_request_waits_for_a_write_and_what_waits_is_bounded(level: Level) -> None:
    level.store.gate.clear()
    large = {DENSE: np.zeros(2**20, np.float32)}
    for number in range(20):
        level.outputs.keep(key(number), 3, large)
    assert total(level.events, "dropped") == 12
    level.works()
    await until(lambda: total(level.events, "written") == 8)
    assert max(map(len, level.store.writes)) == 1


async def test_an_entry_that_is_not_what_was_written_is_a_miss_and_counted(level: Level) -> None:
    await level.has_written(1, 2, 3, 4)
    names = list(level.store.entries)
    one, two, three, _ = names
    level.store.entries[one] = level.store.entries[two]
    level.store.entries[two] = b"something else"
    level.store.entries[three] = encode(three, 4, VECTOR)
    assert await level.find(1, 2, 3, 4, 5) == {4}
    (read,) = [each for each in level.events if isinstance(each, StoreRead)]
    assert (read.found, read.missing, read.corrupt) == (1, 1, 3)
    assert level.changes == []


async def test_a_store_that_answers_too_few_values_is_skipped(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    async def too_few(keys: Any) -> list[bytes | None]:
        return [None]

    monkeypatch.setattr(level.store, "get_many", too_few)
    assert await level.find(1, 2) == set()
    assert level.changes == [("read", False)]


async def test_lookups_of_many_requests_go_together_and_a_large_one_in_parts(level: Level) -> None:
    level.store.gate.clear()
    level.outputs._store.timeout_seconds = 60
    looking = [asyncio.create_task(level.find(*range(300)))]
    await until(lambda: level.store.reads)
    looking += [asyncio.create_task(level.find(1000 + i)) for i in range(20)]
    await asyncio.sleep(0)
    level.works()
    await asyncio.gather(*looking)
    # The rest of the large one comes after those that came later.
    assert [len(keys) for keys in level.store.reads] == [128, 128, 64]
    assert {name[-4:] for name in level.store.reads[1]} >= {f"{1000 + i:04x}".encode() for i in range(20)}


async def test_fewer_keys_go_together_where_values_are_large(level: Level) -> None:
    large = {DENSE: np.zeros(2**17, np.float32)}
    for number in range(4):
        level.outputs.keep(key(number), 3, large)
    await until(lambda: total(level.events, "written") == 4)
    assert await level.find(0) == {0}
    assert await level.find(0, 1, 2, 3) == {0, 1, 2, 3}
    assert [len(keys) for keys in level.store.reads] == [1, 1, 1, 1, 1]


async def test_a_request_that_leaves_takes_its_lookup_with_it(level: Level) -> None:
    level.outputs._store.timeout_seconds = 60
    level.store.gate.clear()
    first = asyncio.create_task(level.find(1))
    await until(lambda: level.store.reads)
    gone = asyncio.create_task(level.find(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    level.works()
    await first
    assert await level.find(3) == set()
    assert len(level.store.reads) == 2


async def test_closing_writes_what_waits() -> None:
    level = Level()
    level.store.gate.clear()
    level.outputs.keep(key(1), 3, VECTOR)
    level.outputs.keep(key(2), 3, VECTOR)
    asyncio.get_running_loop().call_later(0.05, level.store.gate.set)
    await level.outputs.close()
    assert len(level.store.entries) == 2
    assert await level.find(1) == set()
    level.outputs.keep(key(3), 3, VECTOR)
    assert (len(level.store.entries), level.store.closed) == (2, 1)


async def test_closing_does_not_wait_for_a_store_that_hangs() -> None:
    level = Level()
    level.store.gate.clear()
    level.outputs.keep(key(1), 3, VECTOR)
    async with asyncio.timeout(30):
        await level.outputs.close()
    assert level.store.closed == 1
