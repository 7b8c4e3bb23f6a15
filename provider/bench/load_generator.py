"""Load on a target, closed or open loop. Knows neither HTTP nor the engine; runs on an event loop's thread.

In a closed loop the next request waits for an answer, so a target that stalls is asked less, and the requests that
would have met the stall are missing from the percentiles (coordinated omission). In an open loop requests are due at
times that do not depend on answers, and their latency counts from then on, whether they could be sent in time or not.
"""

import asyncio
import random
import time
from array import array
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol

from provider.bench.figures import percentile
from provider.bench.messages import Arrivals, Outcome, Slice

Done = Callable[[int | None, str | None], None]
"""Called once a request, never from within `begin`: its tokens (None: not known), and the kind of failure or None."""

TIMEOUT = "timeout"


class Target(Protocol):
    """Whatever takes requests.

    Attributes:
        messages: of the first failure of each kind.
    """

    messages: dict[str, str]

    def begin(self, done: Done) -> None:
        """Send the next request."""
        ...

    def abandon(self) -> None:
        """Give up all requests under way; each is `done` with the failure `TIMEOUT`."""
        ...


class LoadGenerator:
    """One slice of load on one target."""

    def __init__(self, target: Target, load_slice: Slice, clock: Callable[[], float] = time.perf_counter) -> None:
        """Nothing is sent until `run`."""
        self._target, self._slice, self._load, self._clock = target, load_slice, load_slice.load, clock
        self._loop = asyncio.get_running_loop()
        self._finished = self._loop.create_future()
        self._until = self._last = 0.0
        self._open = 0
        self._requests, self._tokens, self._knows_tokens = 0, 0, True
        # 8 bytes a request: a slice may have hundreds of thousands.
        self._latencies, self._lateness = array("d"), array("d")
        self._errors: Counter[str] = Counter()
        self._due: list[float] = []
        self._sent = 0

    async def run(self) -> Outcome:
        """Bear the load, wait for what is under way at its end, and say what came of it."""
        slice_, load = self._slice, self._load
        started = self._last = self._clock()
        self._until = started + slice_.seconds
        if load.rate is None:
            for _ in range(load.concurrency or 1):
                self._send(self._clock())
        else:
            offsets = arrival_times(load.rate, slice_.seconds, load.arrivals, slice_.seed)
            self._due = [started + offset for offset in offsets]
            self._send_due()
        done, _ = await asyncio.wait([self._finished], timeout=slice_.seconds + slice_.timeout)
        if not done:
            self._target.abandon()
            await self._finished
        seconds = self._last - started
        return Outcome(
            requests=self._requests,
            texts=self._requests * load.batch,
            tokens=self._tokens if self._knows_tokens and self._requests else None,
            seconds=max(seconds, slice_.seconds) if load.rate is not None else seconds,
            latencies_us=[round(each * 1e6) for each in self._latencies],
            errors=dict(self._errors),
            messages=dict(self._target.messages),
            lateness_us=round(percentile(sorted(self._lateness), 0.99) * 1e6) if self._lateness else 0,
        )

    def _send(self, since: float) -> None:
        self._open += 1
        self._target.begin(partial(self._done, since))

    def _send_due(self) -> None:
        """Send what is due, and come back when the next one is. A timer that is late is made up for at once."""
        while self._sent < len(self._due) and (due := self._due[self._sent]) <= (now := self._clock()):
            self._lateness.append(now - due)
            self._sent += 1
            self._send(due)
        if self._sent < len(self._due):
            self._loop.call_later(max(0.0, self._due[self._sent] - self._clock()), self._send_due)

    def _done(self, since: float, tokens: int | None, error: str | None) -> None:
        self._last = now = self._clock()
        self._open -= 1
        if error is None:
            self._requests += 1
            self._latencies.append(now - since)
            if tokens is None:
                self._knows_tokens = False
            else:
                self._tokens += tokens
        else:
            self._errors[error] += 1
        if self._load.rate is None and now < self._until:
            self._send(now)
        elif not self._open and self._sent == len(self._due) and not self._finished.done():
            self._finished.set_result(None)


def arrival_times(rate: float, seconds: float, arrivals: Arrivals, seed: int) -> list[float]:
    """Seconds from the start, ascending, below `seconds`: `rate * seconds` of them, and at least one.

    Args:
        rate: requests a second.
        seconds: for how long.
        arrivals: `even` has the same pause between any two. `poisson` has them fall anywhere, as from many callers who
            know nothing of each other: a Poisson process of which the number is given is so many independent times of
            a uniform distribution (S. Ross, "Stochastic Processes", theorem 2.3.1).
        seed: the same seed gives the same times.
    """
    count = max(1, round(rate * seconds))
    if arrivals == "even":
        return [i / rate for i in range(count)]
    chance = random.Random(seed)  # noqa: S311 - no secret
    return sorted(chance.random() * seconds for _ in range(count))
