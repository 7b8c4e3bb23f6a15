"""Hidden states to one vector a row, written once for torch tensors and numpy arrays.

The modes, their order under concatenation and their edge cases are those of sentence-transformers' `Pooling`
(`sentence_transformers/sentence_transformer/modules/pooling.py`). `numpy` and `torch` name the functions used here
alike, so the module of the array type is the only parameter.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

from provider.domain import PoolingMode


def pool(
    xp: ModuleType,
    hidden: Any,  # noqa: ANN401 - torch.Tensor or numpy.ndarray, as `xp` says
    lengths: Any,  # noqa: ANN401
    skips: Any,  # noqa: ANN401
    modes: Sequence[PoolingMode],
    *,
    padding_side: Literal["left", "right"] = "right",
) -> Any:  # noqa: ANN401
    """Pool each row of `hidden`, and concatenate where there are several modes.

    Args:
        xp: `numpy` or `torch`, the module that `hidden` belongs to.
        hidden: hidden states, (rows, width, hidden_size), floating; read only.
        lengths: tokens of each row, (rows,) integer, on the device of `hidden`.
        skips: leading tokens of each row to leave out, (rows,) integer; 0 to pool them all.
        modes: at least one.
        padding_side: where the rectangle was filled.

    Returns:
        (rows, len(modes) * hidden_size) float32, in the order of `modes`. Sums run in float32 whatever the dtype.
    """
    rows, width = hidden.shape[0], hidden.shape[1]
    index = xp.arange(rows) if xp.__name__ == "numpy" else xp.arange(rows, device=hidden.device)
    column = xp.arange(width) if xp.__name__ == "numpy" else xp.arange(width, device=hidden.device)
    first = width - lengths if padding_side == "left" else lengths * 0
    # Place of each cell in its own row: 0 is the row's first token, negative is padding on the left.
    place = column[None, :] - first[:, None]
    counted = (place >= skips[:, None]) & (place < lengths[:, None])
    pooled = []
    for mode in modes:
        if mode == "cls":
            one = hidden[index, first + skips]
        elif mode == "lasttoken":
            one = hidden[index, first + lengths - 1]
        elif mode == "max":
            one = xp.amax(xp.where(counted[:, :, None], hidden, -float("inf")), 1)
        else:
            # Left-out prompt tokens keep their share of the position weights: the weights of the rest do not move.
            weights = counted * (place + 1) if mode == "weightedmean" else counted * 1
            states, weights = _float32(xp, hidden), _float32(xp, weights)
            total = xp.einsum("rwh,rw->rh", states, weights)
            divisor = weights.sum(1)[:, None]
            one = total / (xp.sqrt(divisor) if mode == "mean_sqrt_len_tokens" else divisor)
        pooled.append(_float32(xp, one))
    return pooled[0] if len(pooled) == 1 else xp.concatenate(pooled, -1)


def _float32(xp: ModuleType, array: Any) -> Any:  # noqa: ANN401
    return array.astype(xp.float32) if xp.__name__ == "numpy" else array.to(xp.float32)
