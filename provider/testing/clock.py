"""Time that passes when a test says so."""


class TickingClock:
    """A monotonic clock for tests. Call it for the time in seconds; `advance` moves it.

    Attributes:
        tick: seconds that every look at the clock takes; 0 for a clock that stands still.
    """

    def __init__(self, now: float = 1000.0, *, tick: float = 0.0) -> None:
        """Start at `now`."""
        self.now, self.tick = now, tick

    def __call__(self) -> float:
        """The time."""
        self.now += self.tick
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds
