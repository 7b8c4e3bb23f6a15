"""What a batch may hold, and which of the rows that wait fill it."""

from collections.abc import Sequence

from attrs import define, field, frozen

from provider.engine.rows import Row

# What one pass more costs beside its tokens, as a share of a full batch: on a CPU, with batches of 512 tokens, it is as
# much as 10 to 30 of them cost.
_PASS_COST = 1 / 32


@frozen
class BatchLimits:
    """What one batch may hold.

    Attributes:
        max_rows: most rows.
        max_tokens: most tokens; a single longer row still makes a batch of its own.
        padding_is_free: whether tokens are counted one by one (True) or as longest x rows, the rectangle (False).
        equal_lengths: whether all rows must have the same length.
    """

    max_rows: int
    max_tokens: int
    padding_is_free: bool = False
    equal_lengths: bool = False

    def hold(self, rows: int, longest: int, tokens: int) -> bool:
        """Whether so many `rows` may share a batch: the `longest` of so many tokens, all together of `tokens`."""
        padding = longest * rows - tokens
        if rows > self.max_rows or (self.equal_lengths and padding):
            return False
        if self.padding_is_free:
            return tokens <= self.max_tokens
        return tokens + padding <= self.max_tokens and padding <= _PASS_COST * self.max_tokens

    def cost(self, lengths: Sequence[int]) -> int:
        """The tokens that rows of such `lengths` count as: their rectangle where padding is not free."""
        return sum(lengths) if self.padding_is_free else max(lengths) * len(lengths)


@define
class Filling:
    """A batch that is being filled, behind its leader. Rows wait as (key, order, row); see `Batcher`.

    Attributes:
        leading: tokens of the leader.
        longest: tokens of the longest row so far.
        rows, tokens: so far.
    """

    limits: BatchLimits
    leading: int
    longest: int
    rows: int = 1
    tokens: int = field(init=False)

    @tokens.default
    def _of_leader(self) -> int:
        return self.leading

    def grow_by_age(self, waiting: Sequence[tuple[int, int, Row]], high: int) -> tuple[int, int]:
        """Widen the slice of the first `high` rows by those behind it, while they fit."""
        while high < len(waiting):
            length = waiting[high][2].tokens
            longest = max(self.longest, length)
            if not self.limits.hold(self.rows + 1, longest, self.tokens + length):
                break
            self.rows, self.tokens, self.longest, high = self.rows + 1, self.tokens + length, longest, high + 1
        return 0, high

    def grow_by_length(self, waiting: Sequence[tuple[int, int, Row]], low: int, high: int) -> tuple[int, int]:
        """Widen the slice of rows in order of length by whichever neighbour is nearest to the leader, while it fits."""
        fits, leading = self.limits.hold, self.leading
        while low > 0 or high < len(waiting):
            below = waiting[low - 1][0] if low > 0 else None
            above = waiting[high][0] if high < len(waiting) else None
            take_below = above is None or (below is not None and leading - below <= above - leading)
            length = below if take_below else above
            if length is None or not fits(self.rows + 1, max(self.longest, length), self.tokens + length):
                # The nearest does not fit. A longer one fits even less; a shorter one may.
                if take_below or below is None or not fits(self.rows + 1, self.longest, self.tokens + below):
                    break
                take_below, length = True, below
            low, high = (low - 1, high) if take_below else (low, high + 1)
            self.rows, self.tokens, self.longest = self.rows + 1, self.tokens + length, max(self.longest, length)
        return low, high
