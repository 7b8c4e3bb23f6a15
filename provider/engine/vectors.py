"""From the model's vectors to the caller's: cut to `dimensions`, then normalised if wanted."""

import math

import numpy as np

from provider.domain import Vectors
from provider.errors import InvalidRequest, NonFiniteVector


def check_dimensions(dimensions: int | None, native: int) -> None:
    """Refuse a width the model does not have; its own width is always allowed.

    Raises:
        InvalidRequest: smaller than 1, or larger than `native`.
    """
    if dimensions is None or 1 <= dimensions <= native:
        return
    bound = f"Must be less than or equal to {native}" if dimensions > native else "Must be greater than or equal to 1"
    msg = f"Invalid 'dimensions' = {dimensions}. {bound}: this model's vectors have {native} dimensions."
    raise InvalidRequest(msg, param="dimensions", code="invalid_value")


def finish(vectors: Vectors, dimensions: int | None, *, normalize: bool = True) -> Vectors:
    """Cut to the leading `dimensions`, then scale to unit length: in this order, or the length would not be 1.

    Args:
        vectors: (inputs, native), float32; not written to.
        dimensions: already checked; None for all.
        normalize: False leaves the cut vectors as long as they are.

    Returns:
        (inputs, dimensions) float32, C-contiguous; with `normalize` each row has Euclidean length 1 (a zero row stays
        zero).

    Raises:
        NonFiniteVector: a row holds NaN or infinity; the message names the first such input.
    """
    cut = vectors if dimensions is None else vectors[:, :dimensions]
    # The norms show NaN and infinity too, so that vectors are read only once. float64: squares must not overflow.
    wide = cut.astype(np.float64)
    norms = np.sqrt(np.vecdot(wide, wide))
    if not math.isfinite(norms.sum()):
        index = int(np.flatnonzero(~np.isfinite(norms))[0])
        msg = (
            "the model answered a vector with NaN or infinity. "
            "Another dtype (float32) or another wording of this input may help."
        )
        raise NonFiniteVector(msg, index=index)
    if not normalize:
        return np.ascontiguousarray(cut)
    scale = (1.0 / np.maximum(norms, 1e-12)).astype(np.float32)
    unit: Vectors = cut * scale[:, None]
    return unit
