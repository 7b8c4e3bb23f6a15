"""Hidden states of a batch, in blocks of rows, and what is pooled out of them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from provider.backends.kit.pooling import pool
from provider.domain import PoolingMode, TokenBatch


@frozen(eq=False)
class Block:
    """Some rows of a batch as a rectangle of hidden states.

    Attributes:
        rows: their places in the batch, (rows,).
        states: (rows, width, hidden_size); filled on the right where rows are shorter.
        lengths: tokens of each row, (rows,) int64, on the device of `states`.
    """

    rows: NDArray[np.int64]
    states: torch.Tensor
    lengths: torch.Tensor


@runtime_checkable
class PackedEncoder(Protocol):
    """An encoder that needs no padding."""

    def pooled(self, batch: TokenBatch, modes: Sequence[PoolingMode]) -> torch.Tensor:
        """Run the encoder and pool: (rows, len(modes) * hidden_size) float32, in the order of the batch."""

    def blocks(self, batch: TokenBatch) -> list[Block]:
        """Run the encoder: hidden states of all rows, those of one length together."""


def pooled(blocks: Sequence[Block], batch: TokenBatch, modes: Sequence[PoolingMode]) -> torch.Tensor:
    """(rows, len(modes) * hidden_size) float32, in the order of the batch."""
    parts = []
    for block in blocks:
        skips = torch.from_numpy(batch.skips[block.rows].astype(np.int64)).to(block.states.device)
        parts.append(pool(torch, block.states, block.lengths, skips, modes))
    if len(parts) == 1 and (np.diff(blocks[0].rows) == 1).all():
        one: torch.Tensor = parts[0]
        return one
    order = np.argsort(np.concatenate([block.rows for block in blocks]))
    return torch.cat(parts)[torch.from_numpy(order).to(parts[0].device)]
