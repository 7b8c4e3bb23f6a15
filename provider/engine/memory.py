"""What happens when memory runs out: smaller batches for a while, and a row that does not even fit alone runs alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define, evolve

from provider.engine.limits import BatchLimits

# Growth costs at most one failing pass in so many that work.
_STEADY_PASSES = 100
_GROWTH = 1 / 8


@define(eq=False)
class TokenBudget:
    """Tokens of a batch: halved when memory runs out, and grown back slowly. Not thread-safe.

    Attributes:
        limits: as chosen at the start: what the budget grows back to.
        now: what a batch may hold at present.
    """

    limits: BatchLimits
    now: BatchLimits
    _steady: int = 0

    @property
    def is_full(self) -> bool:
        """Whether nothing is held back."""
        return self.now.max_tokens >= self.limits.max_tokens

    def ran_out(self, tokens: int) -> None:
        """Halve: a batch of so many `tokens`, padding counted where it costs, did not fit."""
        self._steady = 0
        self._set(min(self.now.max_tokens, tokens // 2))

    def ran(self) -> None:
        """Count a pass that worked; after enough of them in a row grow by an eighth of the full budget."""
        self._steady += 1
        if self._steady >= _STEADY_PASSES:
            self._steady = 0
            self._set(self.now.max_tokens + max(1, int(_GROWTH * self.limits.max_tokens)))

    def _set(self, tokens: int) -> None:
        self.now = evolve(self.limits, max_tokens=max(1, min(self.limits.max_tokens, tokens)))


class PassLock:
    """Lets forward passes run side by side, or one alone. Passes that want to be alone come first.

    A pass that has waited `wait_seconds` runs beside the others: one that hangs must not stop them all.
    """

    def __init__(self, wait_seconds: float = 10.0) -> None:
        """Nothing runs."""
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._running = self._alone_wanted = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Run beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone_wanted, self._wait_seconds)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run when all others have ended, if they do in time; none begins meanwhile."""
        with self._changed:
            self._alone_wanted += 1
            self._changed.wait_for(lambda: not self._running, self._wait_seconds)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._alone_wanted -= 1
                self._changed.notify_all()
