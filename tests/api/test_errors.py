"""Every row of the contract's error table: status, type, code and message, always in OpenAI's envelope."""

import asyncio
import hashlib
import inspect
import json
from typing import Any

import attrs
import pytest
from waiting import until, until_set

from provider import errors
from provider.dialects.errors import TABLE
from provider.settings import (
    AuthSettings,
    CacheSettings,
    LimitSettings,
    ModelSettings,
    QueueSettings,
    ServerSettings,
    Settings,
)

INVALID = "invalid_request_error"
MODEL = "org/model"


def error_of(response: Any) -> dict[str, Any]:
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"]
    assert response.headers["openai-processing-ms"].isdigit()
    body = response.json()
    assert list(body) == ["error", "detail"]
    # What Voyage's and Jina's clients read.
    assert body["detail"] == body["error"]["message"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert isinstance(body["error"]["message"], str)
    return dict(body["error"])


BAD_BODIES = [
    ({"input": "a"}, 400, None, None, "you must provide a model parameter"),
    ({"input": "a", "model": ""}, 400, None, None, "you must provide a model parameter"),
    ({"input": "a", "model": "X"}, 404, "model", "model_not_found", "The model `X` does not exist or you do not have"),
    ({"model": MODEL}, 400, "input", "missing_required_parameter", "Missing required parameter: 'input'."),
    ({"model": MODEL, "input": ""}, 400, "input", "invalid_value", "input cannot be an empty string"),
    ({"model": MODEL, "input": ["a", ""]}, 400, "input[1]", "invalid_value", "input cannot be an empty string"),
    ({"model": MODEL, "input": []}, 400, "input", "invalid_value", "Invalid 'input'"),
    ({"model": MODEL, "input": 3}, 400, "input", "invalid_type", "Invalid type for 'input'"),
    ({"model": MODEL, "input": ["a", [1]]}, 400, "input", "invalid_type", "mixed"),
    (
        {"model": MODEL, "input": ["a"] * 2049},
        400,
        "input",
        "array_above_max_length",
        "array length must be 2048 or less",
    ),
    ({"model": MODEL, "input": [1, 2]}, 400, "input", "token_input_not_supported", "check_embedding_ctx_length=False"),
    ({"model": MODEL, "input": [[1, 2]]}, 400, "input", "token_input_not_supported", "tokenizer-specific"),
    (
        {"model": MODEL, "input": "word " * 400},
        400,
        "input[0]",
        "context_length_exceeded",
        "maximum input length is 256",
    ),
    (
        {"model": MODEL, "input": "a", "dimensions": 385},
        400,
        "dimensions",
        "invalid_value",
        "less than or equal to 384",
    ),
    ({"model": MODEL, "input": "a", "dimensions": 0}, 400, "dimensions", "invalid_value", "greater than or equal to 1"),
    ({"model": MODEL, "input": "a", "dimensions": "9"}, 400, "dimensions", "invalid_type", "Invalid type"),
    (
        {"model": MODEL, "input": "a", "encoding_format": "string"},
        400,
        "encoding_format",
        None,
        "Invalid value for 'encoding_format' = string. Supported values: ['float', 'base64'].",
    ),
    ({"model": MODEL, "input": "a", "truncate": "LEFT"}, 400, "truncate", "invalid_value", "Supported values"),
    ({"model": MODEL, "input": "a", "prompt_name": "x"}, 400, "prompt_name", "invalid_value", "prompts are: none"),
    ({"model": 3, "input": "a"}, 400, "model", "invalid_type", "expected a string"),
    ([], 400, None, "invalid_type", "expected an object"),
]


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_body_that_cannot_be_answered(client: Any, case: Any) -> None:
    body, status, param, code, says = case
    for path in ("/v1/embeddings", "/embeddings"):
        response = await client.post(path, json=body)
        error = error_of(response)
        assert (response.status_code, error["type"], error["param"], error["code"]) == (status, INVALID, param, code)
        assert says in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"input": "a",}', b'{"x": ' + b"[" * 90_000])
async def test_a_body_that_is_no_json(client: Any, body: bytes) -> None:
    response = await client.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (400, INVALID, None)
    assert "We could not parse the JSON body of your request." in error["message"]


async def test_too_many_tokens_in_all_have_a_type_of_their_own(open_app: Any) -> None:
    async with open_app(limits=LimitSettings(max_request_tokens=5)) as client:
        response = await client.post("/v1/embeddings", json={"model": MODEL, "input": ["a b c"] * 2})
        error = error_of(response)
        assert response.status_code == 400
        assert (error["type"], error["code"]) == ("max_tokens_per_request", "max_tokens_per_request")
        assert error["message"] == "Requested 10 tokens, max 5 tokens per request"


async def test_a_form_upload_is_refused_and_what_curl_calls_a_form_is_read(client: Any) -> None:
    response = await client.post("/v1/embeddings", files={"input": b"a"})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (400, "unsupported_content_type")
    assert "'multipart/form-data'" in error["message"]
    body = json.dumps({"model": MODEL, "input": "a"})
    for kind in ("application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8"):
        response = await client.post("/v1/embeddings", content=body, headers={"content-type": kind})
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/embeddings"), ("POST", "/v1/models"), ("DELETE", "/v1/models/x"), ("PUT", "/health")],
)
async def test_the_wrong_method_is_405_with_what_is_allowed(client: Any, method: str, path: str) -> None:
    response = await client.request(method, path)
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (405, INVALID, "method_not_supported")
    assert f"Not allowed to {method} on {path}" in error["message"]
    assert response.headers["allow"]


@pytest.mark.parametrize(
    "path", ["/v1/embeddings/embeddings", "/v1/v1/embeddings", "/api2/embed", "/v1/chat/completions", "/v1/embedding"]
)
async def test_a_misconfigured_base_url_is_told_the_right_one(client: Any, path: str) -> None:
    response = await client.post(path, json={})
    error = error_of(response)
    assert response.status_code == 404
    assert error["message"].startswith(f"Invalid URL (POST {path}).")
    assert "set base_url to http://testserver.local/v1" in error["message"]


async def test_a_body_that_is_too_large_is_413_whether_its_length_is_announced_or_not(open_app: Any) -> None:
    async with open_app(server=ServerSettings(max_body_bytes=1024)) as client:
        content = json.dumps({"model": MODEL, "input": "a" * 2000}).encode()

        async def chunks() -> Any:
            yield content[:1000]
            yield content[1000:]

        for body in (content, chunks()):
            response = await client.post("/v1/embeddings", content=body)
            error = error_of(response)
            assert (response.status_code, error["type"]) == (413, "server_error")
            assert "Maximum content size limit (1024) exceeded" in error["message"]


async def test_a_body_that_does_not_arrive_is_408_and_one_that_breaks_off_is_nobodys(open_app: Any) -> None:
    async def endless() -> Any:
        yield b"{"
        await asyncio.sleep(30)

    async with open_app(server=ServerSettings(body_seconds=1)) as client:
        client.app.state.settings = Settings(server=attrs.evolve(ServerSettings(), body_seconds=0.02))
        response = await client.post("/v1/embeddings", content=endless())
        error = error_of(response)
        assert (response.status_code, error["code"]) == (408, "request_timeout")
        assert response.headers["connection"] == "close"
        assert client.app.state.lifecycle.requests.active == 0


@pytest.mark.parametrize("host", ["x:abc", "x:99999999", "[", ""])
async def test_a_host_header_may_be_anything(client: Any, host: str) -> None:
    response = await client.get("/nope", headers={"host": host})
    assert error_of(response)["message"].startswith("Invalid URL (GET /nope).")
    assert response.status_code == 404


async def test_a_wrong_value_is_not_repeated_at_length(client: Any) -> None:
    for body in (
        {"model": "x" * 10_000, "input": "a"},
        {"model": MODEL, "input": "a", "encoding_format": "y" * 10_000},
    ):
        assert len(error_of(await client.post("/v1/embeddings", json=body))["message"]) < 500


async def test_keys_are_asked_for_in_either_header_and_a_wrong_one_is_not_repeated(open_app: Any) -> None:
    hashed = "sha256:" + hashlib.sha256(b"second-key").hexdigest()
    async with open_app(auth=AuthSettings(keys=["first-key", hashed, "schlüssel"])) as client:
        for path, method in (("/v1/models", "GET"), ("/v1/models/x", "GET"), ("/v1/embeddings", "POST")):
            response = await client.request(method, path)
            error = error_of(response)
            assert (response.status_code, error["type"], error["code"]) == (401, INVALID, None)
            assert "You didn't provide an API key." in error["message"]
            assert response.headers["www-authenticate"] == "Bearer"
        for headers in ({"authorization": "Bearer sk-wrong-key-of-some-length"}, {"api-key": "nope"}):
            response = await client.get("/v1/models", headers=headers)
            error = error_of(response)
            assert (response.status_code, error["code"]) == (401, "invalid_api_key")
            assert error["message"].startswith("Incorrect API key provided: ")
            assert "wrong-key" not in error["message"]
        for headers in (
            {"authorization": "Bearer first-key"},
            {"authorization": "bearer second-key"},
            {"api-key": "second-key"},
            {"api-key": "schlüssel".encode()},
        ):
            assert (await client.get("/v1/models", headers=headers)).status_code == 200
        for open_path in ("/", "/health/live", "/health/ready", "/metrics", "/docs"):
            assert (await client.get(open_path)).status_code == 200


async def test_a_caller_is_called_by_the_name_of_its_key_or_the_key_s_hash(
    open_app: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from provider.settings import LogSettings
    from provider.telemetry.logs import configure_logging

    configure_logging(LogSettings())
    named, unnamed = AuthSettings(keys={"search": "first-key"}), AuthSettings(keys=["second-key"])
    for auth, key in ((named, "first-key"), (unnamed, "second-key")):
        async with open_app(auth=auth) as client:
            headers = {"authorization": f"Bearer {key}"}
            answer = await client.post("/v1/embeddings", headers=headers, json={"model": MODEL, "input": "a"})
            assert answer.status_code == 200
            # Of a refused request too.
            await client.post("/v1/embeddings", headers=headers, json={"model": "nope", "input": "a"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    callers = [line["caller"] for line in lines if line["event"] == "request"]
    unnamed_caller = "key-" + hashlib.sha256(b"second-key").hexdigest()[:8]
    assert callers == ["search", "search", unnamed_caller, unnamed_caller]


@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer dummy", "Basic eDp5"])
async def test_any_key_or_none_passes_when_keys_are_off(client: Any, header: str) -> None:
    assert (await client.get("/v1/models", headers={"authorization": header})).status_code == 200


async def test_overload_is_429_with_a_whole_number_of_seconds(open_app: Any) -> None:
    async with open_app(queue=QueueSettings(max_tokens=10, max_wait_seconds=0)) as client:
        backend = client.app.state.service.runtimes[MODEL].loaded.backend
        backend.gate.clear()
        backend.started.clear()
        running = asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": "hold"}))
        await until_set(backend.started)
        waiting = asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": "wait"}))
        await until(lambda: client.app.state.service.runtimes[MODEL].lanes.waiting_rows)
        response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "this is a little too much now"})
        error = error_of(response)
        assert response.status_code == 429
        assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
        assert 1 <= int(response.headers["retry-after"]) <= 59
        assert f"Please try again in {response.headers['retry-after']}s" in error["message"]
        backend.gate.set()
        assert [(await each).status_code for each in (running, waiting)] == [200, 200]


async def test_while_no_request_finds_room_none_is_read_unless_it_may_be_cached(open_app: Any) -> None:
    for cached, status in ((False, 429), (True, 400)):
        queue, cache = QueueSettings(max_tokens=10, max_wait_seconds=0), CacheSettings(enabled=cached)
        async with open_app(queue=queue, cache=cache) as client:
            runtime = client.app.state.service.runtimes[MODEL]
            runtime.loaded.backend.gate.clear()
            runtime.loaded.backend.started.clear()
            tasks = [asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": "hold"}))]
            await until_set(runtime.loaded.backend.started)
            body = {"model": MODEL, "input": ["these wait"] * 9}
            tasks.append(asyncio.create_task(client.post("/v1/embeddings", json=body)))
            await until(lambda runtime=runtime: runtime.lanes.waiting_rows)
            response = await client.post("/v1/embeddings", content=b"no JSON")
            assert response.status_code == status
            error_of(response)
            # What runs no model needs no room.
            assert (await client.post("/ui/tokens", content=b"no JSON")).status_code == 400
            runtime.loaded.backend.gate.set()
            assert [(await each).status_code for each in tasks] == [200, 200]


async def test_a_loading_or_broken_model_is_503(open_app: Any, model: Any) -> None:
    async with open_app(wait=False) as client:
        response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
        error = error_of(response)
        assert (response.status_code, error["type"], error["code"]) == (
            503,
            "service_unavailable_error",
            "model_loading",
        )
        assert response.headers["retry-after"] == "5"
    async with open_app(model=ModelSettings(name=MODEL, path="/nowhere", backend="fake")) as client:
        response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
        error = error_of(response)
        assert (response.status_code, error["code"]) == (503, "model_failed")
        assert "/nowhere" not in error["message"]
        assert "/nowhere" not in (await client.get("/health/ready")).text
        assert "/nowhere" in (await client.get("/v1/models")).json()["data"][0]["problem"]


async def test_a_shutdown_is_503_and_closes_the_connection(client: Any) -> None:
    client.app.state.lifecycle.drain()
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
    assert (response.status_code, error_of(response)["code"]) == (503, "shutting_down")
    assert response.headers["connection"] == "close"
    assert (await client.get("/health/ready")).status_code == 503
    assert (await client.get("/health/live")).status_code == 200


async def test_a_failing_forward_pass_is_500_without_its_reason_and_nan_names_the_input(client: Any) -> None:
    backend = client.app.state.service.runtimes[MODEL].loaded.backend
    backend.failing = True
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (500, "server_error", "embedding_failed")
    assert "told to" not in error["message"]
    assert (error["param"], response.headers["x-should-retry"]) == ("input[0]", "false")
    assert response.headers["x-request-id"] in error["message"]
    client.app.state.service.runtimes[MODEL].prober.has_failed = True
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
    assert error_of(response)["param"] == "input[0]"
    assert "x-should-retry" not in response.headers
    backend.failing, backend.nan = False, 4937
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": ["dog", "cat"]})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (500, "non_finite_vector")
    assert "input[1]" in error["message"]
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("fault", "code"), [("poison", "embedding_failed"), ("nan", "non_finite_vector")])
async def test_the_input_that_failed_is_named_where_others_come_out_of_the_cache(
    client: Any, fault: str, code: str
) -> None:
    backend = client.app.state.service.runtimes[MODEL].loaded.backend
    known = ["a dog", "a horse"]
    await client.post("/v1/embeddings", json={"model": MODEL, "input": known})
    setattr(backend, fault, 4937)
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": [*known, "new", "a cat", "a dog"]})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (500, code, "input[3]")


async def test_what_nobody_foresaw_is_500_in_the_envelope(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: Any) -> None:
        msg = "secret detail"
        raise RuntimeError(msg)

    monkeypatch.setattr(client.app.state.service, "embed", broken)
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (500, "server_error", None)
    assert error["message"].startswith("The server had an error while processing your request. Sorry about that!")
    assert "secret" not in error["message"]


def test_every_error_class_has_a_row_and_stands_in_the_tree() -> None:
    classes = {
        each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.ProviderError)
    }
    assert classes == set(TABLE)
    assert errors.__doc__ is not None
    for each in classes:
        assert each.__name__ in errors.__doc__


async def test_a_vector_of_zeros_is_500_and_names_the_input(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = client.app.state.service.runtimes[MODEL].loaded.backend
    vector = backend.vector
    monkeypatch.setattr(backend, "vector", lambda ids: vector(ids) * (4937 not in ids))
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": ["dog", "cat"]})
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (500, "zero_vector", "input[1]")
    assert response.headers["x-should-retry"] == "false"


async def test_a_request_is_dropped_at_its_own_deadline(client: Any) -> None:
    runtime = client.app.state.service.runtimes[MODEL]
    backend = runtime.loaded.backend
    backend.gate.clear()
    backend.started.clear()
    holding = asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": "a"}))
    await until_set(backend.started)
    headers = {"x-request-timeout-ms": "1"}
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "b"}, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")
    assert response.headers["x-should-retry"] == "false"
    assert runtime.waiting == (0, 0)
    backend.gate.set()
    assert (await holding).status_code == 200


async def test_the_priority_of_a_request_is_that_of_its_header(client: Any) -> None:
    runtime = client.app.state.service.runtimes[MODEL]
    backend = runtime.loaded.backend
    backend.gate.clear()
    backend.started.clear()
    backend.batches.clear()
    answers = []
    for count, (text, priority) in enumerate((("a", "bulk"), ("b", "bulk"), ("c", "Interactive"))):
        body = {"model": MODEL, "input": text}
        answers.append(asyncio.create_task(client.post("/v1/embeddings", json=body, headers={"x-priority": priority})))
        await until_set(backend.started)
        await until(lambda count=count: runtime.waiting[0] == count)
    backend.gate.set()
    assert [(await answer).status_code for answer in answers] == [200] * 3
    expected = [runtime.loaded.tokenizer.encode([text])[0].ids.tolist() for text in "acb"]
    assert [batch.row(0).tolist() for batch in backend.batches] == expected


@pytest.mark.parametrize(
    ("header", "value"), [("x-priority", "urgent"), ("x-request-timeout-ms", "soon"), ("x-request-timeout-ms", "0")]
)
async def test_headers_that_mean_nothing_are_refused(client: Any, header: str, value: str) -> None:
    body = {"model": MODEL, "input": "a"}
    response = await client.post("/v1/embeddings", json=body, headers={header: value})
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, header, "invalid_value")
