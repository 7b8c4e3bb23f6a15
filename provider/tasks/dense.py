"""One vector a text: cut to `dimensions`, then normalised if wanted."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from provider.domain import DENSE, DenseTask, EmbedRequest, Features, RowOutput, TokenBatch, Vectors
from provider.errors import InvalidDimensions, NonFiniteVector, ZeroVector


class Dense:
    """See `Task`; an answer holds (inputs, dimensions) float32."""

    def read(self, folder: Path) -> None:
        """See `Task.read`."""

    def check(self, spec: DenseTask, outputs: Sequence[RowOutput], batch: TokenBatch) -> None:
        """See `Task.check`."""
        check_array(outputs, (batch.rows, spec.dimension))

    def flat(self, spec: DenseTask, output: RowOutput) -> NDArray[np.float32]:
        """See `Task.flat`."""
        return np.asarray(output, np.float32)

    def finish(
        self,
        spec: DenseTask,
        outputs: Sequence[RowOutput],
        features: Sequence[Features],
        request: EmbedRequest,
    ) -> Vectors:
        """See `Task.finish`."""
        vectors = np.asarray(outputs[0])[None] if len(outputs) == 1 else np.array(outputs, np.float32)
        normalize = spec.normalize if request.normalize is None else request.normalize
        return finish(vectors, request.dimensions, normalize=normalize)


def check_array(outputs: object, expected: tuple[int, ...]) -> None:
    """See that `outputs` is one float32 array of the `expected` shape.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(outputs, np.ndarray) or outputs.shape != expected or outputs.dtype != np.float32:
        got = f"{outputs.dtype} {outputs.shape}" if isinstance(outputs, np.ndarray) else type(outputs).__name__
        msg = f"the backend answered {got}, expected float32 {expected}"
        raise TypeError(msg)


def check_dimensions(dimensions: int | None, native: int) -> None:
    """Refuse a width the model does not have; its own width is always allowed.

    Raises:
        InvalidDimensions: smaller than 1, or larger than `native`.
    """
    if dimensions is None or 1 <= dimensions <= native:
        return
    raise InvalidDimensions(dimensions, output=DENSE, least=1, most=native)


def finish(vectors: Vectors, dimensions: int | None, *, normalize: bool = True) -> Vectors:
    """Cut to the leading `dimensions`, then scale to unit length: in this order, or the length would not be 1.

    Args:
        vectors: (inputs, native), float32; not written to.
        dimensions: already checked; None for all.
        normalize: False leaves the cut vectors as long as they are.

    Returns:
        (inputs, dimensions) float32, C-contiguous; with `normalize` each row has Euclidean length 1.

    Raises:
        NonFiniteVector: a row holds NaN or infinity; the error names the first such input.
        ZeroVector: a row is zero; the error names the first such input.
    """
    cut = vectors if dimensions is None else vectors[:, :dimensions]
    # The squares show NaN and infinity too, so that vectors are read only once. float64: they must not overflow.
    # Most requests have one vector, for which each call of numpy takes longer than its arithmetic.
    wide = cut.astype(np.float64)
    squares = [float(wide[0].dot(wide[0]))] if len(wide) == 1 else np.vecdot(wide, wide).tolist()
    if not math.isfinite(sum(squares)):
        index = next(index for index, square in enumerate(squares) if not math.isfinite(square))
        msg = (
            "the model answered a vector with NaN or infinity. "
            "Another dtype (float32) or another wording of this input may help."
        )
        raise NonFiniteVector(msg, index=index)
    if not all(squares):
        msg = (
            "the model answered a vector of zeros, which is similar to nothing. "
            "Another wording of this input, or more dimensions, may help."
        )
        raise ZeroVector(msg, index=squares.index(0.0))
    if not normalize:
        return np.array(cut, order="C")
    scales = [1.0 / math.sqrt(square) for square in squares]
    unit: Vectors = cut * (scales[0] if len(scales) == 1 else np.array(scales, np.float32)[:, None])
    return unit
