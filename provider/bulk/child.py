"""The process of an engine of `processes`: orders on standard input, replies on standard output."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from typing import Any, BinaryIO

from provider.bulk.engine import EngineEmbedder
from provider.bulk.messages import ChildFailed, Order, Ready, Reply, Setup, frame, next_order
from provider.errors import ProviderError
from provider.telemetry.logs import configure_logging


async def work(orders: BinaryIO, replies: BinaryIO) -> None:
    """Answer all orders, several at a time, until the input ends; the first one opens the engine."""
    writing = asyncio.Lock()

    async def reply(number: int, content: Any) -> None:  # noqa: ANN401 - what the embedder returns
        async with writing:
            await asyncio.to_thread(_send, replies, frame(Reply(number, content)))

    first = await asyncio.to_thread(next_order, orders)
    if first is None or not isinstance(first.content, Setup):
        return
    setup = first.content
    configure_logging(setup.settings.log)
    async with AsyncExitStack() as stack:
        opening = EngineEmbedder.opened(setup.settings, setup.options, setup.prompt, setup.worker)
        try:
            embedder = await stack.enter_async_context(opening)
        except ProviderError as exc:
            await reply(first.number, ChildFailed.of(exc))
            return
        ready = Ready(embedder.model, embedder.fingerprint, embedder.dimension, embedder.facts, embedder.about)
        await reply(first.number, ready)

        async def answer(order: Order) -> None:
            call = embedder.check if order.kind == "check" else embedder.embed
            assert not isinstance(order.content, Setup), "the engine has been opened"  # noqa: S101
            result: Any
            try:
                result = await call(order.content)
            except ProviderError as exc:
                result = ChildFailed.of(exc)
            await reply(order.number, result)

        tasks: set[asyncio.Task[None]] = set()
        while (order := await asyncio.to_thread(next_order, orders)) is not None:
            task = asyncio.create_task(answer(order))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        # Nobody waits for what is under way.
        os._exit(0)


def _send(replies: BinaryIO, content: bytes) -> None:
    try:
        replies.write(content)
        replies.flush()
    except BrokenPipeError:
        os._exit(1)


def main() -> None:
    """Run until the input ends. What libraries print goes to standard error: replies have the output for themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)
        asyncio.run(work(sys.stdin.buffer, replies))
        # A model that could not be loaded may have left a thread that Python would wait for.
        os._exit(0)


if __name__ == "__main__":
    main()
