"""The arithmetic of comparing vectors. Pure numpy; a row that holds NaN gives NaN, so callers take them out first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provider.domain import Vectors

Floats = NDArray[np.float64]


def unit(vectors: Vectors) -> Floats:
    """Each row (rows, dimension) scaled to length 1, in float64: what float32 rounds away is what is measured here."""
    wide = vectors.astype(np.float64)
    scaled: Floats = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return scaled


def cosines(a: Vectors, b: Vectors) -> Floats:
    """Cosine of each row of `a` with the same row of `b`, (rows,)."""
    # Rounding must not lift a cosine above 1: drift below nothing would be shown.
    found: Floats = np.minimum(np.einsum("nd,nd->n", unit(a), unit(b)), 1.0)
    return found


def finite_rows(vectors: Vectors) -> NDArray[np.bool_]:
    """Which rows hold neither NaN nor infinity, (rows,)."""
    return np.asarray(np.isfinite(vectors).all(axis=1))


def cleaned(vectors: Vectors) -> Vectors:
    """Rows that are not finite as zeros: they are counted on their own, and must not make every other figure NaN."""
    return np.where(finite_rows(vectors)[:, None], vectors, np.float32(0))


def misplaced(answers: Vectors, alone: Vectors, *, same: float) -> NDArray[np.bool_]:
    """Which rows of `answers` are another input's vector rather than their own, (rows,).

    Args:
        answers: vectors of inputs that shared batches.
        alone: vectors of the same inputs, each computed by itself.
        same: the cosine from which two vectors count as the same.
    """
    every = unit(answers) @ unit(alone).T
    own = np.diagonal(every).copy()
    np.fill_diagonal(every, -1.0)
    return np.asarray((own < same) & (every.max(axis=1, initial=-1.0) >= same))


def spearman(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float:
    """Spearman's rank correlation times 100, as the STS benchmark reports it; ties share their mean rank.

    NaN where one side has no variation.
    """
    ranks = [_ranks(np.asarray(each, np.float64)) for each in (a, b)]
    centred = [each - each.mean() for each in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum()) / scale * 100 if scale else float("nan")


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks: Floats = np.cumsum(counts) - (counts - 1) / 2
    return mean_ranks[inverse]


def neighbours(queries: Vectors, documents: Vectors, count: int) -> NDArray[Any]:
    """Indices of the nearest `count` documents of each query, nearest first, (queries, count)."""
    similarity = unit(queries) @ unit(documents).T
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]


def overlap(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The share of neighbours that two rankings (queries, count) have in common, whatever their order; 0 to 1."""
    return float(np.mean([len(np.intersect1d(x, y)) / len(x) for x, y in zip(a, b, strict=True)]))
