"""What is counted of requests and of the process, and that no client adds series."""

import asyncio
import logging
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from waiting import PATIENCE_SECONDS

from provider.settings import AuthSettings, QueueSettings

PADDED = {"model": "org/model", "input": ["a", "a much longer text than the other one"]}


async def samples(client: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The value of each series."""
    text = (await client.get("/metrics", headers={"authorization": "Bearer secret"})).text
    families = text_string_to_metric_families(text)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"emb_provider_{name}", frozenset(labels.items())


async def test_refusals_are_counted_by_reason(open_app: Any) -> None:
    async with open_app(auth=AuthSettings(keys=["secret"]), queue=QueueSettings()) as client:
        before = await samples(client)
        known = {"authorization": "Bearer secret"}
        await client.post("/v1/embeddings", json={"model": "org/model", "input": "a"})
        await client.post("/v1/embeddings", json={"model": "other", "input": "a"}, headers=known)
        await client.post("/v1/embeddings", json={"model": "org/model", "input": "a " * 600}, headers=known)
        await client.post("/v1/embeddings", content=b"{", headers=known)
        client.app.state.lifecycle.drain()
        await client.post("/v1/embeddings", json={"model": "org/model", "input": "a"}, headers=known)
        after = await samples(client)
    reasons = ("authentication_missing", "model_not_found", "input_too_long", "malformed_json", "shutting_down")
    assert {before[labelled("refusals_total", reason=reason)] for reason in (*reasons, "overloaded", "internal")} == {0}
    assert {reason: after[labelled("refusals_total", reason=reason)] for reason in reasons} == dict.fromkeys(reasons, 1)


async def test_padding_rate_lanes_and_cache_levels(client: Any) -> None:
    for _ in range(3):
        assert (await client.post("/v1/embeddings", json=PADDED)).status_code == 200
    for _ in range(3):
        await client.post("/v1/embeddings", json=PADDED | {"input": "b"})
    found = await samples(client)
    of = {"model": "org/model"}
    assert found[labelled("lanes", **of)] == 1
    assert found[labelled("measured_tokens_per_second", **of)] > 0
    assert found[labelled("padding_tokens_total", **of)] >= 0
    assert found[labelled("cache_hits_total", **of, level="output")] == 5
    assert found[labelled("cache_hits_total", **of, level="response")] == 1
    assert found["process_resident_memory_bytes", frozenset()] > 1_000_000


async def test_the_padding_of_a_batch_is_its_rectangle_less_its_tokens(client: Any) -> None:
    backend = client.app.state.service.runtimes["org/model"].loaded.backend
    before = await samples(client)
    first = len(backend.batches)
    await client.post("/v1/embeddings", json=PADDED)
    after = await samples(client)
    lengths = [[int(each) for each in batch.lengths] for batch in backend.batches[first:]]
    padding = sum(max(each) * len(each) - sum(each) for each in lengths)
    series = labelled("padding_tokens_total", model="org/model")
    assert after[series] - before[series] == padding


async def test_the_delay_of_the_event_loop_is_measured(client: Any) -> None:
    async def measured() -> None:
        while not (await samples(client))[labelled("event_loop_delay_seconds_count")]:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)

    await asyncio.wait_for(measured(), PATIENCE_SECONDS)


@pytest.mark.parametrize("times", [300, pytest.param(3_334, marks=pytest.mark.slow)])
async def test_unknown_models_keys_and_paths_add_no_series(
    open_app: Any, caplog: pytest.LogCaptureFixture, times: int
) -> None:
    caplog.set_level(logging.ERROR)
    async with open_app(auth=AuthSettings(keys={"search": "secret"})) as client:
        await attack(client.app, range(10))
        await samples(client)  # scrapes have series of their own
        before = set(await samples(client))
        await attack(client.app, range(10, 10 + times))
        assert set(await samples(client)) == before


async def attack(app: Any, numbers: range) -> None:
    """For each number three requests: an unknown model, an unknown key, an unknown path with a method of its own."""
    for number in numbers:
        body = b'{"model": "m%d", "input": "a"}' % number
        await ask(app, "POST", "/v1/embeddings", body, b"Bearer secret")
        await ask(app, "POST", "/v1/embeddings", body, b"Bearer key-%d" % number)
        await ask(app, f"M{number}", f"/path/{number}", b"", b"Bearer secret")


async def ask(app: Any, method: str, path: str, body: bytes, key: bytes) -> None:
    """A request as a server hands it over."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_: dict[str, Any]) -> None:
        pass

    headers = [(b"host", b"localhost"), (b"authorization", key), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    await app(scope | {"root_path": "", "headers": headers, "state": {}}, receive, send)
