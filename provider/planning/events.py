"""A clock that jumps from event to event, and cores that jobs share. Knows nothing of what is simulated."""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf, ulp

from attrs import define

# Seconds of work below which a job is done: what is left of it is rounding.
_NOTHING = 1e-12


class Events:
    """What happens when. Calling it gives the time in seconds, so that it is a clock for others.

    Attributes:
        now: the time.
    """

    def __init__(self) -> None:
        """Nothing happens."""
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def __call__(self) -> float:
        """The time."""
        return self.now

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Call `event` at that time; events of one time in the order in which they were asked for."""
        heappush(self._due, (time, next(self._numbers), event))

    def run(self, until: float = inf) -> None:
        """Go through the events up to a time, or until there are none."""
        while self._due and self._due[0][0] <= until:
            self.now, _, event = heappop(self._due)
            event()


@define(eq=False)
class _Job:
    left: float
    done: Callable[[], None]
    cores: int


class Cores:
    """Cores that jobs share.

    Urgent jobs come first: a thread that mostly sleeps, as an event loop's does, gets a core as soon as it wakes up
    (Linux' EEVDF, and CFS before it). The others share what is left evenly.

    Attributes:
        count: of them.
        busy_seconds: of all together, up to the last event.
    """

    def __init__(self, events: Events, count: int) -> None:
        """All are idle."""
        self._events, self.count = events, count
        self._urgent: list[_Job] = []
        self._others: list[_Job] = []
        self._since = 0.0
        self._turn = 0
        self.busy_seconds = 0.0

    def run(self, seconds: float, done: Callable[[], None], *, cores: int = 1, urgent: bool = False) -> None:
        """Begin a job that takes so many seconds of so many cores; `done` is called when it has had them."""
        self._pass_time()
        (self._urgent if urgent else self._others).append(_Job(seconds, done, cores))
        self._plan()

    def _rates(self) -> tuple[float, float]:
        """How fast the urgent jobs go on, and the others: 1 with all the cores that they want."""
        urgent, others = (sum(job.cores for job in jobs) for jobs in (self._urgent, self._others))
        fast = min(1.0, self.count / urgent) if urgent else 0.0
        return fast, min(1.0, (self.count - fast * urgent) / others) if others else 0.0

    def _pass_time(self) -> None:
        seconds = self._events.now - self._since
        self._since = self._events.now
        if seconds:
            for jobs, rate in zip((self._urgent, self._others), self._rates(), strict=True):
                for job in jobs:
                    job.left -= seconds * rate
                    self.busy_seconds += seconds * rate * job.cores

    def _plan(self) -> None:
        """Come back when the next job is done, unless something changes before."""
        self._turn += 1
        soonest = inf
        for jobs, rate in zip((self._urgent, self._others), self._rates(), strict=True):
            if jobs and rate:
                soonest = min(soonest, min(job.left for job in jobs) / rate)
        if soonest < inf:
            turn = self._turn
            self._events.at(self._events.now + max(0.0, soonest), lambda: self._come_back(turn))

    def _come_back(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._pass_time()
        # Late on the clock, its steps are longer than the rest of a job.
        nothing = _NOTHING + 4 * ulp(self._events.now)
        done = [job for jobs in (self._urgent, self._others) for job in jobs if job.left <= nothing]
        self._urgent = [job for job in self._urgent if job.left > nothing]
        self._others = [job for job in self._others if job.left > nothing]
        self._plan()
        for job in done:
            job.done()


class Thread:
    """Does one thing after the other, urgently: an event loop."""

    def __init__(self, cores: Cores) -> None:
        """Nothing is to be done."""
        self._cores = cores
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._is_busy = False

    def run(self, seconds: float, done: Callable[[], None]) -> None:
        """Work so many seconds after what was asked for before, then call `done`."""
        self._waiting.append((seconds, done))
        if not self._is_busy:
            self._next()

    def _next(self) -> None:
        if not self._waiting:
            self._is_busy = False
            return
        self._is_busy = True
        seconds, done = self._waiting.popleft()

        def end() -> None:
            done()
            self._next()

        self._cores.run(seconds, end, urgent=True)
