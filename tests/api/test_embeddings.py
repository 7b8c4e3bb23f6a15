"""The happy paths of the API."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from waiting import PATIENCE_SECONDS, until, until_set

from provider.settings import QueueSettings

MODEL = "org/model"


@pytest.mark.parametrize("text", [" ", "\n\t ", "\u3000"])
async def test_a_text_of_spaces_is_a_text(client: Any, text: str) -> None:
    response = await client.post("/v1/embeddings", json={"model": "org/model", "input": text})
    assert (response.status_code, response.json()["usage"]["total_tokens"]) == (200, 2)


async def test_one_text_and_many_in_order_with_usage(client: Any) -> None:
    one = (await client.post("/v1/embeddings", json={"model": MODEL, "input": "dog"})).json()
    many = (await client.post("/v1/embeddings", json={"model": MODEL, "input": ["cat", "dog", "cat"]})).json()
    assert [each["index"] for each in many["data"]] == [0, 1, 2]
    assert many["data"][1]["embedding"] == one["data"][0]["embedding"]
    assert many["data"][0] != many["data"][1]
    assert (one["usage"], many["usage"]) == (
        {"prompt_tokens": 3, "total_tokens": 3},
        {"prompt_tokens": 9, "total_tokens": 9},
    )


async def test_base64_holds_the_same_numbers_as_float(client: Any) -> None:
    body = {"model": MODEL, "input": "dog", "dimensions": 5}
    as_float = (await client.post("/v1/embeddings", json=body)).json()["data"][0]["embedding"]
    coded = (await client.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()["data"][0][
        "embedding"
    ]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(coded), "<f4"), np.array(as_float, np.float32))


async def test_a_large_request_is_answered_like_a_small_one(client: Any) -> None:
    texts = [f"text number {i} of a large request, with some words to it" for i in range(2048)]
    answer = (await client.post("/v1/embeddings", json={"model": MODEL, "input": texts})).json()
    single = (await client.post("/v1/embeddings", json={"model": MODEL, "input": texts[2047]})).json()
    assert len(answer["data"]) == 2048
    assert answer["data"][2047]["embedding"] == single["data"][0]["embedding"]


async def test_the_model_is_echoed_as_it_was_asked_for(client: Any) -> None:
    answer = (await client.post("/embeddings", json={"model": "text-embedding-3-small", "input": "a"})).json()
    assert answer["model"] == "text-embedding-3-small"


async def test_a_cut_input_is_reported_in_body_and_header(client: Any) -> None:
    body = {"model": MODEL, "input": ["short", "word " * 400], "truncate": True}
    response = await client.post("/v1/embeddings", json=body)
    assert response.headers["x-truncated-inputs"] == "1"
    assert response.json()["truncated"] == [{"index": 1, "kept_tokens": 256, "original_tokens": 402}]
    assert response.json()["usage"]["total_tokens"] == 3 + 256
    untouched = await client.post("/v1/embeddings", json=body | {"input": "short"})
    assert "x-truncated-inputs" not in untouched.headers
    assert "truncated" not in untouched.json()


async def test_null_is_accepted_for_every_optional_field_and_unknown_fields_are_ignored(client: Any) -> None:
    names = ["encoding_format", "dimensions", "user", "truncate", "input_type", "prompt_name", "prompt"]
    body = {"model": MODEL, "input": "a", "task": "x", "messages": []} | dict.fromkeys(names)
    assert (await client.post("/v1/embeddings", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [("my-id_1.2:3", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("<script>", False), ("", False)],
)
async def test_the_clients_request_id_is_kept_if_it_is_sane(client: Any, given: str, kept: bool) -> None:
    response = await client.get("/health/live", headers={"x-request-id": given})
    assert (response.headers["x-request-id"] == given) is kept
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/models/org/model", "/v1/models/org%2Fmodel", "/models/org%2Fmodel"])
async def test_a_model_whose_name_has_a_slash_is_found_encoded_or_not(client: Any, path: str) -> None:
    entry = (await client.get(path)).json()
    assert entry["id"] == MODEL
    assert (entry["object"], entry["owned_by"]) == ("model", "emb-provider")
    assert isinstance(entry["created"], int)


async def test_an_answer_names_the_fingerprint_of_the_model_by_whatever_name_it_was_asked_for(client: Any) -> None:
    listed = (await client.get("/v1/models")).json()["data"][0]["fingerprint"]
    for name in (MODEL, "text-embedding-3-small"):
        # The second answer comes from the cache.
        for _ in range(2):
            answer = await client.post("/v1/embeddings", json={"model": name, "input": "hello"})
            assert answer.headers["x-model-fingerprint"] == listed
    refused = await client.post("/v1/embeddings", json={"model": MODEL, "input": ""})
    assert "x-model-fingerprint" not in refused.headers


async def test_the_models_say_what_operators_ask_about(client: Any) -> None:
    listing = (await client.get("/v1/models")).json()
    assert listing["object"] == "list"
    model, alias = listing["data"]
    assert (model["id"], alias["id"], alias["root"]) == (MODEL, "text-embedding-3-small", MODEL)
    facts = {
        key: model[key] for key in ("max_model_len", "dimensions", "backend", "device", "dtype", "pooling", "state")
    }
    assert facts == {
        "max_model_len": 256,
        "dimensions": 384,
        "backend": "fake",
        "device": "cpu",
        "dtype": "float32",
        "pooling": "mean",
        "state": "ready",
    }


async def test_an_unknown_model_is_404_on_the_models_route_too(client: Any) -> None:
    response = await client.get("/v1/models/nope")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_health_is_red_until_the_models_are_there_and_alive_all_along(open_app: Any) -> None:
    async with open_app(wait=False) as client:
        for path in ("/health/live", "/livez"):
            assert (await client.get(path)).status_code == 200
        ready = ("/health", "/health/ready", "/healthz", "/readyz", "/ping")
        for path in ready:
            response = await client.get(path)
            assert response.status_code == 503
            assert response.json()["status"] == "not_ready"
            assert MODEL in response.json()["problems"]
        await client.app.state.service.runtimes[MODEL].start_loading()
        for path in ready:
            response = await client.get(path)
            assert (response.status_code, response.json()["status"]) == (200, "ready")


async def test_the_root_says_what_this_is(client: Any) -> None:
    body = (await client.get("/")).json()
    assert body["name"] == "emb-provider"
    assert body["endpoints"]["embeddings"] == "POST /v1/embeddings"
    assert body["models"] == [MODEL]


async def test_metrics_stand_at_zero_from_the_start_and_count(client: Any) -> None:
    def value(text: str, series: str) -> float:
        return float(next(line for line in text.splitlines() if line.startswith(series)).rpartition(" ")[2])

    before = (await client.get("/metrics")).text
    label = f'model="{MODEL}"'
    for name in (
        "tokens_total",
        "inputs_total",
        "cache_misses_total",
        "truncated_inputs_total",
        "batch_failures_total",
    ):
        assert value(before, f"emb_provider_{name}{{{label}}}") == 0
    await client.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": ["cat", "dog"]})
    await client.post("/v1/embeddings", json={"model": MODEL, "input": "cat"})
    await client.post("/v1/embeddings", json={"model": "made-up-name", "input": "cat"})
    await client.request("BREW", "/made/up/path")
    after = (await client.get("/metrics")).text
    assert value(after, f"emb_provider_tokens_total{{{label}}}") == 9
    assert value(after, f"emb_provider_inputs_total{{{label}}}") == 3
    assert value(after, f'emb_provider_cache_hits_total{{level="output",{label}}}') == 1
    assert value(after, f"emb_provider_cache_misses_total{{{label}}}") == 2
    assert value(after, f'emb_provider_model_state{{{label},state="ready"}}') == 1
    assert value(after, "emb_provider_cache_bytes") > 0
    requests = 'emb_provider_requests_total{method="POST",model="%s",route="/v1/embeddings",status="%s",task="embed"}'
    assert value(after, requests % (MODEL, 200)) == 2
    assert value(after, requests % ("", 404)) == 1
    assert "made-up-name" not in after
    assert "/made/up/path" not in after
    assert "BREW" not in after


async def test_metrics_can_be_switched_off(open_app: Any) -> None:
    from provider.settings import MetricsSettings

    async with open_app(metrics=MetricsSettings(enabled=False)) as client:
        unknown = await client.get("/metrics")
        assert unknown.status_code == 404
        assert "GET /metrics," not in unknown.text
        assert "metrics" not in (await client.get("/")).json()["endpoints"]


async def test_a_caller_who_leaves_stops_its_work(client: Any) -> None:
    service, lifecycle = client.app.state.service, client.app.state.lifecycle
    backend = service.runtimes[MODEL].loaded.backend
    backend.gate.clear()
    backend.started.clear()
    body = json.dumps({"model": MODEL, "input": "hold"}).encode()
    leave = asyncio.Event()
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/embeddings",
        "raw_path": b"/v1/embeddings",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "asgi": {"version": "3.0"},
    }
    running = asyncio.create_task(client.app(dict(scope), receive, send))
    await until_set(backend.started)
    assert lifecycle.requests.active == 1
    leave.set()
    await asyncio.wait_for(running, PATIENCE_SECONDS)
    assert lifecycle.requests.active == 0
    assert sent[0]["status"] == 499
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": body[:10], "more_body": True}]
    sent.clear()
    await asyncio.wait_for(client.app(dict(scope), receive, send), PATIENCE_SECONDS)
    assert (lifecycle.requests.active, sent[0]["status"]) == (0, 499)
    backend.gate.set()


@pytest.mark.parametrize("tune", [True, False])
async def test_what_was_measured_at_the_start_is_shown_with_what_came_of_it(
    open_app: Any, model: Any, tune: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    async with open_app(model=attrs.evolve(model, tune=tune)) as client:
        await client.app.state.service.runtimes[MODEL].settled()
        entry = (await client.get(f"/v1/models/{MODEL}")).json()
    assert entry["tuning"]["state"] == ("measured" if tune else "off")
    assert ("tokens_per_second" in entry["tuning"]) is tune
    assert entry["batch_tokens"] in {256, 512, 1024} if tune else entry["batch_tokens"] == 512


async def test_parts_of_a_bulk_that_are_sent_at_once_are_all_answered(open_app: Any) -> None:
    async with open_app(queue=QueueSettings(max_requests=1, max_wait_seconds=600)) as client:
        backend, lifecycle = client.app.state.service.runtimes[MODEL].loaded.backend, client.app.state.lifecycle
        backend.gate.clear()
        parts = [[f"part {part} text {i}" for i in range(2048)] for part in range(4)]
        bodies = [{"model": MODEL, "input": texts, "encoding_format": "base64"} for texts in parts]
        answers = [asyncio.create_task(client.post("/v1/embeddings", json=body)) for body in bodies]
        await until(lambda: lifecycle.waiting == 3)
        backend.gate.set()
        assert [(await answer).status_code for answer in answers] == [200] * 4
        metrics = (await client.get("/metrics")).text
        assert 'emb_provider_waiting_seconds_count{outcome="admitted"} 3.0' in metrics
        assert "emb_provider_waiting_requests 0.0" in metrics


async def test_a_part_that_would_wait_for_too_long_is_429_and_says_when_to_return(open_app: Any) -> None:
    async with open_app(queue=QueueSettings(max_requests=1, max_wait_seconds=0.05)) as client:
        backend = client.app.state.service.runtimes[MODEL].loaded.backend
        backend.gate.clear()
        answers = [
            asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": str(i)})) for i in range(3)
        ]
        refused = [await asyncio.wait_for(answer, PATIENCE_SECONDS) for answer in answers[1:]]
        assert [(answer.status_code, answer.headers["retry-after"]) for answer in refused] == [(429, "1")] * 2
        backend.gate.set()
        assert (await asyncio.wait_for(answers[0], PATIENCE_SECONDS)).status_code == 200


@pytest.mark.parametrize("more_body", [False, True])
async def test_a_client_that_leaves_while_it_waits_gives_its_place_up(open_app: Any, more_body: bool) -> None:
    async with open_app(queue=QueueSettings(max_requests=1)) as client:
        service, lifecycle = client.app.state.service, client.app.state.lifecycle
        backend = service.runtimes[MODEL].loaded.backend
        backend.gate.clear()
        running = asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": "runs"}))
        await until(lambda: lifecycle.requests.active == 1)
        body = json.dumps({"model": MODEL, "input": "waits"}).encode()
        leave, sent = asyncio.Event(), []
        messages: list[Any] = [{"type": "http.request", "body": body, "more_body": more_body}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "raw_path": b"/v1/embeddings"}
        scope |= {"query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1", "headers": []}
        scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "asgi": {"version": "3.0"}}
        waiting = asyncio.create_task(client.app(scope, receive, send))
        await until(lambda: lifecycle.waiting == 1)
        leave.set()
        if not more_body:
            # Of a body that goes on, no more than its first part is read before its turn.
            await asyncio.wait_for(waiting, PATIENCE_SECONDS)
            assert (lifecycle.waiting, sent[0]["status"]) == (0, 499)
        backend.gate.set()
        assert (await asyncio.wait_for(running, PATIENCE_SECONDS)).status_code == 200
        await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        assert (lifecycle.waiting, lifecycle.requests.active, sent[0]["status"]) == (0, 0, 499)


async def test_a_client_that_waits_for_its_turn_is_answered_with_what_it_sent_meanwhile(open_app: Any) -> None:
    async with open_app(queue=QueueSettings(max_requests=1)) as client:
        service, lifecycle = client.app.state.service, client.app.state.lifecycle
        backend = service.runtimes[MODEL].loaded.backend
        backend.gate.clear()
        texts = [f"{'long ' * 50}{i}" for i in range(1000)]
        bodies = [{"model": MODEL, "input": texts[:size]} for size in (1, 1000, 3)]
        answers = [asyncio.create_task(client.post("/v1/embeddings", json=body)) for body in bodies]
        await until(lambda: lifecycle.waiting == 2)
        backend.gate.set()
        found = [(await asyncio.wait_for(answer, PATIENCE_SECONDS)).json() for answer in answers]
        assert [len(each["data"]) for each in found] == [1, 1000, 3]


async def test_who_waits_for_room_is_told_at_once_when_the_service_ends(open_app: Any) -> None:
    async with open_app(queue=QueueSettings(max_requests=2, max_tokens=1)) as client:
        service, lifecycle = client.app.state.service, client.app.state.lifecycle
        backend = service.runtimes[MODEL].loaded.backend
        backend.started.clear()
        backend.gate.clear()
        running = asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": "runs"}))
        await until_set(backend.started)
        waiting = [
            asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": str(i)})) for i in range(2)
        ]
        await until(lambda: lifecycle.waiting == 1 and lifecycle.requests.active == 2)
        lifecycle.drain()
        assert (await asyncio.wait_for(waiting[1], PATIENCE_SECONDS)).status_code == 503
        backend.gate.set()
        assert [(await asyncio.wait_for(each, PATIENCE_SECONDS)).status_code for each in (running, waiting[0])] == [
            200,
            200,
        ]
