"""Answers of two computations for one text, beside each other: dense, sparse and multi-vectors alike."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provider.domain import DenseTask, EmbedRequest, Features, MultiVectorTask, RowOutput, SparseTask, SparseVector
from provider.errors import NonFiniteVector, ZeroVector
from provider.tasks import find_task
from provider.verification.measures import Floats

Answer = NDArray[np.float32] | SparseVector | None
"""What one output of a model answers for one text: (vectors, dimension) float32, where a dense output has one vector
and a multi-vector output one a token that is answered; a `SparseVector`; None for NaN, infinity or zeros."""


def answer(task: Any, output: RowOutput, features: Features) -> Answer:  # noqa: ANN401 - a TaskSpec of any kind
    """What the service answers for a text by default, from what the model gave for it.

    Args:
        task: the spec of the output's task.
        output: of the model.
        features: that went into it.
    """
    if isinstance(task, DenseTask | SparseTask | MultiVectorTask):
        try:
            (found,) = find_task(task.output).finish(task, [output], [features], EmbedRequest("", ("",)))
        except (NonFiniteVector, ZeroVector):
            return None
        return found if isinstance(found, SparseVector) else np.atleast_2d(found)
    flat = find_task(task.output).flat(task, output)
    return flat[None] if np.isfinite(flat).all() else None


def as_long(task: Any, output: RowOutput) -> Answer:  # noqa: ANN401
    """An answer of another implementation, its vectors of length 1 where the service's are."""
    if isinstance(output, SparseVector):
        return output
    vectors = np.atleast_2d(output)
    if not getattr(task, "normalize", False):
        return vectors
    scaled: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return scaled


def agreements(a: Answer, b: Answer) -> Floats:
    """How much each vector of `a` agrees with the same one of `b`, (vectors,): 2ab / (aa + bb).

    This is the cosine of vectors of one length, and less where lengths differ. Two vectors of zeros agree. A single 0
    where an answer is not finite, or has another number of vectors.
    """
    if a is None or b is None:
        return np.zeros(1)
    one, other = (each.astype(np.float64) for each in _matrices([a, b]))
    if one.shape != other.shape:
        return np.zeros(1)
    if not len(one):
        return np.ones(1)
    squares = np.vecdot(one, one) + np.vecdot(other, other)
    found = np.where(squares > 0, 2 * np.vecdot(one, other) / np.maximum(squares, np.finfo(np.float64).tiny), 1.0)
    # Rounding must not lift it above 1.
    clipped: Floats = np.minimum(found, 1.0)
    return clipped


def agreement(a: Answer, b: Answer) -> float:
    """The smallest of `agreements`: one wrong token vector is a wrong answer."""
    return float(agreements(a, b).min())


def largest_difference(a: Answer, b: Answer) -> float:
    """Of two numbers at the same place; infinite where the answers cannot be compared."""
    if a is None or b is None:
        return float("inf")
    one, other = _matrices([a, b])
    return float(np.abs(one - other).max(initial=0.0)) if one.shape == other.shape else float("inf")


def misplaced(answers: Sequence[Answer], alone: Sequence[Answer], *, same: float) -> list[int]:
    """Which of `answers` are another text's answer rather than their own.

    Args:
        answers: of texts that shared batches.
        alone: of the same texts, each computed by itself.
        same: the agreement from which two answers count as the same.
    """
    wrong = [i for i, pair in enumerate(zip(answers, alone, strict=True)) if agreement(*pair) < same]
    return [i for i in wrong if any(agreement(answers[i], other) >= same for other in alone)]


def relevance(queries: Sequence[Answer], documents: Sequence[Answer]) -> Floats:
    """How relevant each document is to each query, (queries, documents).

    The mean over a query's vectors of the largest dot product with one of the document's: the dot product where both
    have one vector, MaxSim by the number of the query's tokens where they have several.
    """
    matrices = _matrices([*queries, *documents])
    asked, found = matrices[: len(queries)], matrices[len(queries) :]
    products = np.concatenate(asked).astype(np.float64) @ np.concatenate(found).astype(np.float64).T
    best = np.maximum.reduceat(products, _starts(found), axis=1)
    sums = np.add.reduceat(best, _starts(asked), axis=0)
    mean: Floats = sums / np.array([len(each) for each in asked])[:, None]
    return mean


def _starts(matrices: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
    return np.cumsum([0, *(len(each) for each in matrices[:-1])])


def _matrices(answers: Sequence[Answer]) -> list[NDArray[np.float32]]:
    """Each as (vectors, numbers), at least one vector; sparse ones by the ids that they have between them."""
    sparse = [each for each in answers if isinstance(each, SparseVector)]
    if sparse:
        ids = np.unique(np.concatenate([each.ids for each in sparse]))
        dense = [None if not isinstance(each, SparseVector) else _by_id(each, ids) for each in answers]
        width = len(ids)
    else:
        dense = [each if isinstance(each, np.ndarray) and len(each) else None for each in answers]
        width = max((each.shape[1] for each in dense if each is not None), default=1)
    return [np.zeros((1, width), np.float32) if each is None else each for each in dense]


def _by_id(vector: SparseVector, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    found = np.zeros((1, len(ids)), np.float32)
    found[0, np.searchsorted(ids, vector.ids)] = vector.weights
    return found
