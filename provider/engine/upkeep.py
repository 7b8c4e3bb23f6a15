"""Care for the models while the engine is open: hung lanes, failed loads, idle models, memory."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from attrs import define

from provider.backends import Memory
from provider.backends.protocol import PROCESS
from provider.errors import ModelFailed, ModelLoading
from provider.resident import give_memory_back
from provider.settings import MemorySettings

if TYPE_CHECKING:
    from provider.engine.runtime import ModelRuntime

_TICK_SECONDS = 1.0
# What the allocator holds free grows as entries of the cache come and go; giving it back takes some milliseconds.
_TICKS_UNTIL_TRIM = 60
_FIRST_RETRY_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 300.0
# Of the container's limit; the rest is for requests, the cache and libraries.
_SHARE = 0.8
# So long a model that is to load waits for others that are in use, and so often it looks at them.
_ROOM_SECONDS, _ROOM_TICK_SECONDS = 10.0, 0.01


@define
class ModelUse:
    """Who uses a model, and what it holds.

    Attributes:
        requests: under way.
        place: whose memory it is in: as in `Memory`.
        last: when the last one was answered, by `clock`.
        bytes: measured when it was loaded: what is held there more, at least the size of the weights.
        failures: loads that failed in a row.
    """

    clock: Callable[[], float]
    requests: int = 0
    place: str = PROCESS
    last: float = 0.0
    bytes: int = 0
    failures: int = 0

    def __enter__(self) -> None:
        """A request begins: the model is kept until it ends."""
        self.requests += 1

    def __exit__(self, *_: object) -> None:
        """It ends."""
        self.requests -= 1
        self.last = self.clock()

    @property
    def retry_seconds(self) -> float:
        """Pause before the next try: twice as long after each failure."""
        return min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** max(0, self.failures - 1))


class ModelUpkeep:
    """Looks at all models again and again. Used on the event loop's thread only."""

    def __init__(
        self,
        runtimes: Mapping[str, "ModelRuntime"],
        settings: MemorySettings,
        *,
        clock: Callable[[], float],
    ) -> None:
        """Nothing is watched until `run`.

        Args:
            runtimes: the models that there are at each moment.
            settings: how much memory they may hold.
            clock: seconds, monotonic.
        """
        self._settings = settings
        self._runtimes, self._clock = runtimes, clock
        self.on_stalled: Callable[[str], None] = lambda _: None
        self.coming: Callable[[], Iterable[ModelRuntime]] = tuple

    async def run(self) -> None:
        """Look once a second, and give free memory back once a minute, until cancelled."""
        for tick in itertools.count(1):
            await asyncio.sleep(_TICK_SECONDS)
            await self.look()
            if tick % _TICKS_UNTIL_TRIM == 0:
                # Not awaited, and left out where the system has no thread left: looking must go on.
                with contextlib.suppress(RuntimeError):
                    threading.Thread(target=give_memory_back, name="give memory back", daemon=True).start()

    async def look(self) -> None:
        """Fail rows of hung lanes, try failed loads again, and unload idle models."""
        for name, runtime in tuple(self._runtimes.items()):
            if runtime.fail_stalled():
                self.on_stalled(name)
            runtime.retry_loading()
            idle = runtime.settings.idle_unload_seconds
            is_idle = self._may_leave(runtime) and not runtime.is_in_use
            if idle is not None and is_idle and self._clock() - runtime.use.last >= idle:
                await self._unload(runtime, f"idle for {idle} s")
        for runtime in tuple(self.coming()):
            runtime.fail_stalled()

    async def make_room(self, runtime: "ModelRuntime", size: int, memory: Memory) -> None:
        """Unload idle lazy models, the least recently used first, until a lazy one of `size` bytes fits into `memory`.

        Those that are in use are waited for.

        Raises:
            ModelFailed: there is not enough to unload.
            ModelLoading: there would be, but it is in use all the time.
        """
        settings, is_process = self._settings, memory.place == PROCESS
        share = None if memory.limit is None else int(_SHARE * memory.limit)
        budget = (settings.max_model_bytes if is_process else settings.max_device_bytes) or share
        if budget is None or not runtime.settings.lazy:
            return
        now = asyncio.get_running_loop().time
        deadline = now() + _ROOM_SECONDS
        while (held := sum(each.use.bytes for each in self._in(memory))) + size > budget:
            others = [each for each in self._in(memory) if each is not runtime and self._may_leave(each)]
            idle = [each for each in others if not each.is_in_use]
            unloadable = sum(each.use.bytes for each in others)
            msg = (
                f"the model {runtime.name!r} needs about {size} bytes, but loaded models hold {held} of {budget}, of "
                f"which {unloadable} can be unloaded; raise memory.max_{'model' if is_process else 'device'}_bytes, or "
                "make models lazy"
            )
            if held - unloadable + size > budget:
                raise ModelFailed(msg)
            if idle:
                await self._unload(min(idle, key=lambda each: each.use.last), f"room for {runtime.name}")
            elif now() < deadline:
                await asyncio.sleep(_ROOM_TICK_SECONDS)
            else:
                msg = f"{msg}; they were in use for {_ROOM_SECONDS:g} s"
                raise ModelLoading(msg)

    def _in(self, memory: Memory) -> list["ModelRuntime"]:
        return [each for each in self._runtimes.values() if each.use.place == memory.place]

    def _may_leave(self, runtime: "ModelRuntime") -> bool:
        """Whether the model is unloaded when it is idle and others need its room."""
        return runtime.settings.lazy and not runtime.settings.pinned and runtime.loaded is not None

    async def _unload(self, runtime: "ModelRuntime", reason: str) -> None:
        await runtime.unload(reason)
        give_memory_back()
