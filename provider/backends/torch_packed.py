"""Encoders of the BERT family over rows without padding.

The plain way fills the batch up to a rectangle, and every matrix product pays for the filling. Here the tokens of all
rows stand one behind the other, so that products and normalisations run over real tokens only; attention, where rows
must not see each other, runs over the rows of one length at a time. Query, key and value come from one product.

The arithmetic is that of transformers' `BertModel` (`models/bert/modeling_bert.py`, and `modeling_roberta.py` for the
positions), in inference: same weights, same order, no dropout.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from provider.backends.bert_checkpoint import BertCheckpoint
from provider.backends.pooling import pool
from provider.backends.torch_linear import Step, bfloat16_speedup, faster_linear
from provider.domain import Ids, PoolingMode, TokenBatch

_TOKENS_MULTIPLE = 16

# As transformers calls them (`transformers/activations.py`).
ACTIVATIONS: dict[str, Step] = {
    "gelu": functional.gelu,
    "gelu_new": lambda states: functional.gelu(states, approximate="tanh"),
    "gelu_pytorch_tanh": lambda states: functional.gelu(states, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
}


class PackedBert:
    """A BERT-family encoder that needs no padding.

    Attributes:
        linear: which library computes the linear layers, `torch` or `onednn`.
        bfloat16_speedup: how many times as fast they would be in bfloat16, measured; None if they are not float32.
    """

    def __init__(self, checkpoint: BertCheckpoint) -> None:
        """Use `supports` first."""
        self._word = checkpoint.tensor("embeddings.word_embeddings.weight")
        self._pad_id = checkpoint.pad_id
        self._positions = checkpoint.positions()
        self._norm = _norm(checkpoint, "embeddings.LayerNorm")
        example = checkpoint.linear("encoder.layer.0.intermediate.dense")
        self.linear, make_linear = faster_linear(*example)
        is_full = checkpoint.dtype == torch.float32
        self.bfloat16_speedup = round(bfloat16_speedup(*example), 2) if is_full else None
        self._layers = [_Layer(checkpoint, f"encoder.layer.{i}", make_linear) for i in range(checkpoint.layers)]

    @staticmethod
    def supports(checkpoint: BertCheckpoint) -> bool:
        """Whether this module computes what the checkpoint asks for."""
        return checkpoint.activation in ACTIVATIONS

    def pooled(self, batch: TokenBatch, modes: Sequence[PoolingMode]) -> torch.Tensor:
        """Run the encoder and pool: (rows, len(modes) * hidden_size) float32, in the order of the batch."""
        lengths = batch.lengths
        order = np.argsort(lengths, kind="stable")
        # A few tokens of filling at the end, which no row sees: with every number of tokens a shape of its own, the
        # memory of oneDNN's kernels and of the allocator would go on growing for thousands of batches.
        filling = np.zeros(-batch.tokens % _TOKENS_MULTIPLE, np.int64)
        ids = torch.from_numpy(np.concatenate([*(batch.row(i) for i in order), filling], dtype=np.int64))
        places = torch.from_numpy(np.concatenate([*(self._places(batch.row(i)) for i in order), filling]))
        # Rows of equal length lie side by side now: (first token, rows, length).
        widths, counts = np.unique(lengths, return_counts=True)
        starts = np.concatenate([[0], np.cumsum(widths * counts)[:-1]])
        groups = [(int(at), int(rows), int(width)) for at, rows, width in zip(starts, counts, widths, strict=True)]
        states = functional.embedding(ids, self._word) + functional.embedding(places, self._positions)
        states = self._norm(states)
        for layer in self._layers:
            states = layer(states, groups)
        skips = torch.from_numpy(batch.skips[order].astype(np.int64))
        parts, row = [], 0
        for at, rows, width in groups:
            hidden = states[at : at + rows * width].view(rows, width, -1)
            parts.append(pool(torch, hidden, torch.full((rows,), width), skips[row : row + rows], modes))
            row += rows
        return torch.cat(parts)[torch.from_numpy(np.argsort(order))]

    def _places(self, row: Ids) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """Where in the table of positions each token of `row` stands; a text may contain the padding token."""
        if self._pad_id is None:
            return np.arange(len(row))
        counted = np.not_equal(row, self._pad_id).astype(np.int64)
        return np.cumsum(counted) * counted


class _Layer:
    """One transformer layer, post-norm."""

    def __init__(self, checkpoint: BertCheckpoint, name: str, make_linear: Callable[..., Step]) -> None:
        attention = f"{name}.attention.self"
        self._qkv = make_linear(*checkpoint.linear(*(f"{attention}.{part}" for part in ("query", "key", "value"))))
        self._heads = checkpoint.heads
        self._attended = make_linear(*checkpoint.linear(f"{name}.attention.output.dense"))
        self._attended_norm = _norm(checkpoint, f"{name}.attention.output.LayerNorm")
        with_gelu = checkpoint.activation == "gelu"
        self._up = make_linear(*checkpoint.linear(f"{name}.intermediate.dense"), with_gelu=with_gelu)
        self._activation: Step = _identity if with_gelu else ACTIVATIONS[checkpoint.activation]
        self._down = make_linear(*checkpoint.linear(f"{name}.output.dense"))
        self._down_norm = _norm(checkpoint, f"{name}.output.LayerNorm")

    def __call__(self, states: torch.Tensor, groups: Sequence[tuple[int, int, int]]) -> torch.Tensor:
        """`states` (tokens, hidden_size) to the same."""
        qkv = self._qkv(states)
        context = torch.empty_like(states)
        end = sum(rows * width for _, rows, width in groups)
        context[end:] = 0
        for at, rows, width in groups:
            cells = slice(at, at + rows * width)
            query, key, value = qkv[cells].view(rows, width, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            seen = functional.scaled_dot_product_attention(query, key, value)
            context[cells].view(rows, width, self._heads, -1).copy_(seen.transpose(1, 2))
        states = self._attended_norm(self._attended(context) + states)
        return self._down_norm(self._down(self._activation(self._up(states))) + states)


def _identity(states: torch.Tensor) -> torch.Tensor:
    return states


def _norm(checkpoint: BertCheckpoint, name: str) -> Step:
    weight, bias = checkpoint.linear(name)
    shape, eps = tuple(weight.shape), checkpoint.norm_eps
    return lambda states: functional.layer_norm(states, shape, weight, bias, eps)
