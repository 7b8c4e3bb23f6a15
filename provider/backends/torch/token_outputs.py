"""Outputs that are made of each token's hidden state: SPLADE, one weight a token, one vector a token."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from provider.backends.kit.head import read_linear
from provider.backends.kit.sparse import largest_by_id, vector_of
from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.blocks import Block
from provider.backends.torch.device import Device
from provider.backends.torch.head import load_steps
from provider.backends.torch.linear import Step, plain_linear
from provider.domain import MULTI_VECTOR, SPARSE, ModelSpec, MultiVectorTask, Outputs, RowOutput, SparseTask, TokenBatch

# Logits are as wide as the vocabulary: of so many tokens at a time they stay in the cache, or fill a GPU.
_LOGIT_TOKENS, _LOGIT_TOKENS_ON_GPU = 256, 2048


class TokenHeads:
    """The heads of a model over its tokens' hidden states. Safe from several threads."""

    def __init__(self, spec: ModelSpec, to_logits: Step | None, device: Device) -> None:
        """Load what `spec` names.

        Args:
            spec: with tasks of sparse vectors or token vectors.
            to_logits: from hidden states to logits over the vocabulary; None where the states are these logits.
            device: where the states are.

        Raises:
            InvalidModel: a layer's files are missing or do not fit.
        """
        self._to_logits, self._device = to_logits or _same, device
        self._logit_tokens = _LOGIT_TOKENS if device.is_cpu else _LOGIT_TOKENS_ON_GPU
        self._sparse, self._late = spec.find(SparseTask), spec.find(MultiVectorTask)
        self._weigh: torch.nn.Linear | None = None
        if self._sparse is not None and self._sparse.head is not None:
            self._weigh = _linear(*read_linear(self._sparse.head)).to(device.place)
        self._vectors = load_steps(() if self._late is None else self._late.head).to(device.place)

    def run(self, batch: TokenBatch, blocks: Iterable[Block]) -> Outputs:
        """The outputs out of `sparse` and `multi_vector` that `batch` wants; see `Backend.run`."""
        wanted = [name for name in (SPARSE, MULTI_VECTOR) if name in batch.outputs]
        found: dict[str, list[Any]] = {name: [None] * batch.rows for name in wanted}
        for block in blocks:
            for name, rows in found.items():
                made = self._sparse_rows(batch, block) if name == SPARSE else self._late_rows(batch, block)
                for place, row in zip(block.rows, made, strict=True):
                    rows[place] = row
        return found

    def _sparse_rows(self, batch: TokenBatch, block: Block) -> Sequence[RowOutput]:
        task = self._sparse
        if task is not None and self._weigh is not None:
            weights = self._device.get(self._weigh(block.states.float()).squeeze(-1).relu())
            rows = enumerate(block.rows)
            return [largest_by_id(ids := batch.row(row), weights[i, : len(ids)], task.dropped) for i, row in rows]
        pooled = self._device.get(self._splade(block).float())
        return [vector_of(row) for row in pooled]

    def _splade(self, block: Block) -> torch.Tensor:
        """Weights (rows, vocabulary), by a few tokens' logits at a time."""
        task = self._sparse
        is_max = task is None or task.pooling == "max"
        rows, width = block.states.shape[:2]
        tokens = self._logit_tokens
        step = max(tokens // width, 1)
        parts = []
        for at in range(0, rows, step):
            lengths = block.lengths[at : at + step]
            total: torch.Tensor | None = None
            for start in range(0, width, tokens):
                logits = self._to_logits(block.states[at : at + step, start : start + tokens])
                place = torch.arange(start, start + logits.shape[1], device=logits.device)
                padding = place[None, :, None] >= lengths[:, None, None]
                # Activation keeps the order, so that the maximum may be taken first.
                values = logits.masked_fill(padding, 0)
                part = values.amax(1).relu() if is_max else self._activated(values.float()).sum(1)
                total = part if total is None else torch.maximum(total, part) if is_max else total + part
            parts.append(total)
        pooled = torch.cat([part for part in parts if part is not None])
        return self._activated(pooled.float()) if is_max else pooled

    def _activated(self, values: torch.Tensor) -> torch.Tensor:
        activated = values.relu().log1p()
        return activated.log1p() if self._sparse is not None and self._sparse.activation == "log1p_relu" else activated

    def _late_rows(self, batch: TokenBatch, block: Block) -> Sequence[RowOutput]:
        vectors = self._device.get(self._vectors(block.states.float()))
        lengths = batch.lengths[block.rows]
        return [np.ascontiguousarray(row[:length], np.float32) for row, length in zip(vectors, lengths, strict=True)]


def bert_logits(checkpoint: BertCheckpoint, make_linear: Callable[..., Step], activation: Step) -> Step | None:
    """The masked-LM head of a BERT or RoBERTa checkpoint; None where it is not complete and of the usual form.

    It maps hidden states (rows, width, hidden_size) to logits (rows, width, vocabulary).
    """
    is_bert = checkpoint.pad_id is None
    name, norm = ("cls.predictions.transform", "LayerNorm") if is_bert else ("lm_head", "layer_norm")
    decoder = "cls.predictions" if is_bert else "lm_head"
    needed = [f"{name}.{part}.{kind}" for part in ("dense", norm) for kind in ("weight", "bias")]
    found = [checkpoint.of_head(each) for each in (*needed, f"{decoder}.bias")]
    tensors = [each for each in found if each is not None]
    if len(tensors) < len(found):
        return None
    weight, bias, scale, shift, last = tensors
    # Tied weights are the table of embeddings, whatever else the file holds.
    own = None if checkpoint.is_tied else checkpoint.of_head(f"{decoder}.decoder.weight")
    table = checkpoint.tensor("embeddings.word_embeddings.weight") if own is None else own
    # The table is there already: what a transposed copy gains is not worth its memory.
    is_shared = own is None and make_linear is plain_linear
    decode = partial(functional.linear, weight=table, bias=last) if is_shared else make_linear(table, last)
    transform = make_linear(weight, bias)
    activate: Step = activation if is_bert else functional.gelu
    shape, eps = tuple(scale.shape), checkpoint.norm_eps

    def to_logits(states: torch.Tensor) -> torch.Tensor:
        transformed = functional.layer_norm(activate(transform(states.flatten(0, 1))), shape, scale, shift, eps)
        logits: torch.Tensor = decode(transformed).unflatten(0, states.shape[:2])
        return logits

    return to_logits


def _same(states: torch.Tensor) -> torch.Tensor:
    return states


def _linear(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return linear.requires_grad_(requires_grad=False)
