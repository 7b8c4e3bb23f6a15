"""A vector store that costs little when it is slow or broken: calls have a deadline, and what fails is skipped."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, TypeVar

from attrs import define

from provider.engine.hooks import Hook, StoreChanged
from provider.vector_stores import VectorStore

T = TypeVar("T")

# Nobody waits for a write.
_WRITE_SECONDS = 1.0
_CLOSE_SECONDS = 1.0
# Between attempts at a store that does not work; longer where it soon fails again.
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, _STEADY_SECONDS = 1.0, 16.0, 10.0
# An event loop that is late itself is not the store's fault: so many turns to take what has arrived meanwhile.
_TURNS = 8
# Of the time that requests have for a lookup: what fails is known before they stop waiting.
_CALL_SHARE = 0.9
_PROBE = b"probe"


@define(eq=False)
class _Operation:
    """Whether reading, or writing, works.

    Attributes:
        pause: seconds between attempts while it does not.
        retry_at: when the next one is due.
    """

    name: Literal["read", "write"]
    store: str
    hooks: Hook
    clock: Callable[[], float]
    works: bool = True
    pause: float = _PAUSE_SECONDS
    retry_at: float = 0.0
    works_since: float = float("-inf")

    def failed(self, exc: Exception) -> None:
        """Listeners are told once, until it works again."""
        now = self.clock()
        if self.works:
            is_steady = now - self.works_since >= _STEADY_SECONDS
            self.pause = _PAUSE_SECONDS if is_steady else min(2 * self.pause, _LONGEST_PAUSE_SECONDS)
            self.works = False
            self.hooks(StoreChanged(self.store, self.name, is_up=False, reason=f"{type(exc).__name__}: {exc}"))
        self.retry_at = now + self.pause

    def succeeded(self) -> None:
        if not self.works:
            self.works, self.works_since = True, self.clock()
            self.hooks(StoreChanged(self.store, self.name, is_up=True))


class GuardedStore:
    """A store that raises nothing. Used on the event loop's thread only, for one call of each method at a time.

    Once a lookup fails, or takes too long, the store is skipped until it answers a probe in the background. Once
    writing alone fails, as it does where a server is full, lookups go on, and a write is tried now and then.
    """

    def __init__(
        self,
        store: VectorStore,
        name: str,
        *,
        timeout_seconds: float,
        hooks: Hook,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked of the store yet.

        Args:
            store: opened; it belongs to this object.
            name: of the store, for listeners.
            timeout_seconds: most that a request waits for a lookup.
            hooks: told when the store fails, and when it works again.
            clock: seconds, monotonic.
        """
        self._store, self._clock, self.timeout_seconds = store, clock, timeout_seconds
        self._reading, self._writing = _Operation("read", name, hooks, clock), _Operation("write", name, hooks, clock)
        self._calls: set[asyncio.Task[Any]] = set()
        self._probing: asyncio.Task[None] | None = None

    @property
    def can_read(self) -> bool:
        """Whether lookups are worth a call."""
        return self._reading.works

    @property
    def can_write(self) -> bool:
        """Whether writes are."""
        return self._reading.works and (self._writing.works or self._clock() >= self._writing.retry_at)

    async def read(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes | None] | None:
        """The value of each key, or None for what is not there; None at all if the store failed."""
        try:
            values = await self._call(self._store.get_many(keys), _CALL_SHARE * self.timeout_seconds)
            return dict(zip(keys, values, strict=True))
        except Exception as exc:  # noqa: BLE001 - whatever a store raises
            self._fail(exc)
            return None

    async def write(self, entries: Mapping[bytes, bytes]) -> bool:
        """Whether the entries were written."""
        try:
            await self._call(self._store.set_many(entries), max(_WRITE_SECONDS, self.timeout_seconds))
        except Exception as exc:  # noqa: BLE001 - whatever a store raises
            # One that is gone fails in both ways, and is told of once.
            if await self._answers():
                self._writing.failed(exc)
            else:
                self._fail(exc)
            return False
        self._writing.succeeded()
        return True

    async def close(self) -> None:
        """Close the store; a second at most."""
        if self._probing is not None:
            self._probing.cancel()
        try:
            await self._call(self._store.close(), _CLOSE_SECONDS)
        except Exception:  # noqa: BLE001 - whatever a store raises: nothing is lost
            return

    def _fail(self, exc: Exception) -> None:
        self._reading.failed(exc)
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe(), name="probe the vector store")

    async def _probe(self) -> None:
        while not self._reading.works:
            await asyncio.sleep(self._reading.pause)
            # One that ignores that it was cancelled is not called again before it ends.
            if not self._calls and await self._answers():
                self._reading.succeeded()

    async def _answers(self) -> bool:
        """Whether the store looks up a key in time."""
        try:
            await self._call(self._store.get_many([_PROBE]), _CALL_SHARE * self.timeout_seconds)
        except Exception:  # noqa: BLE001 - whatever a store raises
            return False
        return True

    async def _call(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """What `work` gives, within `seconds`, whatever it does about being cancelled.

        Raises:
            TimeoutError: it takes longer.
        """
        task = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait((task,), timeout=seconds)
        for _ in range(_TURNS):
            if task.done():
                break
            await asyncio.sleep(0)
        if not task.done() or task.cancelled():
            task.cancel()
            msg = f"no answer within {seconds * 1000:g} ms"
            raise TimeoutError(msg)
        return task.result()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._calls.discard(task)
        # asyncio complains of errors that nobody has looked at.
        if not task.cancelled():
            task.exception()
