"""Work that ends when its caller is gone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar import Request

from provider.errors import CallerGone
from provider.http.scheduling import in_time

T = TypeVar("T")


async def while_connected(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes the connection.

    ASGI servers go on running a handler whose client has left; for an embedding service that means computing vectors
    for callers that timed out, just when there is too much to do. Call it after the body was read.

    Raises:
        CallerGone: the client left first.
        DeadlineExceeded: the request's own deadline came first.
    """
    if (deadline := request.scope["state"].get("deadline")) is not None:
        work = in_time(deadline, work)
    task = asyncio.current_task()
    if task is None:
        msg = "wait for a caller's work from a task"
        raise RuntimeError(msg)
    has_left = False

    def end_work(watch: "asyncio.Task[None]") -> None:
        nonlocal has_left
        if not watch.cancelled():
            has_left = True
            # In this task, as `asyncio.timeout` does it: a task of its own for the work would cost more than a wait.
            task.cancel()

    watch = asyncio.create_task(_disconnect(request))
    watch.add_done_callback(end_work)
    try:
        return await work
    except asyncio.CancelledError as exc:
        if not has_left or task.uncancel():
            raise
        msg = "the client closed the connection"
        raise CallerGone(msg) from exc
    finally:
        watch.remove_done_callback(end_work)
        watch.cancel()


async def _disconnect(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
