"""Hidden states of a batch, in blocks of rows, and what is pooled out of them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from provider.backends.kit.pooling import pool
from provider.backends.torch.device import Device
from provider.domain import PoolingMode, TokenBatch


@frozen(eq=False)
class Block:
    """Some rows of a batch as a rectangle of hidden states.

    Attributes:
        rows: their places in the batch, (rows,).
        states: (rows, width, hidden_size); filled on the right where rows are shorter.
        lengths: tokens of each row, (rows,) int64, on the device of `states`.
        skips: as in `TokenBatch`, (rows,) int64, on the device of `states`.
    """

    rows: NDArray[np.int64]
    states: torch.Tensor
    lengths: torch.Tensor
    skips: torch.Tensor


@runtime_checkable
class StateEncoder(Protocol):
    """An encoder that gives hidden states."""

    def pooled(self, batch: TokenBatch, modes: Sequence[PoolingMode]) -> torch.Tensor:
        """Run the encoder and pool: (rows, len(modes) * hidden_size) float32, in the order of the batch."""

    def blocks(self, batch: TokenBatch) -> list[Block]:
        """Run the encoder: hidden states of all rows."""


def pooled(blocks: Sequence[Block], modes: Sequence[PoolingMode], device: Device) -> torch.Tensor:
    """(rows, len(modes) * hidden_size) float32, in the order of the batch."""
    parts = [pool(torch, each.states, each.lengths, each.skips, modes) for each in blocks]
    return in_order(parts, blocks, device)


def in_order(parts: Sequence[torch.Tensor], blocks: Sequence[Block], device: Device) -> torch.Tensor:
    """Tensors (rows, …), one a block, joined in the order of the batch."""
    if len(parts) == 1 and (np.diff(blocks[0].rows) == 1).all():
        return parts[0]
    (order,) = device.put([np.argsort(np.concatenate([block.rows for block in blocks]))])
    return torch.cat(list(parts))[order]
