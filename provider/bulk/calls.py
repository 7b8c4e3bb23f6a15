"""Calls of an embedder: texts in pieces that it likes, several under way at a time, results in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from provider.bulk.embedder import Embedder
from provider.texts.records import Record

T = TypeVar("T")


def chunks(records: Iterable[Record], embedder: Embedder, *, first: int | None = None) -> Iterator[Sequence[Record]]:
    """All `records`, in pieces that do not depend on who embeds them when.

    Args:
        records: in order.
        embedder: says how many it likes at a time.
        first: most of the first piece; the next have twice as many each, up to that. None to begin with that.
    """
    chunk: list[Record] = []
    characters, most_texts = 0, min(first or embedder.most_texts, embedder.most_texts)
    for record in records:
        characters += len(record.text)
        if chunk and (len(chunk) == most_texts or characters > embedder.most_characters):
            yield chunk
            chunk, characters, most_texts = [], len(record.text), min(2 * most_texts, embedder.most_texts)
        chunk.append(record)
    if chunk:
        yield chunk


async def in_order(
    chunks: Iterable[Sequence[Record]], call: Callable[[Sequence[Record]], Awaitable[T]], most_calls: int
) -> AsyncGenerator[tuple[Sequence[Record], T], None]:
    """Each chunk with what came of it, in order; several calls are under way at a time."""
    under_way: deque[tuple[Sequence[Record], asyncio.Future[Any]]] = deque()
    try:
        for chunk in chunks:
            under_way.append((chunk, asyncio.ensure_future(call(chunk))))
            if len(under_way) >= most_calls:
                result = await under_way[0][1]
                yield under_way.popleft()[0], result
        while under_way:
            result = await under_way[0][1]
            yield under_way.popleft()[0], result
    finally:
        futures = [future for _, future in under_way]
        for future in futures:
            future.cancel()
        await asyncio.gather(*futures, return_exceptions=True)
