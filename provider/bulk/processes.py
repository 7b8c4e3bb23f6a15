"""Engines in processes of their own, each on its share of the cores or on an accelerator of its own."""

import asyncio
import itertools
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

from attrs import evolve

from provider.bulk.embedder import ENGINE_CALLS, ENGINE_TEXTS, MOST_CHARACTERS, Options, Problem
from provider.bulk.messages import ChildFailed, Order, Ready, Setup, frame, next_reply
from provider.bulk.pool import Pool
from provider.cores import Worker
from provider.domain import Embedded
from provider.errors import EmbeddingFailed
from provider.settings import Settings
from provider.texts.records import Record

_EXIT_SECONDS = 5


class EngineProcess:
    """An engine in another process as an `Embedder`; see `EngineEmbedder`."""

    most_texts, most_characters, most_calls = ENGINE_TEXTS, MOST_CHARACTERS, ENGINE_CALLS
    can_check = True

    def __init__(self, setup: Setup) -> None:
        """Nothing is started before `start`."""
        self.model = self.fingerprint = ""
        self.dimension = 0
        self.facts: Mapping[str, object] = {}
        self.about: Mapping[str, object] = {}
        self._setup = setup
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._end = ""

    async def start(self) -> None:
        """Start the process, and load the model.

        Raises:
            ProviderError: it cannot be loaded, or an option is not for it.
        """
        # Signals of the terminal are for the first process, which ends the others.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "provider.bulk.child", stdin=PIPE, stdout=PIPE, process_group=0
        )
        self._reading = asyncio.create_task(self._read(self._process))
        ready: Ready = await self._ask("open", self._setup)
        self.model, self.fingerprint, self.dimension = ready.model, ready.fingerprint, ready.dimension
        self.facts, self.about = ready.facts, ready.about

    async def begin(self) -> None:
        """See `Embedder`; it has been started."""

    async def check(self, records: Sequence[Record]) -> Sequence[Problem]:
        """See `Embedder`."""
        found: Sequence[Problem] = await self._ask("check", _bare(records))
        return found

    async def embed(self, records: Sequence[Record]) -> Embedded:
        """See `Embedder`."""
        embedded: Embedded = await self._ask("embed", _bare(records))
        return embedded

    async def close(self) -> None:
        """End the process; what it computes is given up."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not self.model and self._process.returncode is None:
            # It does not listen while it loads.
            self._process.kill()
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def _ask(self, kind: Literal["open", "check", "embed"], content: Setup | Sequence[Record]) -> Any:  # noqa: ANN401 - as the child answers
        assert self._process is not None, "`start` comes first"  # noqa: S101
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        if self._end:
            raise EmbeddingFailed(self._end)
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            # If the process has ended, `_read` says how.
            with suppress(ConnectionError):
                self._process.stdin.write(frame(Order(number, kind, content)))
                await self._process.stdin.drain()
            return await answer
        finally:
            del self._waiting[number]

    async def _read(self, process: Process) -> None:
        """Hand answers to those who wait for them, until the process ends."""
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        while (reply := await next_reply(process.stdout)) is not None:
            waiting = self._waiting.get(reply.number)
            if waiting is None or waiting.done():
                continue
            if isinstance(reply.content, ChildFailed):
                waiting.set_exception(reply.content.error())
            else:
                waiting.set_result(reply.content)
        code = await process.wait()
        ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        self._end = f"the process of an engine ended {ended}"
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(EmbeddingFailed(self._end))


@asynccontextmanager
async def engines(
    count: int, settings: Settings, options: Options, prompt: str | None, *, notify: Callable[[str], object]
) -> AsyncIterator[Pool]:
    """Engines in so many processes, each with its share of the cores.

    Args:
        count: processes.
        settings: of each engine, with one model.
        options: asked for with every text.
        prompt: what stood behind the model's name, as in `name:query`.
        notify: told in a sentence what should be known.

    Raises:
        ProviderError: the model cannot be loaded, or an option is not for it.
    """
    members = [EngineProcess(Setup(settings, options, prompt, Worker(number, count))) for number in range(count)]
    try:
        # The others find what the first has downloaded, converted and measured.
        await members[0].start()
        await asyncio.gather(*(each.start() for each in members[1:]))
        named = {f"process {number}": each for number, each in enumerate(members)}
        async with Pool.opened(named, notify=notify) as pool:
            yield pool
    finally:
        await asyncio.gather(*(each.close() for each in members))


def _bare(records: Sequence[Record]) -> Sequence[Record]:
    """Without their fields, which stay here."""
    return [evolve(each, fields=None) for each in records]
