"""The arithmetic of comparing rankings. Pure numpy; values are finite."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def kendall(a: Floats, b: Floats, *, tie: float) -> float:
    """Kendall's rank correlation of two scorings of the same items, -1 to 1; 1 where all are tied.

    Args:
        a: scores, (items,).
        b: the other scores, (items,).
        tie: the largest difference of two scores that counts as none; such pairs of items agree with any order.
    """
    upper = np.triu_indices(len(a), 1)
    first, second = (np.subtract.outer(each, each)[upper] for each in (a, b))
    agrees = (np.sign(first) == np.sign(second)) | (np.abs(first) <= tie) | (np.abs(second) <= tie)
    return float(np.where(agrees, 1.0, -1.0).mean()) if len(agrees) else 1.0


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


def nearest(relevance: Floats, count: int) -> NDArray[Any]:
    """Indices of the `count` most relevant documents of each query, (queries, count), most relevant first.

    Args:
        relevance: of each document to each query, (queries, documents).
        count: at most so many.
    """
    return np.argsort(-relevance, axis=1, kind="stable")[:, :count]


def overlap(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The share of neighbours that two rankings (queries, count) have in common, whatever their order; 0 to 1."""
    return float(np.mean([len(np.intersect1d(x, y)) / len(x) for x, y in zip(a, b, strict=True)]))
