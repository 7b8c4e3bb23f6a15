"""Request bodies that are compressed: decoded within the limit, or refused."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from provider.api.body import Framing
from provider.settings import QueueSettings, ServerSettings

MODEL = "org/model"
BODY = json.dumps({"model": MODEL, "input": "dog"}).encode()


def raw_deflate(content: bytes) -> bytes:
    return zlib.compress(content, wbits=-15)


async def post(client: Any, content: Any, coding: str) -> Any:
    return await client.post("/v1/embeddings", content=content, headers={"content-encoding": coding})


@pytest.mark.parametrize(
    ("coding", "content"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("gzip, identity", gzip.compress(BODY)),
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
        ("gzip", gzip.compress(BODY) * 2, "bytes follow"),
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
        for more in (1, 50_000_000):
            response = await post(client, compress(fitting + b" " * more)[:1024], coding)
            assert response.status_code == 413
            assert "(1024) exceeded by the decoded body" in response.json()["error"]["message"]
            assert response.headers["connection"] == "close"


def test_admission_counts_what_a_body_may_become() -> None:
    def most(*headers: tuple[bytes, bytes]) -> int:
        return Framing.of(headers).most_bytes(1_000_000)

    assert most((b"content-length", b"100")) == 100
    assert most((b"content-length", b"100"), (b"content-encoding", b"gzip")) == 103_200
    assert most((b"content-length", b"100"), (b"content-encoding", b"identity")) == 100
    assert most((b"content-length", b"2000"), (b"content-encoding", b"deflate")) == 1_000_000
    assert most((b"content-encoding", b"gzip")) == most() == 1_000_000
    # Nothing that deflate can make expands further.
    zeros = bytes(1_000_000)
    assert len(zeros) <= len(raw_deflate(zeros)) * 1032


async def test_a_compressed_body_waits_for_the_room_that_it_may_need(open_app: Any) -> None:
    async with open_app(queue=QueueSettings(max_request_bytes=100_000, max_wait_seconds=0)) as client:
        held, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> Any:
            held.set()
            await go_on.wait()
            yield BODY

        first = asyncio.create_task(client.post("/v1/embeddings", content=slow()))
        await asyncio.wait_for(held.wait(), 10)
        assert (await post(client, gzip.compress(BODY), "gzip")).status_code == 429
        go_on.set()
        assert (await asyncio.wait_for(first, 10)).status_code == 200
        assert (await post(client, gzip.compress(BODY), "gzip")).status_code == 200
