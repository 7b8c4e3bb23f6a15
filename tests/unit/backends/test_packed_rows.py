"""Rows of a batch one behind the other, and as rectangles."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from provider.backends import TokenBatch
from provider.backends.torch.packed_rows import Cut, Rows, alike, equal, last_tokens

LENGTHS = (9, 1, 30, 9, 4, 1, 62, 17, 16, 33)


def batch_of(lengths: Sequence[int]) -> TokenBatch:
    """Token t of row r is 100 r + t."""
    return TokenBatch.of_rows([np.arange(100 * row, 100 * row + n, dtype=np.int32) for row, n in enumerate(lengths)])


def rectangles_of(batch: TokenBatch, cut: Callable[[Rows], Sequence[Cut]]) -> dict[int, list[int]]:
    """The cells of each row's place in its rectangle."""
    rows = Rows.of(batch)
    ids, found = batch.ids[rows.cells_in(batch)], {}
    for each in cut(rows):
        cells = slice(each.start, each.start + each.rows * each.width) if each.cells is None else each.cells
        for row, line in enumerate(ids[cells].reshape(each.rows, each.width)):
            found[int(rows.order[each.first + row])] = line.tolist()
    return found


@pytest.mark.parametrize("lengths", [LENGTHS, (5,), (3, 3, 3), (1, 2, 4, 8, 16, 32, 64)])
def test_each_row_stands_in_its_rectangle(lengths: Sequence[int]) -> None:
    batch = batch_of(lengths)
    rows = {i: batch.row(i).tolist() for i in range(batch.rows)}
    assert rectangles_of(batch, equal) == rows
    assert rectangles_of(batch, last_tokens) == {i: row[-1:] for i, row in rows.items()}
    found = rectangles_of(batch, alike)
    assert found.keys() == rows.keys()
    for i, row in rows.items():
        # Filled with its own last token: what stands there is a number, whatever the others are.
        assert found[i] == row + row[-1:] * (len(found[i]) - len(row))
        assert len(found[i]) <= max(16, 2 * len(row))


def test_rows_of_like_length_are_few_rectangles() -> None:
    rows = Rows.of(batch_of(range(1, 513)))
    assert [each.width for each in alike(rows)] == [16, 32, 64, 128, 256, 512]
    assert len(equal(rows)) == 512


@pytest.mark.parametrize(("filling", "ends"), [(0, [0, 1, 3, 6]), (10, [0, 1, 3, 6, 16])])
def test_filling_is_a_row_of_its_own(filling: int, ends: list[int]) -> None:
    found = Rows.of(batch_of([3, 1, 2])).ends(filling)
    assert found.tolist() == ends
    assert found.dtype == np.int32


def test_the_last_token_is_never_skipped() -> None:
    batch = batch_of([3, 5])
    lengths, skips = Rows.of(batch).kept(np.array([2, 4], np.int32), 1)
    assert (lengths.tolist(), skips.tolist()) == ([1, 1], [0, 0])
