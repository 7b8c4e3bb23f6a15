"""The queue of one model: what is let in, in which order it runs, and how long that will take.

Requests are interactive or bulk. Interactive ones run first; of the tokens that run while both wait, bulk gets at least
one in nine, so that it never starves. While interactive requests are expected, as many lanes as they need run short
bulk passes only, so that they soon find one free.

A request is let in if it will be answered in time at the measured rate, and refused at once if not. A part of the time
is kept for the error of that estimate. Should it not be enough, the request is refused later, before it is run: nothing
is answered much later than an operator allows. After a refusal, the queue has to become somewhat shorter before the
same caller is let in again. Otherwise the little room that each pass makes would go to the shortest requests, and all
others would be looked at in vain.

Threads and timers are elsewhere: `Lanes` guards a scheduler and runs its batches.
"""

import math
import time
from collections.abc import Callable, Sequence

from attrs import evolve

from provider.domain import Caller, Tier
from provider.engine.batcher import Batcher
from provider.engine.limits import BatchLimits
from provider.engine.memory import TokenBudget
from provider.engine.outcome import BatchOutcome
from provider.engine.rows import Row
from provider.engine.throughput import Throughput
from provider.errors import MOST_RETRY_SECONDS, Overloaded

# A request without a tier is interactive if it fits into one batch, or takes no longer than this.
_INTERACTIVE_SECONDS = 0.25
# After an interactive request, others are expected for so long.
_EXPECTED_SECONDS = 10.0
# A short bulk pass takes about as long as a pass with one text, but has at least this share of a full batch.
_BULK_PASS_SECONDS, _LEAST_BULK_SHARE = 0.01, 1 / 8
# Bulk tokens that run for each interactive one while both wait.
_BULK_SHARE = 1 / 8
# The part of the allowed time that an answer may be expected to take: a machine's speed changes by some percent.
_CERTAIN_SHARE = 0.9
# The part of what is allowed that may be there before a caller who was refused is let in again.
_REFILL_SHARE = 0.95
# Interactive tokens that came in so many seconds tell how fast they come.
_DEMAND_SECONDS = 5.0


class Scheduler:
    """Not thread-safe.

    Attributes:
        throughput: told of every pass.
    """

    def __init__(
        self,
        limits: BatchLimits,
        *,
        max_tokens: int,
        max_wait_seconds: float,
        lanes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing waits.

        Args:
            limits: of a batch.
            max_tokens: most tokens that wait. With an empty queue, a request may have any number.
            max_wait_seconds: how long the answer to a request may take. If nothing of its tier waits when it comes, it
                may take any time.
            lanes: passes at a time.
            clock: seconds, monotonic.
        """
        self._budget, self.throughput = TokenBudget(limits, limits), Throughput(lanes, clock)
        self._max_tokens, self._max_wait_seconds = max_tokens, max_wait_seconds
        self._lanes, self._clock = lanes, clock
        # By length, bulk passes are somewhat faster; interactive requests should not wait for their like.
        self._interactive = Batcher(by_age=limits.padding_is_free and not limits.equal_lengths)
        self._bulk = Batcher()
        self._bulk_due = 0.0
        # Lanes whose pass is a bulk one of any length.
        self._long: set[int] = set()
        self._demand, self._interactive_at = 0.0, -math.inf
        # Tiers and names of callers who were refused last.
        self._refusing: set[tuple[Tier, str]] = set()

    @property
    def limits(self) -> BatchLimits:
        """Of the batches from now on."""
        return self._budget.now

    @property
    def is_full_size(self) -> bool:
        """Whether batches are as large as they were at the start: memory has not run out lately."""
        return self._budget.is_full

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._interactive.rows + self._bulk.rows

    @property
    def tokens(self) -> int:
        """Tokens that wait."""
        return self._interactive.tokens + self._bulk.tokens

    @property
    def expected_seconds(self) -> float:
        """How long all that waits will take; 0 as long as the rate is not known."""
        rate = self.throughput.tokens_per_second
        return self.tokens / rate if rate else 0.0

    def resize(self, lanes: int, limits: BatchLimits) -> None:
        """Make such batches for `lanes` passes at a time from now on, none of which runs now."""
        if limits != self._budget.limits:
            self._budget = TokenBudget(limits, limits)
        self._lanes = lanes
        self._long.clear()
        self.throughput.resize(lanes)

    def change_lanes(self, lanes: int) -> None:
        """Make batches for `lanes` passes at a time from now on, each as fast as before; others may still run."""
        self._lanes = lanes
        self._long = {lane for lane in self._long if lane < lanes}
        self.throughput.change_lanes(lanes)

    def ended(self, outcome: BatchOutcome) -> None:
        """Make smaller batches if memory ran out in a pass, and larger ones again when enough of them worked."""
        if outcome.ran_out:
            self._budget.ran_out(self.limits.cost([row.tokens for row in outcome.rows]))
        elif outcome.error is None and not self.is_full_size:
            self._budget.ran()

    def wait_seconds(self, caller: Caller) -> float:
        """How long a request of `caller` with hardly a token would wait; 0 as long as the rate is not known."""
        return self._seconds_until_answer(self._tier(1, caller), 1, caller)

    def add(self, rows: Sequence[Row]) -> None:
        """Let the rows of a request in, all or none.

        Raises:
            Overloaded: see `check`.
        """
        tokens, caller, now = sum(row.tokens for row in rows), rows[0].caller, self._clock()
        tier = self._tier(tokens, caller)
        self.check(tokens, caller)
        ahead = self._interactive if tier == "interactive" else self._bulk
        due = now + self._max_wait_seconds if ahead.tokens else math.inf
        for row in rows:
            row.tier, row.enqueued_at, row.due = tier, now, due
        if tier == "interactive":
            self._demand = self._decayed_demand(now) + tokens
            self._interactive_at = now
        ahead.add(rows)

    def check(self, tokens: int, caller: Caller, *, most: int | None = None) -> None:
        """See that a request of so many tokens would be let in now.

        Args:
            tokens: of the request, or how many it has at least.
            caller: who asks.
            most: how many it has at most. Where its tier depends on that, nothing is said.

        Raises:
            Overloaded: the queue would exceed its tokens, or the answer would take too long at the measured rate. The
                error says how long.
        """
        if not self.tokens:
            self._refusing.clear()
            return
        tier = self._tier(tokens, caller)
        if most is not None and self._tier(most, caller) != tier:
            return
        ahead = self._interactive if tier == "interactive" else self._bulk
        seconds = self._seconds_until_answer(tier, tokens, caller)
        refused = (tier, caller.name)
        share = _REFILL_SHARE if refused in self._refusing else 1.0
        is_late = ahead.tokens and seconds > share * _CERTAIN_SHARE * self._max_wait_seconds
        if is_late or self.tokens + tokens > share * self._max_tokens:
            self._refusing.add(refused)
            raise self._overloaded(seconds)
        self._refusing.discard(refused)

    def take_late(self) -> list[Row]:
        """Remove what can no longer be answered in time, since the model has become slower; `too_late` is its error."""
        if not self.tokens:
            return []
        rate = self.throughput.tokens_per_second or math.inf
        # It takes a pass at least. Of a long pass no more counts than what is kept for errors, so that what was let in
        # rightly is not refused.
        a_pass = self._lanes * self.limits.max_tokens / rate
        least = min(a_pass, (1 - _CERTAIN_SHARE) * self._max_wait_seconds)
        now = self._clock()
        waiting = (self._interactive, self._bulk)
        return [row for each in waiting for row in each.take_late(now, lambda tokens: max(least, tokens / rate))]

    def too_late(self, rows: Sequence[Row]) -> Overloaded:
        """What rows that came too late are told."""
        return self._overloaded(self._seconds_until_answer(rows[0].tier, 1, rows[0].caller))

    def take(self, lane: int = 0) -> list[Row]:
        """The next batch, for a lane whose last pass has ended; empty if nothing waits."""
        self._long.discard(lane)
        if not self._bulk.tokens:
            self._bulk_due = 0.0
            return self._interactive.take(self.limits)
        may_be_long = len(self._long) < self._lanes - self._lanes_for_interactive()
        limits = self.limits if may_be_long else self._short_limits()
        if self._interactive.tokens and self._bulk_due < limits.max_tokens:
            rows = self._interactive.take(self.limits)
            self._bulk_due += _BULK_SHARE * sum(row.tokens for row in rows)
            if rows:
                return rows
        rows = self._bulk.take(limits)
        self._bulk_due = max(0.0, self._bulk_due - sum(row.tokens for row in rows))
        if rows and may_be_long:
            self._long.add(lane)
        return rows or self._interactive.take(self.limits)

    def discard(self, rows: Sequence[Row]) -> None:
        """Forget those of `rows` that still wait: their callers left."""
        self._interactive.discard(row for row in rows if row.tier == "interactive")
        self._bulk.discard(row for row in rows if row.tier == "bulk")

    def take_all(self) -> list[Row]:
        """Empty the queue."""
        return self._interactive.take_all() + self._bulk.take_all()

    def _tier(self, tokens: int, caller: Caller) -> Tier:
        if caller.tier is not None:
            return caller.tier
        small = max(self.limits.max_tokens, _INTERACTIVE_SECONDS * self.throughput.tokens_per_second)
        return "interactive" if tokens <= small else "bulk"

    def _lanes_for_interactive(self) -> int:
        """Lanes that the interactive requests which are expected keep busy, rounded up."""
        now, rate = self._clock(), self.throughput.tokens_per_second
        if now - self._interactive_at > _EXPECTED_SECONDS:
            return 0
        share = self._decayed_demand(now) / _DEMAND_SECONDS / rate if rate else 0.0
        return max(1, math.ceil(share * self._lanes))

    def _short_limits(self) -> BatchLimits:
        most, least = self.limits.max_tokens, _LEAST_BULK_SHARE * self.limits.max_tokens
        fast = _BULK_PASS_SECONDS * self.throughput.tokens_per_second / self._lanes
        return evolve(self.limits, max_tokens=max(1, min(most, int(max(least, fast)))))

    def _seconds_until_answer(self, tier: Tier, tokens: int, caller: Caller) -> float:
        rate = self.throughput.tokens_per_second
        if not rate:
            return 0.0
        most = rate / (1 + _BULK_SHARE)
        if tier == "interactive":
            return self._interactive.tokens_until(tokens, caller) / (most if self._bulk.tokens else rate)
        # What interactive requests leave, if they go on to come as they do.
        left = max(rate - most, rate - self._decayed_demand(self._clock()) / _DEMAND_SECONDS)
        return self._bulk.tokens_until(tokens, caller) / left

    def _decayed_demand(self, now: float) -> float:
        return self._demand * math.exp(max(-60.0, (self._interactive_at - now) / _DEMAND_SECONDS))

    def _overloaded(self, seconds: float) -> Overloaded:
        retry = min(MOST_RETRY_SECONDS, max(1, math.ceil(seconds)))
        msg = (
            f"The service is overloaded: {self.tokens} tokens wait (at most {self._max_tokens}), and an answer would "
            f"take {seconds:.0f} s (at most {self._max_wait_seconds:g}). Please try again in {retry}s."
        )
        return Overloaded(msg, retry_after_seconds=retry)
