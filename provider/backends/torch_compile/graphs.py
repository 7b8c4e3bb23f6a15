"""The models that `torch-compile` compiles: from token ids to the vectors or logits of a batch, in one graph.

Inputs are what numpy makes of a `TokenBatch` in a few microseconds; whatever else there is to compute (masks, places,
pooling, the head) is part of the graph. Shapes are symbolic: one graph for every batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from provider.backends.kit.pooling import pool
from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.bert_layers import ACTIVATIONS
from provider.backends.torch.scores import ScoreModel
from provider.backends.torch_compile.cache import Kind
from provider.domain import DENSE, SCORES, DenseTask, ModelSpec, PoolingMode, TokenBatch

Arrays = tuple[NDArray[Any], ...]

# As in `packed_bert`: every number of tokens with a shape of its own would let memory grow for thousands of batches.
_TOKENS_MULTIPLE = 16

_RECTANGLE = (("rows", "width"), ("rows",), ("rows",))
_SHAPES: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "packed": (("tokens",), ("tokens",), ("rows",), ("rows",), ("rows",), ("width",)),
    "padded": _RECTANGLE,
    "padded on the left": _RECTANGLE,
}


def output_of(spec: ModelSpec) -> tuple[str, int]:
    """The output that a graph of the model gives, and its width."""
    dense = spec.find(DenseTask)
    return (SCORES, len(spec.scores.labels)) if dense is None else (DENSE, dense.dimension)


def shapes_of(kind: Kind, *, typed: bool) -> tuple[tuple[str, ...], ...]:
    """The axes of each array that a graph takes; types of tokens, where it takes them, are the last."""
    shapes = _SHAPES[kind]
    # Types lie as ids do.
    return (*shapes, shapes[0]) if typed else shapes


def arrays_of(kind: Kind, batch: TokenBatch, pad_id: int, *, typed: bool, multiple_of: int = 1) -> Arrays:
    """A batch as the inputs of a graph, in the order of its `forward`; the width of a rectangle is a multiple."""
    if kind == "packed":
        return _packed_arrays(batch, typed=typed)
    side: Literal["left", "right"] = "right" if kind == "padded" else "left"
    ids, _ = batch.padded(pad_id=pad_id, side=side, multiple_of=multiple_of)
    arrays = (ids, batch.lengths, batch.skips)
    return (*arrays, batch.padded_types(side=side, multiple_of=multiple_of)) if typed else arrays


def _packed_arrays(batch: TokenBatch, *, typed: bool) -> Arrays:
    lengths, starts = batch.lengths, batch.offsets[:-1]
    width = int(lengths.max())
    filled = -(-batch.tokens // _TOKENS_MULTIPLE) * _TOKENS_MULTIPLE
    ids = np.zeros(filled, np.int32)
    ids[: batch.tokens] = batch.ids
    cells = np.zeros(filled, np.int64)
    cells[: batch.tokens] = np.arange(batch.tokens)
    cells[: batch.tokens] += np.repeat(np.arange(0, batch.rows * width, width) - starts, lengths)
    arrays = (ids, cells, starts, lengths, batch.skips, np.arange(width))
    if not typed:
        return arrays
    types = np.zeros(filled, np.int32)
    if batch.type_ids is not None:
        types[: batch.tokens] = batch.type_ids
    return (*arrays, types)


def dynamic_shapes(kind: Kind, *, typed: bool, longest: int | None) -> tuple[dict[int, Any], ...]:
    """Which dimensions of each input vary, for `torch.export`, and that no row has more than `longest` tokens."""
    dims = {name: torch.export.Dim(name) for name in ("tokens", "rows")}
    dims["width"] = torch.export.Dim("width", max=longest)
    return tuple({axis: dims[name] for axis, name in enumerate(shape)} for shape in shapes_of(kind, typed=typed))


class PackedGraph(torch.nn.Module):
    """An encoder of the BERT family over the tokens of all rows, one behind the other, without padding.

    Only attention needs rows side by side: tokens are gathered into a rectangle for it, and back.

    Attributes:
        types: of tokens, that it has a table for; 0 where it takes none.
    """

    def __init__(
        self, checkpoint: BertCheckpoint, modes: Sequence[PoolingMode], head: torch.nn.Module, *, typed: bool = False
    ) -> None:
        """Take the weights of `checkpoint`; use `PackedBert.supports` first.

        Args:
            checkpoint: the weights.
            modes: of pooling.
            head: from pooled vectors (rows, width) float32 to what is answered, float32.
            typed: whether the graph takes types of tokens.
        """
        super().__init__()
        self._word = checkpoint.tensor("embeddings.word_embeddings.weight")
        self._pad_id = checkpoint.pad_id
        self._positions = checkpoint.typed_positions() if typed else checkpoint.positions()
        self._places_of_a_type = len(checkpoint.positions())
        self.types = len(self._positions) // self._places_of_a_type if typed else 0
        self._norm = _norm(checkpoint, "embeddings.LayerNorm")
        self._layers = torch.nn.ModuleList(
            _EncoderLayer(checkpoint, f"encoder.layer.{i}") for i in range(checkpoint.layers)
        )
        self._modes, self._head = tuple(modes), head

    @property
    def vocabulary(self) -> int:
        """Rows of the table of token embeddings."""
        return len(self._word)

    @property
    def positions(self) -> int:
        """Most tokens of a row that there are positions for."""
        return self._places_of_a_type - (self._pad_id is not None)

    def forward(  # noqa: PLR0917 - exported graphs take their inputs by place
        self,
        ids: torch.Tensor,
        cells: torch.Tensor,
        starts: torch.Tensor,
        lengths: torch.Tensor,
        skips: torch.Tensor,
        columns: torch.Tensor,
        types: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the head gives: vectors (rows, dimension) or logits (rows, labels), float32.

        Args:
            ids: (tokens,) int32; there may be more than the rows have: what follows is not looked at.
            cells: (tokens,) int64: each token's cell in the rectangle, counted row by row.
            starts: (rows,) int64: each row's first token.
            lengths: (rows,) int64.
            skips: (rows,) int32, as in `TokenBatch`.
            columns: (width,) int64: 0, 1, 2, … up to the length of the longest row.
            types: (tokens,) int32: the segment of each token, below `types`; for graphs that take it.
        """
        width = columns.shape[0]
        is_token = columns[None, :] < lengths[:, None]
        tokens = torch.where(is_token, starts[:, None] + columns[None, :], 0)
        if self._pad_id is None:
            places = cells % width
        else:
            counted = (is_token & (ids[tokens] != self._pad_id)).long()
            places = (counted.cumsum(1) * counted).reshape(-1)[cells]
        if types is not None:
            places = places + types * self._places_of_a_type
        states = functional.embedding(ids, self._word) + functional.embedding(places, self._positions)
        states = self._norm(states)
        mask = torch.where(is_token, 0.0, -torch.inf).to(states.dtype)[:, None, None, :]
        for layer in self._layers:
            states = layer(states, tokens, cells, mask)
        vectors: torch.Tensor = self._head(pool(torch, states[tokens], lengths, skips, self._modes))
        return vectors


class _EncoderLayer(torch.nn.Module):
    """One transformer layer, post-norm."""

    def __init__(self, checkpoint: BertCheckpoint, name: str) -> None:
        super().__init__()
        attention = f"{name}.attention.self"
        self._qkv = _linear(checkpoint, *(f"{attention}.{part}" for part in ("query", "key", "value")))
        self._heads = checkpoint.heads
        self._attended = _linear(checkpoint, f"{name}.attention.output.dense")
        self._attended_norm = _norm(checkpoint, f"{name}.attention.output.LayerNorm")
        self._up = _linear(checkpoint, f"{name}.intermediate.dense")
        self._activation: Callable[[torch.Tensor], torch.Tensor] = ACTIVATIONS[checkpoint.activation]
        self._down = _linear(checkpoint, f"{name}.output.dense")
        self._down_norm = _norm(checkpoint, f"{name}.output.LayerNorm")

    def forward(
        self, states: torch.Tensor, tokens: torch.Tensor, cells: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """`states` (tokens, hidden_size) to the same."""
        rows, width = tokens.shape
        qkv = self._qkv(states)[tokens].view(rows, width, 3, self._heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        context = seen.transpose(1, 2).reshape(rows * width, -1)[cells]
        states = self._attended_norm(self._attended(context) + states)
        normed: torch.Tensor = self._down_norm(self._down(self._activation(self._up(states))) + states)
        return normed


class PaddedGraph(torch.nn.Module):
    """Any encoder of transformers over the padded rectangle."""

    types = 0

    def __init__(
        self,
        encoder: Any,  # noqa: ANN401 - transformers' modules have no types
        modes: Sequence[PoolingMode],
        head: torch.nn.Module,
        positions: int | None,
    ) -> None:
        """Take a transformers model in inference mode, with positions for so many tokens; None for any number."""
        super().__init__()
        self.positions = positions
        encoder.config.use_cache = False
        self._encoder, self._modes, self._head = encoder, tuple(modes), head

    @property
    def vocabulary(self) -> int:
        """Rows of the table of token embeddings."""
        return _vocabulary(self._encoder)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor, skips: torch.Tensor) -> torch.Tensor:
        """Vectors (rows, dimension), float32, of `ids` (rows, width) int64, padded on the right."""
        hidden = self._encoder(input_ids=ids, attention_mask=_mask(ids, lengths)).last_hidden_state
        vectors: torch.Tensor = self._head(pool(torch, hidden, lengths, skips, self._modes))
        return vectors


class PaddedScoreGraph(torch.nn.Module):
    """Any classifier or causal reranker of transformers over the padded rectangle.

    Attributes:
        types: as in `PackedGraph`.
    """

    def __init__(self, model: ScoreModel, positions: int | None) -> None:
        """Take a model in inference mode, with positions for so many tokens; None for any number."""
        super().__init__()
        self.positions = positions
        self._model = model
        self.types = model.types

    @property
    def vocabulary(self) -> int:
        """Rows of the table of token embeddings."""
        return _vocabulary(self._model.model)

    def forward(
        self, ids: torch.Tensor, lengths: torch.Tensor, _skips: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (rows, labels), float32, of `ids` and `types` (rows, width) int64, padded on the model's side."""
        logits: torch.Tensor = self._model(ids, _mask(ids, lengths, side=self._model.side), types)
        return logits.float()


def _mask(ids: torch.Tensor, lengths: torch.Tensor, *, side: str = "right") -> torch.Tensor:
    columns = torch.arange(ids.shape[1], device=ids.device)[None, :]
    is_token = columns < lengths[:, None] if side == "right" else columns >= ids.shape[1] - lengths[:, None]
    return is_token.long()


def _vocabulary(model: Any) -> int:  # noqa: ANN401 - as above
    return int(model.get_input_embeddings().weight.shape[0])


Graph = PackedGraph | PaddedGraph | PaddedScoreGraph


def _linear(checkpoint: BertCheckpoint, *names: str) -> torch.nn.Linear:
    weight, bias = checkpoint.linear(*names)
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = _frozen(weight), _frozen(bias)
    return layer


def _norm(checkpoint: BertCheckpoint, name: str) -> torch.nn.LayerNorm:
    weight, bias = checkpoint.linear(name)
    layer = torch.nn.LayerNorm(weight.shape, eps=checkpoint.norm_eps, dtype=weight.dtype)
    layer.weight, layer.bias = _frozen(weight), _frozen(bias)
    return layer


def _frozen(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor, requires_grad=False)
