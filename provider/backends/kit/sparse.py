"""Sparse vectors out of arrays, in numpy, for every backend."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from provider.backends.kit.head import read_tensors
from provider.domain import SPARSE, Ids, ModelSpec, Outputs, SparseVector, TokenBatch
from provider.errors import InvalidModel


def vector_of(weights: NDArray[np.float32]) -> SparseVector:
    """The sparse form of `weights` (vocabulary,): entries that are not 0."""
    ids = np.flatnonzero(weights)
    return SparseVector(ids.astype(np.int32), np.ascontiguousarray(weights[ids], np.float32))


def largest_by_id(ids: Ids, weights: NDArray[np.float32], dropped: frozenset[int]) -> SparseVector:
    """The largest weight of each id.

    Args:
        ids: (tokens,) int32.
        weights: (tokens,) float32; those that are not above 0 do not count.
        dropped: ids that are left out.
    """
    # NaN counts, so that it is seen.
    kept = ~(weights <= 0) & ~np.isin(ids, list(dropped))
    found, places = np.unique(ids[kept], return_inverse=True)
    largest = np.zeros(len(found), np.float32)
    np.maximum.at(largest, places, weights[kept])
    return SparseVector(found.astype(np.int32), largest)


class TokenWeights:
    """Queries that are weights of their tokens: no model is run. Safe from several threads."""

    def __init__(self, weights: NDArray[np.float32]) -> None:
        """Take the weight of each id, (ids,) float32."""
        self._weights = weights

    @classmethod
    def load(cls, path: Path) -> "TokenWeights":
        """Read the tensor `weight` of a safetensors file.

        Raises:
            InvalidModel: it is missing, damaged or of another shape.
        """
        weights = _read(path)["weight"]
        if weights.ndim != 1:
            msg = f"{path} has a weight of {weights.shape}, expected one number a token; download the model again"
            raise InvalidModel(msg)
        return cls(weights.astype(np.float32))

    def run(self, batch: TokenBatch, _spec: ModelSpec) -> Outputs:
        """The weights of the different tokens of each row."""
        return {SPARSE: [self._vector(batch.row(i)) for i in range(batch.rows)]}

    def _vector(self, ids: Ids) -> SparseVector:
        found = np.unique(ids)
        weights = self._weights[found]
        kept = weights != 0
        return SparseVector(found[kept].astype(np.int32), weights[kept])


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return read_tensors(path)
    except (OSError, SafetensorError, ValueError, KeyError) as exc:
        msg = f"{path} cannot be loaded: {exc}; download the model again"
        raise InvalidModel(msg) from exc
