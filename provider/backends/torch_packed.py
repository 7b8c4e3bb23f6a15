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
import transformers
from torch.nn import functional
from transformers.activations import GELUActivation

from provider.backends.pooling import pool
from provider.backends.torch_linear import Step, faster_linear
from provider.domain import Ids, PoolingMode, TokenBatch

_TOKENS_MULTIPLE = 16

_FAMILY = (
    transformers.BertModel,
    transformers.RobertaModel,
    transformers.XLMRobertaModel,
    transformers.CamembertModel,
)


class PackedBert(torch.nn.Module):
    """A BERT-family encoder that needs no padding. It keeps what it needs of the encoder it is made from.

    Attributes:
        linear: which library computes the linear layers, `torch` or `onednn`.
    """

    def __init__(self, encoder: Any) -> None:  # noqa: ANN401 - transformers' modules, whose parts have no types
        """Use `supports` first."""
        super().__init__()
        embeddings = encoder.embeddings
        self._word = embeddings.word_embeddings.weight.detach()
        # Without segments every token has type 0: one table less to look up.
        table = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        # RoBERTa's positions begin behind the padding id; it has one of its own, and is not counted.
        self._pad_id: int | None = getattr(embeddings, "padding_idx", None)
        self._positions = table.detach()[self._pad_id or 0 :]
        self._norm = _norm(embeddings.LayerNorm)
        layers = encoder.encoder.layer
        up = layers[0].intermediate.dense
        self.linear, make_linear = faster_linear(up.weight, up.bias)
        self._layers = [_Layer(layer, make_linear) for layer in layers]

    @staticmethod
    def supports(encoder: torch.nn.Module) -> bool:
        """Whether `encoder` is computed as this module does it."""
        config: Any = getattr(encoder, "config", None)
        return type(encoder) in _FAMILY and not config.is_decoder and not config.add_cross_attention

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

    def __init__(self, layer: Any, make_linear: Callable[..., Step]) -> None:  # noqa: ANN401 - as above
        attention = layer.attention.self
        projections = (attention.query, attention.key, attention.value)
        self._qkv = make_linear(
            torch.cat([each.weight for each in projections]), torch.cat([each.bias for each in projections])
        )
        self._heads, self._head_size = attention.num_attention_heads, attention.attention_head_size
        self._attended = make_linear(layer.attention.output.dense.weight, layer.attention.output.dense.bias)
        self._attended_norm = _norm(layer.attention.output.LayerNorm)
        activation = layer.intermediate.intermediate_act_fn
        with_gelu = isinstance(activation, GELUActivation) and activation.act is functional.gelu
        self._up = make_linear(layer.intermediate.dense.weight, layer.intermediate.dense.bias, with_gelu=with_gelu)
        self._activation: Step = torch.nn.Identity() if with_gelu else activation
        self._down = make_linear(layer.output.dense.weight, layer.output.dense.bias)
        self._down_norm = _norm(layer.output.LayerNorm)

    def __call__(self, states: torch.Tensor, groups: Sequence[tuple[int, int, int]]) -> torch.Tensor:
        """`states` (tokens, hidden_size) to the same."""
        qkv = self._qkv(states)
        context = torch.empty_like(states)
        end = sum(rows * width for _, rows, width in groups)
        context[end:] = 0
        for at, rows, width in groups:
            cells = slice(at, at + rows * width)
            query, key, value = qkv[cells].view(rows, width, 3, self._heads, self._head_size).permute(2, 0, 3, 1, 4)
            seen = functional.scaled_dot_product_attention(query, key, value)
            context[cells].view(rows, width, self._heads, self._head_size).copy_(seen.transpose(1, 2))
        states = self._attended_norm(self._attended(context) + states)
        return self._down_norm(self._down(self._activation(self._up(states))) + states)


def _norm(module: torch.nn.LayerNorm) -> Step:
    shape, weight, bias, eps = module.normalized_shape, module.weight.detach(), module.bias.detach(), module.eps
    return lambda states: functional.layer_norm(states, shape, weight, bias, eps)
