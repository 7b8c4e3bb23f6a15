"""Request bodies that are compressed: decoded within the limit, or refused."""

import asyncio
import gzip
import json
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from waiting import PATIENCE_SECONDS

from provider.http.budget import Share
from provider.settings import QueueSettings, ServerSettings

MODEL = "org/model"
BODY = json.dumps({"model": MODEL, "input": "dog"}).encode()


def raw_deflate(content: bytes) -> bytes:
    return zlib.compress(content, wbits=-15)


async def post(client: Any, content: Any, coding: str = "identity") -> Any:
    return await client.post("/v1/embeddings", content=content, headers={"content-encoding": coding})


async def until_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("gzip, identity", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:9]) + gzip.compress(b"") + gzip.compress(BODY[9:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY, 9)),
        ("deflate", raw_deflate(BODY)),
        ("identity", BODY),
        ("", BODY),
    ],
)
async def test_a_compressed_body_is_answered_like_a_plain_one(client: Any, coding: str, content: bytes) -> None:
    plain = await client.post("/v1/embeddings", content=BODY)
    response = await post(client, content, coding)
    assert response.status_code == 200
    assert response.json() == plain.json()


async def test_a_compressed_body_may_be_sent_in_chunks(client: Any) -> None:
    content = gzip.compress(BODY)

    async def bytes_by_byte() -> Any:
        for byte in content:
            yield bytes([byte])

    assert (await post(client, bytes_by_byte(), "gzip")).status_code == 200


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, deflate", "gzip,gzip", "aws-chunked", "\xe9"])
async def test_another_coding_is_refused_with_those_that_are_decoded(client: Any, coding: str) -> None:
    response = await post(client, BODY, coding.encode("latin-1"))  # type: ignore[arg-type]
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "unsupported_content_encoding")
    assert coding in error["message"]
    assert "gzip or deflate" in error["message"]


@pytest.mark.parametrize(
    ("coding", "content", "says"),
    [
        ("gzip", BODY, "damaged or something else"),
        ("gzip", zlib.compress(BODY), "damaged or something else"),
        ("deflate", BODY, "damaged or something else"),
        ("deflate", gzip.compress(BODY), "damaged or something else"),
        ("gzip", gzip.compress(BODY)[:-1], "ends too early"),
        ("gzip", gzip.compress(BODY)[:12], "ends too early"),
        ("deflate", zlib.compress(BODY)[:-1], "ends too early"),
        ("gzip", gzip.compress(BODY)[:-8] + b"12345678", "damaged or something else"),
        ("gzip", gzip.compress(BODY) + b"more", "4 bytes follow"),
        ("gzip", gzip.compress(BODY) + gzip.compress(b" ")[:-1], "ends too early"),
        ("gzip", gzip.compress(BODY) + b"\x1f\x8b\x08more of something", "damaged or something else"),
        ("gzip", gzip.compress(b"") * 10_001, "more than 10000 members"),
        ("deflate", zlib.compress(BODY) * 2, "bytes follow"),
    ],
)
async def test_a_damaged_body_is_told_apart_from_bad_json(client: Any, coding: str, content: bytes, says: str) -> None:
    response = await post(client, content, coding)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_content_encoding")
    assert f"Content-Encoding says {coding}" in error["message"]
    assert says in error["message"]


async def test_what_is_decoded_is_read_as_any_body(client: Any) -> None:
    for content in (b"", gzip.compress(b"")):
        response = await post(client, content, "gzip")
        assert (response.status_code, "It is empty" in response.text) == (400, True)
    twice = await post(client, gzip.compress(gzip.compress(BODY)), "gzip")
    assert "Content-Encoding: gzip" in twice.text


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, raw_deflate])
async def test_the_limit_counts_decoded_bytes(open_app: Any, compress: Any) -> None:
    coding = "gzip" if compress is gzip.compress else "deflate"
    async with open_app(server=ServerSettings(max_body_bytes=1024)) as client:
        fitting = BODY + b" " * (1024 - len(BODY))
        assert (await post(client, compress(fitting), coding)).status_code == 200
        if coding == "gzip":
            assert (await post(client, compress(fitting) + compress(b" "), coding)).status_code == 413
        for more in (1, 50_000_000):
            response = await post(client, compress(fitting + b" " * more)[:1024], coding)
            assert response.status_code == 413
            assert "(1024) exceeded by the decoded body" in response.json()["error"]["message"]
            assert response.headers["connection"] == "close"


async def test_an_announced_length_reserves_nothing(open_app: Any) -> None:
    async with open_app(queue=QueueSettings(max_request_bytes=100_000, max_wait_seconds=0)) as client:
        go_on = asyncio.Event()

        async def slow() -> Any:
            await go_on.wait()
            yield BODY

        length = {"content-length": str(16 * 1024 * 1024)}
        silent = [
            asyncio.create_task(client.post("/v1/embeddings", content=slow(), headers=each))
            for each in ({}, length) * 8
        ]
        await until_true(lambda: client.app.state.lifecycle.requests.active == 16)
        assert (await post(client, gzip.compress(BODY), "gzip")).status_code == 200
        assert (await post(client, BODY)).status_code == 200
        go_on.set()
        assert {each.status_code for each in await asyncio.wait_for(asyncio.gather(*silent), PATIENCE_SECONDS)} == {200}


async def test_bytes_count_as_they_arrive_and_leave_with_their_request(open_app: Any) -> None:
    async with open_app(queue=QueueSettings(max_request_bytes=100_000, max_wait_seconds=0)) as client:
        budget, go_on = client.app.state.lifecycle.budget, asyncio.Event()

        async def half_there() -> Any:
            yield BODY + b" " * 150_000
            await go_on.wait()
            yield b" " * 50_000

        first = asyncio.create_task(client.post("/v1/embeddings", content=half_there()))
        await until_true(lambda: budget.total > 0)
        # Large ones find no room, small ones never need any.
        refused = await post(client, BODY + b" " * 150_000)
        assert (refused.status_code, "requests hold" in refused.text) == (429, True)
        assert (await post(client, BODY)).status_code == 200
        go_on.set()
        assert (await asyncio.wait_for(first, PATIENCE_SECONDS)).status_code == 200
        assert budget.total == 0


async def test_a_compressed_body_counts_as_what_it_may_become(open_app: Any) -> None:
    async with open_app(queue=QueueSettings(max_request_bytes=100_000, max_wait_seconds=0)) as client:
        budget = client.app.state.lifecycle.budget
        other = Share(budget)
        other.add(100_000)
        assert (await post(client, gzip.compress(BODY), "gzip")).status_code == 429
        other.release()
        assert (await post(client, gzip.compress(BODY), "gzip")).status_code == 200
        assert budget.total == 0


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_a_large_answer_waits_for_room_before_it_is_written_and_a_small_one_does_not(
    open_app: Any, encoding: str
) -> None:
    async with open_app(queue=QueueSettings(max_request_bytes=100_000, max_wait_seconds=0)) as client:
        budget = client.app.state.lifecycle.budget
        other = Share(budget)
        other.add(100_000)
        many = json.dumps({"model": MODEL, "input": ["dog"] * 2000, "encoding_format": encoding}).encode()
        refused = await post(client, many)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "requests")
        assert (await post(client, BODY)).status_code == 200
        other.release()
        assert (await post(client, many)).status_code == 200
        assert budget.total == 0


async def test_a_body_whose_client_left_is_not_parsed(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checking, go_on, parsed = threading.Event(), threading.Event(), []

    def check(*_: object) -> None:
        checking.set()
        go_on.wait(PATIENCE_SECONDS)

    monkeypatch.setattr("provider.http.exchange.check_elements", check)
    monkeypatch.setattr("provider.dialects.openai.wire.parse", lambda *_, **__: parsed.append(1))
    left = asyncio.Event()

    async def receive() -> Any:
        if not sent:
            sent.append(1)
            return {"type": "http.request", "body": BODY + b" " * 150_000, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pass

    sent: list[int] = []
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/embeddings",
        "raw_path": b"/v1/embeddings",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "state": {},
    }
    request = asyncio.create_task(client.app(scope, receive, send))
    assert await asyncio.to_thread(checking.wait, PATIENCE_SECONDS)
    left.set()
    await asyncio.wait_for(request, PATIENCE_SECONDS)
    go_on.set()
    assert client.app.state.lifecycle.requests.active == 0
    assert parsed == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": [%b]}' % b",".join([b"[]"] * 200_000),
        b'{"input": [%b]}' % b",".join([b"{}"] * 200_000),
        b'{"input": [%b]}' % b",".join([b'"a"'] * 200_000),
        b'{"input": [%b]}' % b",".join([b"1"] * 700_000),
        b'{"user": "\\\\", "input": [%b' % b",".join([b"[" * 9] * 200_000),
    ],
    ids=["arrays", "objects", "strings", "numbers", "unfinished"],
)
async def test_a_body_that_would_take_long_to_parse_is_refused_before(client: Any, body: bytes) -> None:
    response = await post(client, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "array_above_max_length")
    assert "Send fewer inputs a request" in error["message"]


async def test_commas_and_brackets_in_texts_are_not_counted(client: Any) -> None:
    text = ',[{\\"\\\\' * 300_000
    response = await client.post("/v1/embeddings", json={"model": "org/model", "input": text, "truncate": True})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("content", [b"content-length", b"transfer-encoding"])
async def test_a_length_of_5000_digits_is_no_fault_of_ours(client: Any, content: bytes) -> None:
    headers = {"content-length": "1" * 5000} | ({} if content == b"content-length" else {"transfer-encoding": "x"})
    response = await client.post("/v1/embeddings", content=b"{}", headers=headers)
    assert response.status_code == 413
