"""One vector a token."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from provider.domain import MULTI_VECTOR, EmbedRequest, Features, MultiVectorTask, RowOutput, TokenBatch
from provider.errors import InvalidDimensions, NonFiniteVector
from provider.tasks.dense import check_array


class MultiVector:
    """See `Task`; an answer holds a tuple of (tokens, dimension) float32."""

    def read(self, folder: Path) -> None:
        """See `Task.read`."""

    def check(self, spec: MultiVectorTask, outputs: Sequence[RowOutput], batch: TokenBatch) -> None:
        """See `Task.check`."""
        if len(outputs) != batch.rows:
            msg = f"the backend answered {len(outputs)} rows, expected {batch.rows}"
            raise TypeError(msg)
        for output, length in zip(outputs, batch.lengths, strict=True):
            check_array(output, (int(length), spec.dimension))

    def flat(self, spec: MultiVectorTask, output: RowOutput) -> NDArray[np.float32]:
        """See `Task.flat`."""
        return np.asarray(output, np.float32).ravel()

    def finish(
        self,
        spec: MultiVectorTask,
        outputs: Sequence[RowOutput],
        features: Sequence[Features],
        request: EmbedRequest,
    ) -> tuple[NDArray[np.float32], ...]:
        """See `Task.finish`."""
        if request.dimensions is not None and request.dimensions != spec.dimension:
            native = spec.dimension
            raise InvalidDimensions(request.dimensions, output=MULTI_VECTOR, least=native, most=native)
        normalize = spec.normalize if request.normalize is None else request.normalize
        finished = []
        for index, (output, row) in enumerate(zip(outputs, features, strict=True)):
            vectors = np.asarray(output, np.float32)[kept_tokens(spec, row)]
            if not np.isfinite(vectors).all():
                msg = "the model answered a vector with NaN or infinity. Another dtype (float32) may help."
                raise NonFiniteVector(msg, index=index)
            if normalize:
                norms = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = vectors / np.maximum(norms, 1e-12)
            finished.append(np.ascontiguousarray(vectors, np.float32))
        return tuple(finished)


def kept_tokens(spec: MultiVectorTask, row: Features) -> NDArray[np.bool_]:
    """Of which tokens of `row` the answer has a vector; shape (tokens,)."""
    kept = np.ones(len(row.ids), np.bool_)
    if spec.drops_first:
        kept[0] = False
    skipped = spec.skipped_of_queries if row.is_query else spec.skipped
    if skipped:
        kept &= ~np.isin(row.ids, list(skipped))
    return kept
