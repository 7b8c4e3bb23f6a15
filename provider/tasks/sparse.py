"""Weights of vocabulary entries."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from provider.domain import SPARSE, EmbedRequest, Features, RowOutput, SparseTask, SparseVector, TokenBatch
from provider.errors import InvalidDimensions, NonFiniteVector


class Sparse:
    """See `Task`; an answer holds a tuple of `SparseVector`."""

    def read(self, folder: Path) -> None:
        """See `Task.read`."""

    def check(self, spec: SparseTask, outputs: Sequence[RowOutput], batch: TokenBatch) -> None:
        """See `Task.check`."""
        if len(outputs) != batch.rows or not all(isinstance(each, SparseVector) for each in outputs):
            kinds = sorted({type(each).__name__ for each in outputs})
            msg = f"the backend answered {len(outputs)} of {kinds}, expected {batch.rows} of SparseVector"
            raise TypeError(msg)
        for each in outputs:
            if isinstance(each, SparseVector):
                _check_vector(each, spec.width)

    def flat(self, spec: SparseTask, output: RowOutput) -> NDArray[np.float32]:
        """See `Task.flat`: the weights by id."""
        if not isinstance(output, SparseVector):
            raise TypeError(type(output))
        flat = np.zeros(spec.width, np.float32)
        flat[output.ids] = output.weights
        return flat

    def finish(
        self,
        spec: SparseTask,
        outputs: Sequence[RowOutput],
        features: Sequence[Features],
        request: EmbedRequest,
    ) -> tuple[SparseVector, ...]:
        """See `Task.finish`."""
        if request.dimensions is not None and request.dimensions != spec.width:
            raise InvalidDimensions(request.dimensions, output=SPARSE, least=spec.width, most=spec.width)
        found = tuple(each for each in outputs if isinstance(each, SparseVector))
        for index, each in enumerate(found):
            if not np.isfinite(each.weights).all():
                msg = "the model answered a weight that is NaN or infinite. Another dtype (float32) may help."
                raise NonFiniteVector(msg, index=index)
        found = found if spec.most_entries is None else tuple(_largest(each, spec.most_entries) for each in found)
        return tuple(map(_unit, found)) if request.normalize else found


def _check_vector(vector: SparseVector, width: int) -> None:
    ids, weights = vector.ids, vector.weights
    if ids.dtype != np.int32 or weights.dtype != np.float32 or ids.ndim != 1 or ids.shape != weights.shape:
        msg = (
            f"the backend answered a SparseVector of {ids.dtype} {ids.shape} and {weights.dtype} {weights.shape}, "
            "expected int32 (entries,) and float32 (entries,)"
        )
        raise TypeError(msg)
    if len(ids) and (ids[0] < 0 or ids[-1] >= width or (np.diff(ids) <= 0).any()):
        msg = f"the backend answered a SparseVector whose ids are not ascending and from 0 to {width - 1}"
        raise TypeError(msg)


def _largest(vector: SparseVector, count: int) -> SparseVector:
    if len(vector.ids) <= count:
        return vector
    kept = np.sort(np.argpartition(-np.abs(vector.weights), count - 1)[:count])
    return SparseVector(vector.ids[kept], vector.weights[kept])


def _unit(vector: SparseVector) -> SparseVector:
    norm = max(float(np.linalg.norm(vector.weights.astype(np.float64))), 1e-12)
    return SparseVector(vector.ids, (vector.weights / norm).astype(np.float32))
