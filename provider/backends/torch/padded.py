"""transformers' models over the padded rectangle of a batch."""

import inspect
from collections.abc import Sequence

import numpy as np
import torch

from provider.backends.torch.blocks import Block, pooled
from provider.backends.torch.device import Array, Device
from provider.domain import ModelSpec, PoolingMode, SparseTask, TokenBatch

# 256 MB in float32.
_MOST_LOGITS = 1 << 26


class PaddedEncoder:
    """An encoder over padded rectangles. Safe from several threads."""

    def __init__(self, model: torch.nn.Module, spec: ModelSpec, device: Device) -> None:
        """Take over a transformers model that is on `device`."""
        self._model, self._spec, self._device = model, spec, device
        self._takes_types = takes_types(model)
        task = spec.find(SparseTask)
        self._logits = task.width if task is not None and task.kind == "splade" else 0

    def pooled(self, batch: TokenBatch, modes: Sequence[PoolingMode]) -> torch.Tensor:
        """Run the encoder and pool: (rows, len(modes) * hidden_size) float32, in the order of the batch."""
        return pooled(self.blocks(batch), modes, self._device)

    def blocks(self, batch: TokenBatch) -> list[Block]:
        """The hidden states, or for a masked language model the logits, of which not too many are made at a time."""
        rows = np.arange(batch.rows)
        if not self._logits:
            return [self._block(batch, rows)]
        step = max(_MOST_LOGITS // (int(batch.lengths.max()) * self._logits), 1)
        parts = [rows[at : at + step] for at in range(0, batch.rows, step)]
        return [self._block(batch.take(places), places) for places in parts]

    def inputs_of(self, ids: Array, lengths: Array, types: Array | None) -> list[Array]:
        """The arrays for `states` of a rectangle.

        Args:
            ids: (rows, width) int64, filled on the right.
            lengths: (rows,) int64, at least 1.
            types: (rows, width) int64; None where all are 0.
        """
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        arrays = [ids, mask]
        return [*arrays, np.zeros_like(ids) if types is None else types] if self._takes_types else arrays

    def states(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Hidden states (rows, width, hidden_size) by the tensors of `inputs_of`."""
        ids, mask, *types = tensors
        return states_of(self._model, ids, mask, types[0] if types else None)

    def _block(self, batch: TokenBatch, places: Array) -> Block:
        ids, mask = batch.padded(pad_id=self._spec.pad_id)
        arrays: list[Array] = [ids, batch.lengths, batch.skips.astype(np.int64)]
        # Equal lengths need no mask, and attention without a mask is faster.
        has_mask, has_types = not mask.all(), self._takes_types and batch.type_ids is not None
        arrays += [*([mask] if has_mask else []), *([batch.padded_types()] if has_types else [])]
        tokens, lengths, skips, *more = self._device.put(arrays)
        seen, types = more[0] if has_mask else None, more[-1] if has_types else None
        return Block(places, states_of(self._model, tokens, seen, types), lengths, skips)


def takes_types(model: torch.nn.Module) -> bool:
    """Whether a transformers model tells the texts of a pair apart by their types."""
    return "token_type_ids" in inspect.signature(model.forward).parameters


def states_of(
    encoder: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor | None, types: torch.Tensor | None
) -> torch.Tensor:
    """What a transformers model gives for each token: hidden states, or the logits of a masked language model."""
    more = {} if types is None else {"token_type_ids": types}
    answer = encoder(input_ids=ids, attention_mask=mask, **more)
    states: torch.Tensor = answer.logits if hasattr(answer, "logits") else answer.last_hidden_state
    return states
