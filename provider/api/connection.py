"""Work that ends when its caller is gone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar import Request

from provider.errors import CallerGone

T = TypeVar("T")


async def while_connected(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes the connection.

    ASGI servers go on running a handler whose client has left; for an embedding service that means computing vectors
    for callers that timed out, just when there is too much to do. Call it after the body was read.

    Raises:
        CallerGone: the client left first.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        msg = "the client closed the connection"
        raise CallerGone(msg)
    finally:
        task.cancel()
        left.cancel()


async def _disconnect(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
