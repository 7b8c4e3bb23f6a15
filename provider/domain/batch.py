"""What goes into a model, and what comes out of it: one row, and a batch of them."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from attrs import field, frozen
from numpy.typing import NDArray

Ids = NDArray[np.int32]
"""Token ids of one input, shape (tokens,), int32, special tokens included."""

Vectors = NDArray[np.float32]
"""Shape (rows, dimension), float32, C-contiguous."""

DENSE = "dense"
"""The output that is one vector a row, (dimension,) float32."""
SPARSE = "sparse"
"""The output that is one `SparseVector` a row."""
MULTI_VECTOR = "multi_vector"
"""The output that is one vector a token, (tokens, dimension) float32."""
SCORES = "scores"
"""The output that is one logit a label, (labels,) float32."""


@frozen(eq=False)
class SparseVector:
    """Weights of vocabulary entries.

    Attributes:
        ids: shape (entries,), int32, ascending.
        weights: shape (entries,), float32, none of them 0.
    """

    ids: Ids
    weights: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.ids.nbytes + self.weights.nbytes


RowOutput = NDArray[np.float32] | SparseVector
"""What a model gives for one row, by one output."""

Outputs = Mapping[str, Any]
"""What a model gives for a batch: output name to a sequence with one `RowOutput` a row. Where all rows have one shape,
that is one array (rows, …)."""


@frozen(eq=False)
class Features:
    """One tokenised input, ready for a model.

    Attributes:
        ids: token ids, special tokens included, never empty.
        type_ids: shape (tokens,), int32, segment of each token in a pair; None: all 0.
        skip: leading tokens left out of pooling (a prompt's, for some models).
        unattended: trailing tokens that no other sees, but which have an output (a query's expansion).
        is_query: whether it is a query, for models that treat queries differently.
        outputs: names of requested outputs.
    """

    ids: Ids
    skip: int = 0
    type_ids: Ids | None = None
    unattended: int = 0
    is_query: bool = False
    outputs: tuple[str, ...] = (DENSE,)

    @property
    def cost(self) -> int:
        """Tokens: what the scheduler sorts and budgets by."""
        return len(self.ids)

    def digest(self) -> bytes:
        """16 bytes of BLAKE2b over all of it: equal features have equal outputs."""
        plain = self.type_ids is None and not self.unattended and not self.is_query and self.outputs == (DENSE,)
        digest = hashlib.blake2b(self.ids.tobytes(), digest_size=16, salt=self.skip.to_bytes(8, "little"))
        if not plain:
            more = (self.unattended, self.is_query, self.outputs)
            digest.update(repr(more).encode() + (b"" if self.type_ids is None else self.type_ids.tobytes()))
        return digest.digest()


@frozen(eq=False, slots=False)
class TokenBatch:
    """Token ids of several rows, ragged. The arrays are read-only.

    Attributes:
        ids: ids of all rows in sequence, shape (tokens,), int32.
        offsets: shape (rows + 1,), int64; row i is `ids[offsets[i]:offsets[i + 1]]`, never empty.
        skips: leading tokens of each row left out of pooling, shape (rows,), int32; fewer than the row's.
        type_ids: segment of each token in a pair, shape (tokens,), int32; None: all 0.
        unattended: trailing tokens of each row that no other sees, shape (rows,), int32; None: all 0.
        queries: whether each row is a query, shape (rows,), bool; None: none is.
        outputs: names of the outputs that at least one row wants.
    """

    ids: Ids
    offsets: NDArray[np.int64]
    skips: NDArray[np.int32]
    type_ids: Ids | None = None
    unattended: NDArray[np.int32] | None = None
    queries: NDArray[np.bool_] | None = None
    outputs: frozenset[str] = field(default=frozenset({DENSE}))

    @classmethod
    def of(cls, rows: Sequence[Features]) -> "TokenBatch":
        """Join `rows`, at least one."""
        ids, offsets = _joined([row.ids for row in rows])
        skips = _column([row.skip for row in rows])
        type_ids = None
        if any(row.type_ids is not None for row in rows):
            parts = [np.zeros(len(row.ids), np.int32) if row.type_ids is None else row.type_ids for row in rows]
            type_ids, _ = _joined(parts)
        unattended = _column([row.unattended for row in rows]) if any(row.unattended for row in rows) else None
        queries = np.array([row.is_query for row in rows], np.bool_) if any(row.is_query for row in rows) else None
        first = rows[0].outputs
        same = all(row.outputs == first for row in rows)
        outputs = frozenset(first if same else (name for row in rows for name in row.outputs))
        return cls(ids, offsets, skips, type_ids, unattended, queries, outputs)

    @classmethod
    def of_rows(
        cls, rows: Sequence[Ids], skips: Sequence[int] | None = None, outputs: Sequence[str] = (DENSE,)
    ) -> "TokenBatch":
        """Join `rows` (each (tokens,) int32, at least one token) into a batch."""
        ids, offsets = _joined(rows)
        return cls(ids, offsets, _column([0] * len(rows) if skips is None else skips), outputs=frozenset(outputs))

    def take(self, rows: NDArray[np.int64]) -> "TokenBatch":
        """The batch of these rows alone, at least one, in that order."""
        ids, offsets = _joined([self.row(i) for i in rows])
        types = self.type_ids
        parts = None if types is None else [types[self.offsets[i] : self.offsets[i + 1]] for i in rows]
        return TokenBatch(
            ids,
            offsets,
            self.skips[rows],
            None if parts is None else _joined(parts)[0],
            None if self.unattended is None else self.unattended[rows],
            None if self.queries is None else self.queries[rows],
            self.outputs,
        )

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """Tokens of all rows, padding not counted."""
        return len(self.ids)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self.offsets)

    def row(self, i: int) -> Ids:
        """The token ids of row `i`, a view."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def padded(
        self, *, pad_id: int = 0, multiple_of: int = 1, side: Literal["left", "right"] = "right"
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rectangle for backends that want one.

        Args:
            pad_id: what fills the cells behind (or before) the rows.
            multiple_of: the width is rounded up to a multiple of this, to bound the number of distinct shapes.
            side: where the padding goes.

        Returns:
            `(ids, mask)`, both (rows, width) int64; the mask is 1 where a token stands that others see, and 0 on
            padding and on unattended tokens.
        """
        cells = self._cells(multiple_of, side)
        ids = np.full(cells.shape, pad_id, np.int64)
        ids[cells] = self.ids
        mask = cells.astype(np.int64)
        if self.unattended is not None:
            places = np.cumsum(mask, axis=1)
            mask &= places <= (self.lengths - self.unattended)[:, None]
        return ids, mask

    def padded_types(self, *, multiple_of: int = 1, side: Literal["left", "right"] = "right") -> NDArray[np.int64]:
        """The segments (rows, width) int64 that belong to `padded` with the same arguments; 0 on padding."""
        cells = self._cells(multiple_of, side)
        types = np.zeros(cells.shape, np.int64)
        if self.type_ids is not None:
            types[cells] = self.type_ids
        return types

    def _cells(self, multiple_of: int, side: Literal["left", "right"]) -> NDArray[np.bool_]:
        lengths = self.lengths
        width = -(-int(lengths.max()) // multiple_of) * multiple_of
        column = np.arange(width)
        return column < lengths[:, None] if side == "right" else column >= width - lengths[:, None]


def _joined(rows: Sequence[Ids]) -> tuple[Ids, NDArray[np.int64]]:
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    ids = np.concatenate(rows).astype(np.int32, copy=False)
    ids.flags.writeable = offsets.flags.writeable = False
    return ids, offsets


def _column(values: Sequence[int]) -> NDArray[np.int32]:
    column = np.asarray(values, np.int32)
    column.flags.writeable = False
    return column
