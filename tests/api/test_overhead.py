"""What the service adds to a cached text, in calls of Python functions: `scripts/bench-overhead` has it in time."""

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

BODY = b'{"model": "org/model", "input": "hello", "encoding_format": "base64", "user": "%d"}'


@pytest.mark.parametrize(
    ("user", "most_calls"),
    [
        pytest.param(2, 85, id="the response is cached"),
        pytest.param(3, 222, id="the vector is cached"),
    ],
)
async def test_a_cached_text_takes_no_more_calls_than_it_did(
    client: Any, caplog: pytest.LogCaptureFixture, user: int, most_calls: int
) -> None:
    """Bounds of Python 3.11; later ones call fewer functions, as comprehensions are none there."""
    caplog.set_level(logging.WARNING, "provider.request")
    for each in (0, 1, 2, 2, 2):
        await ask(client.app, BODY % each)
    # What runs by the clock is no part of a request.
    for task in asyncio.all_tasks():
        if task.get_name() in {"measure the event loop", "care for models"}:
            task.cancel()
    await asyncio.sleep(0)
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        await ask(client.app, BODY % user)
    finally:
        sys.setprofile(before)
    assert calls <= most_calls, calls


async def ask(app: Callable[..., Any], body: bytes) -> None:
    """A request as a server hands it over, its body read already."""
    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()  # the client stays
        return messages.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await app(
        {
            "type": "http",
            "method": "POST",
            "path": "/v1/embeddings",
            "raw_path": b"/v1/embeddings",
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "state": {},
        },
        receive,
        send,
    )
    assert sent[0]["status"] == 200
