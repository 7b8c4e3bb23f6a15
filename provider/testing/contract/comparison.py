"""The outputs that every backend is compared with, and how outputs compare, row by row."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provider.backends import BackendOptions, ModelSpec, TokenBatch, find_backend, own_options
from provider.domain import SCORES, SPARSE, Outputs, RowOutput, SparseVector


def plain_torch(spec: ModelSpec) -> Callable[[TokenBatch], Outputs]:
    """The model of `spec` in eager PyTorch: float32, on the CPU, one row at a time, so that nothing is padded.

    Returns:
        A function from a batch to its outputs; see `Backend.run`.
    """
    torch_backend = find_backend("torch")
    own = own_options("torch", torch_backend, {"packed": False, "attention": "eager"})
    plain = torch_backend.load(spec, BackendOptions(device="cpu", dtype="float32", own=own))
    return lambda batch: row_by_row(plain.run, batch)


def row_by_row(run: Callable[[TokenBatch], Outputs], batch: TokenBatch) -> Outputs:
    """The outputs of `batch`, whose rows are run in a batch of their own each."""
    answers = [run(batch.take(np.array([i]))) for i in range(batch.rows)]
    return {name: [row for answer in answers for row in answer[name]] for name in answers[0]}


def differences(found: Outputs, expected: Outputs, *, least_cosine: float, most_difference: float) -> list[str]:
    """What differs between the outputs of the same rows; empty if nothing does.

    Args:
        found: output name to one entry a row.
        expected: the same rows', by the same names.
        least_cosine: of vectors, those of tokens each by itself.
        most_difference: of logits, and of the weights of sparse vectors.
    """
    told = []
    for name, rows in expected.items():
        for i, (row, other) in enumerate(zip(found[name], rows, strict=True)):
            a, b = _aligned(row, other)
            if a.shape != b.shape:
                told.append(f"{name} of row {i}: shape {a.shape}, expected {b.shape}")
            elif name in (SCORES, SPARSE):
                gap = float(np.abs(a - b).max(initial=0))
                # NaN counts as different.
                told += [] if gap <= most_difference else [f"{name} of row {i}: differs by {gap:.1e}"]
            else:
                cosine = float(np.sum(_unit(a) * _unit(b), axis=-1).min())
                told += [] if cosine > least_cosine else [f"{name} of row {i}: cosine {cosine:.7f}"]
    return told


def rows_of(outputs: Outputs) -> Iterator[Outputs]:
    """The outputs of each row by itself, as those of a batch of one."""
    count = len(next(iter(outputs.values())))
    return ({name: rows[i : i + 1] for name, rows in outputs.items()} for i in range(count))


def arrays_of(outputs: Outputs) -> list[NDArray[Any]]:
    """The numbers of each row, output by output; of sparse vectors the weights."""
    every = (row for rows in outputs.values() for row in rows)
    return [row.weights if isinstance(row, SparseVector) else row for row in every]


def _aligned(row: RowOutput, other: RowOutput) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64: in float32 the cosine of a vector with itself may already be below the limit."""
    if isinstance(row, SparseVector) and isinstance(other, SparseVector):
        ids = np.union1d(row.ids, other.ids)
        return _weights(row, ids), _weights(other, ids)
    return np.asarray(row, np.float64), np.asarray(other, np.float64)


def _weights(vector: SparseVector, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    weights = np.zeros(len(ids))
    weights[np.searchsorted(ids, vector.ids)] = vector.weights
    return weights


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
