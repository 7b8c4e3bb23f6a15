"""What holds a job up, and for how long before it is said."""

import asyncio
import io
import re
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from provider.errors import LimitExceeded, StorageFull
from provider.jobs.records import Pause

# What holds a job up for longer is said.
_PAUSE_SECONDS = 3.0
_DISK_RETRY_SECONDS = 2.0

T = TypeVar("T")


class Obstacles:
    """Those of one job. Used on the event loop's thread.

    Attributes:
        pause: why the job does not advance, as it was last said.
    """

    def __init__(self, pause: Pause | None) -> None:
        """The job advances from now on; `pause` was said before."""
        self.pause = pause
        self._met: tuple[str, str] | None = None
        self._advanced_at = time.monotonic()

    def meet(self, cause: Exception) -> None:
        """A request has to wait because of `cause`."""
        self._met = (_code(cause), str(cause))

    def meet_at_disk(self, cause: Exception) -> None:
        """The disk is full or fails."""
        # Callers read it: no path of ours.
        message = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
        self._met = (cause.code if isinstance(cause, StorageFull) else "disk_error", message)

    def advanced(self) -> None:
        """Nothing holds the job up any more."""
        self._advanced_at, self._met, self.pause = time.monotonic(), None, None

    def to_tell(self, now: int) -> Pause | None:
        """A `pause` to be said now, if there is one, in seconds since 1970."""
        if self._met is None or time.monotonic() - self._advanced_at <= _PAUSE_SECONDS:
            return None
        code, message = self._met
        if self.pause is not None and self.pause.code == code:
            return None
        self.pause = Pause(code, message, now)
        return self.pause

    async def until_done(self, work: Callable[[], T]) -> T:
        """What `work` returns in a thread; it is tried again while the disk is full or fails."""
        while True:
            try:
                return await finished(work)
            except (StorageFull, OSError, sqlite3.Error) as exc:
                self.meet_at_disk(exc)
            await asyncio.sleep(_DISK_RETRY_SECONDS)


async def finished(work: Callable[[], T]) -> T:
    """What `work` returns in a thread.

    Cancelled, it still waits for its end: nothing is written behind our back, and a file that was opened is closed.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if task.exception() is None and isinstance(found := task.result(), io.IOBase):
            found.close()
        raise


def _code(cause: Exception) -> str:
    if isinstance(cause, LimitExceeded):
        return "rate_limit"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(cause).__name__).lower()
