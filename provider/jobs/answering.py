"""Requests of one job, answered in pieces of its input, several at a time and in their order."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from attrs import evolve

from provider.dialects.openai.merging import Merged
from provider.domain import Caller
from provider.errors import Overloaded
from provider.jobs.calls import Answer, Calls, TryLater
from provider.jobs.lines import InputFile, Line
from provider.jobs.records import Job
from provider.jobs.results import Result, answered, request_id

# A piece of the input: small enough that it waits in the queue for less than the queue allows on a slow model.
_FIRST_LINES, _LEAST_LINES, _MOST_LINES, _PIECE_BYTES = 16, 8, 128, 32_768
# And so small that counts of a slow job move: what is answered in about so long.
_PIECE_SECONDS = 0.5
_FIRST_PIECES, _MOST_PIECES = 2, 8
# Of results that are not on the disk yet, about.
_MOST_RESULT_BYTES = 64 * 1024 * 1024
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.25, 15.0

T = TypeVar("T")


class KeyRevoked(Exception):
    """The key that a job belongs to is no longer accepted."""


class Piece(NamedTuple):
    """Lines, and what became of them."""

    lines: Sequence[Line]
    results: Sequence[Result]


class _Coming(NamedTuple):
    lines: Sequence[Line]
    results: "asyncio.Task[list[Result]]"


class Answering:
    """Answers the requests of a job. Used on the event loop's thread."""

    def __init__(
        self,
        job: Job,
        calls: Calls,
        find_caller: Callable[[str], Caller | None],
        on_obstacle: Callable[[Exception], None],
    ) -> None:
        """Nothing is asked yet.

        Args:
            job: whose requests they are.
            calls: answer them.
            find_caller: whose key has that name.
            on_obstacle: told why a request has to wait.
        """
        self._job, self._calls, self._find_caller, self._on_obstacle = job, calls, find_caller, on_obstacle
        self._lines, self._most, self._ceiling = _FIRST_LINES, _FIRST_PIECES, _MOST_PIECES

    async def pieces(self, source: InputFile, stop: asyncio.Event) -> AsyncGenerator[list[Piece], None]:
        """Pieces that are answered, in the order of the input, until its end or `stop`.

        Raises:
            KeyRevoked: the job's key is no longer accepted.
        """
        coming: deque[_Coming] = deque()
        stopping = asyncio.create_task(stop.wait())
        answered_at = time.monotonic()
        try:
            while True:
                while len(coming) < self._most and not stop.is_set():
                    lines = await asyncio.to_thread(source.next_lines, self._lines, _PIECE_BYTES)
                    if not lines:
                        break
                    coming.append(_Coming(lines, asyncio.create_task(self._answer_piece(lines))))
                if not coming or stop.is_set():
                    return
                await asyncio.wait({stopping, coming[0].results}, return_when=asyncio.FIRST_COMPLETED)
                done = []
                while coming and coming[0].results.done():
                    piece = coming.popleft()
                    done.append(Piece(piece.lines, piece.results.result()))
                if done:
                    yield done
                    seconds, answered_at = time.monotonic() - answered_at, time.monotonic()
                    rate = sum(len(piece.lines) for piece in done) / max(seconds, 0.001)
                    self._lines = max(_LEAST_LINES, min(_MOST_LINES, int(rate * _PIECE_SECONDS)))
                    size = max(sum(len(each.line) for each in piece.results) for piece in done)
                    self._most = min(self._ceiling, self._most + 1, max(1, _MOST_RESULT_BYTES // max(1, size)))
        finally:
            stopping.cancel()
            for piece in coming:
                piece.results.cancel()
            if coming:
                await asyncio.wait([piece.results for piece in coming])

    async def _answer_piece(self, lines: Sequence[Line]) -> list[Result]:
        rest = iter(lines)
        with _ending() as tasks:
            for merged in self._calls.merged(self._job.endpoint, [line.body for line in lines]):
                tasks.append(asyncio.create_task(self._answer_merged([*islice(rest, merged.size)], merged)))
                # Others' requests go on in between.
                await asyncio.sleep(0)
            return [result for results in await asyncio.gather(*tasks) for result in results]

    async def _answer_merged(self, lines: Sequence[Line], merged: Merged) -> list[Result]:
        names = [request_id(self._job.id, line.number) for line in lines]

        def ask(caller: Caller) -> Awaitable[list[Answer] | None]:
            return self._calls.answer_merged(self._job.endpoint, merged, caller, names)

        answers = await self._answer(ask)
        if answers is None:
            with _ending() as tasks:
                tasks += [
                    asyncio.create_task(self._answer_alone(line, name)) for line, name in zip(lines, names, strict=True)
                ]
                answers = await asyncio.gather(*tasks)
        return [answered(name, line.custom_id, each) for name, line, each in zip(names, lines, answers, strict=True)]

    async def _answer_alone(self, line: Line, name: str) -> Answer:
        return await self._answer(lambda caller: self._calls.answer(self._job.endpoint, line.body, caller, name))

    async def _answer(self, ask: Callable[[Caller], Awaitable[T]]) -> T:
        """What `ask` gives, as soon as it can be answered."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            caller = self._find_caller(self._job.owner)
            if caller is None:
                raise KeyRevoked
            try:
                return await ask(evolve(caller, tier="bulk"))
            except TryLater as later:
                if isinstance(later.cause, Overloaded):
                    # So many pieces are more than the queue lets in.
                    self._ceiling = max(1, min(self._ceiling, self._most - 1))
                    self._most = min(self._most, self._ceiling)
                self._on_obstacle(later.cause)
                await asyncio.sleep(max(pause, min(later.seconds, _LONGEST_RETRY_SECONDS)))
                pause = min(2 * pause, _LONGEST_RETRY_SECONDS)


@contextmanager
def _ending() -> Iterator[list["asyncio.Task[Any]"]]:
    """Tasks that are put into the list do not outlive the block."""
    tasks: list[asyncio.Task[Any]] = []
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
