"""Several servers as one: each takes as much as it can, one that is lost is done without, another model is refused."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from stub_server import Answer, Stub, error, running_stub
from waiting import PATIENCE_SECONDS

from provider.bulk.embedder import Options
from provider.bulk.server import servers
from provider.errors import InvalidRequest, ServerFailed
from provider.texts.records import Record

GONE: Answer = (200, {}, None)
RECORDS = [Record("a", "in.txt", 1), Record("bb", "in.txt", 2)]


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sequence[Stub]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as stack:
        yield [stack.enter_context(running_stub()) for _ in range(2)]


class Pauses:
    """Pauses that end when a test says so; all but those that are `held` at once."""

    def __init__(self) -> None:
        self.held: dict[float, asyncio.Event] = {}
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if seconds in self.held:
            await self.held[seconds].wait()


def opened(stubs: Sequence[Stub], pauses: Pauses | None = None, said: list[str] | None = None) -> Any:
    told = [] if said is None else said
    urls = [stub.url for stub in stubs]
    return servers(urls, Options(), batch_size=64, pause=pauses or Pauses(), notify=told.append)


async def embed(pool: Any, calls: int) -> None:
    answers = await asyncio.gather(*(pool.embed(RECORDS) for _ in range(calls)))
    assert all(each.vectors.tolist() == [[1, 0], [2, 1]] for each in answers)


async def embed_for_ever(pool: Any) -> None:
    while True:
        await embed(pool, 1)


async def test_all_servers_work(stubs: Sequence[Stub]) -> None:
    async with opened(stubs) as pool:
        await embed(pool, 16)
        assert (pool.model, pool.fingerprint, pool.dimension) == ("first", "f", 2)
    # Beside the probe of each.
    assert sum(len(stub.asked) for stub in stubs) == 18
    assert all(len(stub.asked) > 1 for stub in stubs)


async def test_texts_of_a_server_that_is_busy_go_to_another_until_it_may_be_asked_again(stubs: Sequence[Stub]) -> None:
    busy, free = stubs
    pauses = Pauses()
    pauses.held[7.0] = asyncio.Event()
    async with opened(stubs, pauses) as pool:
        busy.script = [error(429, "full", headers={"retry-after": "7"})] * 4
        await embed(pool, 16)
        asked = len(busy.asked)
        assert len(free.asked) == 1 + 16
        busy.script = []
        pauses.held[7.0].set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(busy.asked) == asked:
                await embed(pool, 8)


async def test_a_server_that_is_lost_is_said_and_the_others_go_on(stubs: Sequence[Stub]) -> None:
    lost, _ = stubs
    said: list[str] = []
    async with opened(stubs, said=said) as pool:
        lost.script = [GONE] * 1000
        for _ in range(20):
            await embed(pool, 8)
    (sentence,) = said
    assert sentence.startswith(f"{lost.url}/embeddings does not answer (")
    assert sentence.endswith("The others go on, and it is asked again from time to time")


async def test_a_server_that_is_not_there_at_the_start_joins_later(stubs: Sequence[Stub]) -> None:
    late, _ = stubs
    late.models = None
    pauses = Pauses()
    pauses.held[2.0] = asyncio.Event()
    async with opened(stubs, pauses) as pool:
        await embed(pool, 4)
        assert late.asked == []
        late.models = {"data": [{"id": "first"}]}
        pauses.held[2.0].set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(late.asked) < 2:
                await embed(pool, 4)


async def test_when_all_servers_are_lost_the_run_ends(stubs: Sequence[Stub]) -> None:
    async with opened(stubs) as pool:
        for stub in stubs:
            stub.script = [error(503, "down")] * 100
        with pytest.raises(ServerFailed, match="answers 503: down"):
            await pool.embed(RECORDS)


@pytest.mark.parametrize(
    ("fingerprint", "says"),
    [
        ("g", "has another model than the others: fingerprint g, 2 dimensions, not f, 2"),
        ("", "does not tell the fingerprint"),
    ],
)
async def test_another_model_is_refused(stubs: Sequence[Stub], fingerprint: str, says: str) -> None:
    stubs[1].fingerprint = fingerprint
    with pytest.raises(ServerFailed, match=f"{stubs[1].url} {says}"):
        async with opened(stubs):
            pass


async def test_another_model_that_comes_later_is_refused(stubs: Sequence[Stub]) -> None:
    late, _ = stubs
    late.models = None
    async with opened(stubs) as pool:
        late.models, late.fingerprint = {"data": [{"id": "first"}]}, "g"
        with pytest.raises(ServerFailed, match="has another model than the others"):
            await asyncio.wait_for(embed_for_ever(pool), PATIENCE_SECONDS)


async def test_a_server_is_named_once(stubs: Sequence[Stub]) -> None:
    with pytest.raises(InvalidRequest, match="names a server twice"):
        async with opened([stubs[0], stubs[0]]):
            pass


async def test_a_call_that_is_cancelled_leaves_its_place_to_others(stubs: Sequence[Stub]) -> None:
    async with opened(stubs[:1]) as pool:
        tasks = [asyncio.create_task(pool.embed(RECORDS)) for _ in range(12)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await embed(pool, 8)
