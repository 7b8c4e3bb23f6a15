"""The rows of a batch, one behind the other, and their hidden states as rectangles: arrays on the host."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from provider.domain import TokenBatch

# Of one kernel's rows those up to so many tokens become one rectangle, those up to twice as many another, and so on: a
# rectangle for each length would be hundreds of small kernels, and one for all of them mostly padding.
_NARROWEST = 16


@frozen(eq=False)
class Rows:
    """Where the rows of a batch lie among its tokens: in order of length, one behind the other.

    Attributes:
        order: places in the batch, (rows,), the shortest row first.
        lengths: tokens of each, (rows,) int64.
        starts: first token of each, (rows,) int64.
        groups: rows of one length: (first token, rows, length).
        unattended: trailing tokens of each that no other sees, (rows,); None where there are none.
    """

    order: NDArray[np.int64]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    groups: tuple[tuple[int, int, int], ...]
    unattended: NDArray[np.int32] | None

    @classmethod
    def of(cls, batch: TokenBatch) -> Self:
        """The rows of `batch`."""
        order = np.argsort(batch.lengths, kind="stable")
        lengths = batch.lengths[order]
        starts = np.cumsum(lengths) - lengths
        groups = tuple(
            (int(starts[first]), int(rows), int(width))
            for width, first, rows in zip(*np.unique(lengths, return_index=True, return_counts=True), strict=True)
        )
        return cls(order, lengths, starts, groups, None if batch.unattended is None else batch.unattended[order])

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.groups[-1][2]

    def cells_in(self, batch: TokenBatch) -> NDArray[np.int64]:
        """Where in `batch.ids` each token stands, (tokens,)."""
        return np.arange(batch.tokens) + np.repeat(batch.offsets[self.order] - self.starts, self.lengths)

    def ends(self, filling: int) -> NDArray[np.int32]:
        """Where each row starts, and the end of the last; so many tokens of filling are one row more."""
        last = int(self.starts[-1] + self.lengths[-1])
        return np.concatenate([self.starts, [last, last + filling] if filling else [last]]).astype(np.int32)

    def masks(self) -> list[NDArray[np.bool_] | None]:
        """For each group, which tokens others see, (rows, 1, 1, length); None where all are seen."""
        if self.unattended is None:
            return [None] * len(self.groups)
        masks: list[NDArray[np.bool_] | None] = []
        row = 0
        for _, rows, width in self.groups:
            visible = np.arange(width)[None, :] < (width - self.unattended[row : row + rows])[:, None]
            masks.append(None if visible.all() else visible[:, None, None, :])
            row += rows
        return masks

    def kept(self, skips: NDArray[np.int32], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Lengths and skips of all rows, (rows,) each, in rectangles of at most this width."""
        lengths = np.minimum(self.lengths, width)
        return lengths, np.minimum(skips[self.order], lengths - 1)


@frozen(eq=False)
class Cut:
    """Some rows as a rectangle.

    Attributes:
        first: the first of them in the order of `Rows`.
        rows: how many.
        width: of the rectangle.
        start: their first token.
        cells: the token in each cell, (rows * width,); None where those from `start` on fill the rectangle.
    """

    first: int
    rows: int
    width: int
    start: int
    cells: NDArray[np.int64] | None = None


def equal(rows: Rows) -> Sequence[Cut]:
    """Rows of one length together."""
    firsts = np.searchsorted(rows.lengths, [width for *_, width in rows.groups])
    return [Cut(int(at), n, width, start) for at, (start, n, width) in zip(firsts, rows.groups, strict=True)]


def alike(rows: Rows) -> Sequence[Cut]:
    """Rows of like length together; the shorter ones repeat their last token."""
    classes = np.ceil(np.log2(np.maximum(rows.lengths, _NARROWEST)))
    cuts = []
    for at, n in zip(*np.unique(classes, return_index=True, return_counts=True)[1:], strict=True):
        starts, lengths = rows.starts[at : at + n], rows.lengths[at : at + n]
        width, cells = int(lengths[-1]), None
        if lengths[0] < width:
            cells = (starts[:, None] + np.minimum(np.arange(width)[None, :], lengths[:, None] - 1)).reshape(-1)
        cuts.append(Cut(int(at), int(n), width, int(starts[0]), cells))
    return cuts


def last_tokens(rows: Rows) -> Sequence[Cut]:
    """The last token of each row."""
    return [Cut(0, len(rows.lengths), 1, 0, rows.starts + rows.lengths - 1)]
