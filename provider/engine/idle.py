"""What lanes do while nothing waits: passes that measure, and changes between passes. `Lanes` guards and runs it."""

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from attrs import define, field

Work = Callable[[], object]

# For so long lanes that could run rows wait for one that is in a pass.
_DRAIN_SECONDS = 10.0


@define(eq=False)
class IdleTask:
    """Functions that run side by side, one a lane; `before` and `after` all of them, while no pass runs.

    Attributes:
        is_alone: whether no lane runs anything else meanwhile.
        drains: whether lanes take no rows until it begins, so that it does not wait for an idle moment.
        error: what one of them raised, or why all were given up.
        is_done: whether all have ended, or were given up.
    """

    work: Sequence[Work]
    is_alone: bool
    before: Callable[[], None] | None
    after: Callable[[], None] | None
    drains: bool = False
    error: Exception | None = None
    is_done: bool = False
    _left: int = field(init=False)
    _since: float = field(factory=time.monotonic)
    _spans: list[tuple[float, float]] = field(factory=list)

    @_left.default
    def _all(self) -> int:
        return len(self.work)

    @property
    def seconds(self) -> float:
        """From the first beginning to the last end."""
        return max(end for _, end in self._spans) - min(begin for begin, _ in self._spans)

    @property
    def is_draining(self) -> bool:
        """Whether lanes still wait for it."""
        return self.drains and time.monotonic() - self._since < _DRAIN_SECONDS

    def run(self, work: Work) -> None:
        """Run one of its functions, on the lane's thread."""
        begin = time.perf_counter()
        try:
            work()
        except MemoryError as exc:
            # A new one: the frames of this one's traceback hold what filled the memory.
            self.error = MemoryError(str(exc))
        except BaseException as exc:  # noqa: BLE001 - whatever it raises, the lane lives on
            self.error = exc if isinstance(exc, Exception) else RuntimeError(repr(exc))
        self._spans.append((begin, time.perf_counter()))

    def ended(self) -> bool:
        """One of its functions has ended; whether it was the last."""
        self._left -= 1
        return not self._left


class IdleWork:
    """Tasks that wait for idle lanes, and the one under way. Not thread-safe."""

    def __init__(self) -> None:
        """There are none."""
        self._tasks: deque[IdleTask] = deque()
        self._current: IdleTask | None = None
        self._waiting: set[int] = set()
        self._given: dict[int, tuple[IdleTask, Work]] = {}
        self._lanes: dict[int, IdleTask] = {}
        self._after: Callable[[], None] | None = None
        self._most = 0

    @property
    def is_alone(self) -> bool:
        """Whether a task is under way beside which nothing runs."""
        return self._current is not None and self._current.is_alone

    @property
    def drains(self) -> bool:
        """Whether lanes take no rows, as the next task is to begin."""
        return self._current is None and bool(self._tasks) and self._tasks[0].is_draining

    def put(self, task: IdleTask) -> None:
        """Queue a task; `begin` starts it."""
        self._most = max(self._most, len(task.work))
        self._tasks.append(task)

    def wants(self, lane: int) -> bool:
        """Whether tasks need so many lanes."""
        return lane < self._most

    def release(self) -> None:
        """No task needs further lanes than those that serve."""
        self._most = 0

    def waits(self, lane: int) -> None:
        """A lane has nothing to do."""
        self._waiting.add(lane)

    def begin(self, *, is_quiet: bool) -> bool:
        """Hand the next task to lanes that wait, if enough do; whether it was.

        Args:
            is_quiet: whether no lane runs anything.
        """
        if self._current is not None or not self._tasks or len(self._waiting) < len(self._tasks[0].work):
            return False
        if self._tasks[0].is_alone and not is_quiet:
            return False
        task = self._current = self._tasks.popleft()
        if task.before is not None:
            task.before()
        for lane, work in zip(sorted(self._waiting), task.work, strict=False):
            self._given[lane] = task, work
        return True

    def next_of(self, lane: int) -> Callable[[], None] | None:
        """What was handed to a lane, which does not wait any more."""
        self._waiting.discard(lane)
        if (given := self._given.pop(lane, None)) is None:
            return None
        task, work = given
        self._lanes[lane] = task
        return lambda: task.run(work)

    def ended(self, lane: int, *, is_quiet: bool) -> bool:
        """A lane has ended a pass; whether others may go on.

        Args:
            lane: which one.
            is_quiet: whether no lane runs anything now.
        """
        task = self._lanes.pop(lane, None)
        if task is not None and task.ended() and not task.is_done:
            self._finish(task)
        if self._after is not None and is_quiet:
            self._after()
            self._after = None
        return task is not None

    def give_up(self, lanes: Collection[int], error: Exception) -> bool:
        """End the task under way if one of these lanes, which hang, has a part of it; whether it was ended."""
        task = self._current
        if task is None or not any(self._lanes.get(lane) is task for lane in lanes):
            return False
        task.error = error
        self._given.clear()
        self._finish(task)
        return True

    def _finish(self, task: IdleTask) -> None:
        task.is_done, self._current, self._after = True, None, task.after
