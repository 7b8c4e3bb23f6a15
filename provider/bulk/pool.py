"""Several embedders as one: each call goes to one that is free, and again to another if that one is not available."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self, TypeVar

from attrs import define

from provider.bulk.embedder import Embedder, Problem, Unavailable
from provider.domain import Embedded
from provider.errors import ProviderError, ServerFailed
from provider.texts.records import Record

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 60.0
# Results wait for those of earlier texts: a slow embedder holds up the others when so many times their calls wait.
_WAITING_RESULTS = 4

Pause = Callable[[float], Awaitable[object]]


@define(eq=False)
class Member:
    """An embedder of the pool.

    Attributes:
        name: for messages.
        calls: under way.
        failures: in a row.
        is_resting: whether it is left alone for now.
        is_given_up: whether its last failure was one too many; it is asked again after a pause, while others work.
        has_begun: whether its attributes are known.
    """

    name: str
    embedder: Embedder
    calls: int = 0
    failures: int = 0
    is_resting: bool = False
    is_given_up: bool = False
    has_begun: bool = False

    @property
    def is_free(self) -> bool:
        """Whether it takes another call: one only as long as it is not known to work again."""
        most = 1 if self.failures else self.embedder.most_calls
        return not self.is_resting and self.calls < most


class Pool:
    """Embedders of one model as one `Embedder`. Made by `opened`."""

    def __init__(self, members: Sequence[Member], pause: Pause, notify: Callable[[str], object]) -> None:
        self._members, self._pause, self._notify = members, pause, notify
        self._waiting: deque[asyncio.Future[Member]] = deque()
        self._rests: set[asyncio.Task[None]] = set()
        first = members[0].embedder
        self.most_texts, self.most_characters = first.most_texts, first.most_characters
        self.can_check = first.can_check
        self.most_calls = sum(member.embedder.most_calls for member in members)
        self.most_calls *= 1 if len(members) == 1 else _WAITING_RESULTS
        self.model = self.fingerprint = ""
        self.dimension = 0
        self.facts: Mapping[str, object] = {}
        self.about: Mapping[str, object] = {}

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        members: Mapping[str, Embedder],
        *,
        pause: Pause = asyncio.sleep,
        notify: Callable[[str], object],
    ) -> AsyncIterator[Self]:
        """All of `members`, by name; those that are not available yet join when they are.

        Args:
            members: by name, at least one.
            pause: waits for some seconds; tests do not.
            notify: told in a sentence what should be known.

        Raises:
            ProviderError: one of them cannot embed, or has another model; or none is available.
        """
        pool = cls([Member(name, each) for name, each in members.items()], pause, notify)
        try:
            await pool.begin()
            yield pool
        finally:
            for task in pool._rests:
                task.cancel()
            await asyncio.gather(*pool._rests, return_exceptions=True)

    async def begin(self) -> None:
        """See `Embedder`."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._try(member)) for member in self._members]
        failures = [failure for task in tasks if (failure := task.result()) is not None]
        lasting = [failure for failure in failures if not isinstance(failure, Unavailable)]
        if lasting or len(failures) == len(tasks):
            raise (lasting or failures)[0]
        for member in self._members:
            if member.has_begun:
                self._join(member)

    async def check(self, records: Sequence[Record]) -> Sequence[Problem]:
        """See `Embedder`."""
        return await self._call(lambda embedder: embedder.check(records))

    async def embed(self, records: Sequence[Record]) -> Embedded:
        """See `Embedder`."""
        return await self._call(lambda embedder: embedder.embed(records))

    async def _try(self, member: Member) -> ProviderError | None:
        """Begin, in several attempts; the failure if all were in vain."""
        while True:
            try:
                await member.embedder.begin()
            except Unavailable as exc:
                seconds = self._failed(member, exc)
                if member.is_given_up:
                    if len(self._members) > 1:
                        self._rest(member, seconds)
                    return exc
                await self._pause(seconds)
            except ProviderError as exc:
                return exc
            else:
                member.has_begun, member.failures = True, 0
                return None

    def _join(self, member: Member) -> None:
        """Take over what a member says of its model, and see that it is that of the others.

        Raises:
            ServerFailed: it is another one.
        """
        embedder = member.embedder
        if not self.model:
            self.model, self.fingerprint, self.dimension = embedder.model, embedder.fingerprint, embedder.dimension
            self.facts, self.about = embedder.facts, embedder.about
        if len(self._members) > 1 and not embedder.fingerprint:
            msg = f"{member.name} does not tell the fingerprint of its model, as emb-provider does; use it alone"
            raise ServerFailed(msg)
        if (embedder.fingerprint, embedder.dimension) != (self.fingerprint, self.dimension):
            msg = (
                f"{member.name} has another model than the others: fingerprint {embedder.fingerprint}, "
                f"{embedder.dimension} dimensions, not {self.fingerprint}, {self.dimension}"
            )
            raise ServerFailed(msg)

    async def _call(self, call: Callable[[Embedder], Awaitable[T]]) -> T:
        is_again = False
        while True:
            member = await self._taken(is_again=is_again)
            failures = member.failures
            try:
                if not member.has_begun:
                    await member.embedder.begin()
                    member.has_begun = True
                    self._join(member)
                result = await call(member.embedder)
            except Unavailable as exc:
                # Calls that were under way together fail once.
                if member.failures == failures:
                    seconds = self._failed(member, exc)
                    if all(each.is_given_up for each in self._members):
                        raise
                    self._rest(member, seconds)
                is_again = True
            else:
                member.failures, member.is_given_up = 0, False
                return result
            finally:
                member.calls -= 1
                self._hand_out()

    async def _taken(self, *, is_again: bool) -> Member:
        """A member that is free, with this call counted; calls that come again go first."""
        waiting: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if is_again else self._waiting.append)(waiting)
        self._hand_out()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                waiting.result().calls -= 1
                self._hand_out()
            raise

    def _hand_out(self) -> None:
        while self._waiting:
            free = [member for member in self._members if member.is_free]
            if not free:
                return
            waiting = self._waiting.popleft()
            if not waiting.done():
                member = min(free, key=lambda each: each.calls / each.embedder.most_calls)
                member.calls += 1
                waiting.set_result(member)

    def _failed(self, member: Member, exc: Unavailable) -> float:
        """Count a failure; seconds to wait before the next attempt."""
        member.failures += 1
        if member.failures >= exc.most_attempts and not member.is_given_up:
            member.is_given_up = True
            if not all(each.is_given_up for each in self._members):
                self._notify(f"{exc.message}. The others go on, and it is asked again from time to time")
        pause: float = min(_FIRST_PAUSE_SECONDS * 2 ** min(member.failures - 1, 10), _LONGEST_PAUSE_SECONDS)
        return max(pause, exc.wanted_seconds)

    def _rest(self, member: Member, seconds: float) -> None:
        member.is_resting = True
        task = asyncio.create_task(self._wake(member, seconds))
        self._rests.add(task)
        task.add_done_callback(self._rests.discard)

    async def _wake(self, member: Member, seconds: float) -> None:
        await self._pause(seconds)
        member.is_resting = False
        self._hand_out()
