"""How fast a model runs: tokens a second, as measured over the last passes of each lane; and passes that hang."""

import math
from collections.abc import Callable

from attrs import define

from provider.backends import Backend, BackendTraits, TokenBatch
from provider.domain import Outputs

# A change is half noticed after 1.4 s of passes.
_SECONDS = 2.0
# A pass that takes so much longer than expected, and at least so long, counts before it has ended.
_OVERDUE, _LEAST_OVERDUE_SECONDS = 2.0, 1.0


@define
class _Pass:
    """A pass under way: of so many tokens, since then."""

    tokens: int
    since: float


class Throughput:
    """Measured by lane, so that one that hangs is noticed whatever the others do. Not thread-safe."""

    def __init__(self, lanes: int, clock: Callable[[], float]) -> None:
        """Nothing has been measured.

        Args:
            lanes: passes at a time.
            clock: seconds, monotonic.
        """
        self._lanes, self._clock = lanes, clock
        self._rates: dict[int, float] = {}
        self._running: dict[int, _Pass] = {}
        self._ended: dict[int, float] = {}

    def resize(self, lanes: int) -> None:
        """Measure so many lanes from now on; all together are taken to be as fast as those before."""
        rate = self.tokens_per_second
        self._lanes = lanes
        self._ended.clear()
        self._rates = dict.fromkeys(range(lanes), rate / lanes) if rate else {}

    def change_lanes(self, lanes: int) -> None:
        """Measure so many lanes from now on, each taken to be as fast as those before."""
        self._lanes = lanes

    def stalled(self, seconds: float) -> list[int]:
        """Lanes whose pass has been running for longer than `seconds`."""
        now = self._clock()
        return [lane for lane, each in self._running.items() if now - each.since > seconds]

    def began(self, lane: int, tokens: int, *, went_on: bool = False) -> None:
        """A lane began a pass.

        Args:
            lane: which.
            tokens: of the pass.
            went_on: whether the lane has waited for nothing since its last pass: what lies between them takes time too.
        """
        now = self._clock()
        self._running[lane] = _Pass(tokens, self._ended.get(lane, now) if went_on else now)

    def ended(self, lane: int, *, is_full: bool, worked: bool = True) -> None:
        """The pass of a lane ended.

        Args:
            lane: which began it.
            is_full: whether more rows waited than it could take. A small pass only shows that the lane is no slower.
            worked: whether it gave outputs. One that failed says nothing: it may have ended at once.
        """
        done = self._running.pop(lane)
        now = self._ended[lane] = self._clock()
        if not worked:
            return
        seconds = max(now - done.since, 1e-6)
        rate, before = done.tokens / seconds, self._rates.get(lane)
        if before is None or (rate > before and not is_full):
            self._rates[lane] = rate
        elif is_full:
            self._rates[lane] = rate + (before - rate) * math.exp(-seconds / _SECONDS)

    @property
    def tokens_per_second(self) -> float:
        """Of all lanes, each as if it were busy; 0 as long as nothing has been measured."""
        if not self._rates:
            return 0.0
        usual = sum(self._rates.values()) / len(self._rates)
        return sum(self._of_lane(lane, usual) for lane in range(self._lanes))

    def _of_lane(self, lane: int, usual: float) -> float:
        rate, running = self._rates.get(lane, usual), self._running.get(lane)
        if running is None:
            return rate
        seconds = self._clock() - running.since
        is_overdue = seconds > max(_LEAST_OVERDUE_SECONDS, _OVERDUE * running.tokens / rate)
        return min(rate, running.tokens / seconds) if is_overdue else rate


class PassWatch:
    """Sees a pass that hangs before there are lanes: while a model is loaded. One thread runs passes, any may look."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Nothing runs.

        Args:
            clock: seconds, monotonic.
        """
        self._clock = clock
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """For how long the pass under way has been running; 0 if there is none."""
        since = self._since
        return 0.0 if since is None else self._clock() - since

    def run(self, backend: Backend, batch: TokenBatch) -> Outputs:
        """A pass, seen."""
        self._since = self._clock()
        try:
            return backend.run(batch)
        finally:
            self._since = None


class WatchedBackend:
    """A loaded backend whose passes are seen."""

    def __init__(self, backend: Backend, watch: PassWatch) -> None:
        """It stays the caller's to close."""
        self._backend, self._watch = backend, watch

    @property
    def traits(self) -> BackendTraits:
        """See `Backend`."""
        return self._backend.traits

    def run(self, batch: TokenBatch) -> Outputs:
        """See `Backend.run`."""
        return self._watch.run(self._backend, batch)
