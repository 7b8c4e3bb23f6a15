"""Embeddings and layers of a BERT encoder, over the tokens of all rows: by torch, or by our own kernels."""

import logging
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from attrs import field, frozen
from numpy.typing import NDArray
from torch.nn import functional

from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.linear import Step, uncopied_linear
from provider.backends.torch.native import native_library
from provider.backends.torch.native_layers import NativeEncoder, NativeLayer, NativeLinear

ACTIVATIONS: dict[str, Step] = {
    "gelu": functional.gelu,
    "gelu_new": lambda states: functional.gelu(states, approximate="tanh"),
    "gelu_pytorch_tanh": lambda states: functional.gelu(states, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
}
"""What may follow a layer, as transformers calls it (`transformers/activations.py`)."""


# A few tokens of filling at the end, which no row sees: with every number of tokens a shape of its own, the memory of
# oneDNN's kernels and of the allocator would go on growing for thousands of batches.
_TOKENS_MULTIPLE = 16
# Rows that our kernels are tried with, one longer than they take at a time; and how far they may be from torch, as a
# share of the hidden states' length.
_TRIAL_LENGTHS, _TOLERANCE = (1, 3, 3, 50), 1e-5

_log = logging.getLogger(__name__)


@frozen(eq=False)
class Rows:
    """The rows of a batch in order of length, one behind the other; all arrays int64.

    Attributes:
        order: their places in the batch, (rows,), the shortest row first.
        ids: (tokens,).
        places: of each token in the table of positions, (tokens,).
        lengths: (rows,).
        seen: how many tokens of each row are attended to, from its first on, (rows,).
        groups: rows of one length: (first token, rows, length).
    """

    order: NDArray[np.int64]
    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    lengths: NDArray[np.int64]
    seen: NDArray[np.int64]
    groups: list[tuple[int, int, int]] = field(init=False)

    @groups.default
    def _grouped(self) -> list[tuple[int, int, int]]:
        widths, counts = np.unique(self.lengths, return_counts=True)
        starts = np.cumsum(widths * counts) - widths * counts
        return [(int(at), int(rows), int(width)) for at, rows, width in zip(starts, counts, widths, strict=True)]

    def masks(self) -> list[torch.Tensor | None]:
        """Which tokens are seen, for each group (rows, 1, 1, width) bool; None where all are."""
        masks: list[torch.Tensor | None] = []
        row = 0
        for _, rows, width in self.groups:
            seen = np.arange(width)[None, :] < self.seen[row : row + rows, None]
            masks.append(None if seen.all() else torch.from_numpy(seen[:, None, None, :]))
            row += rows
        return masks


class TorchLayers:
    """Embeddings and layers by torch, with linear layers of any kind."""

    def __init__(
        self,
        checkpoint: BertCheckpoint,
        positions: torch.Tensor,
        make_linear: Callable[..., Step],
        layers: int | None = None,
    ) -> None:
        """Take weights.

        Args:
            checkpoint: the weights.
            positions: table of positions, (places, hidden_size).
            make_linear: makes a layer.
            layers: how many, from the first on; None for all.
        """
        self._word, self._positions = checkpoint.tensor("embeddings.word_embeddings.weight"), positions
        self._norm = _norm(checkpoint, "embeddings.LayerNorm")
        self._layers = [
            _Layer(checkpoint, i, make_linear) for i in range(checkpoint.layers if layers is None else layers)
        ]

    def run(self, rows: Rows, *, firsts: bool = False) -> torch.Tensor:
        """Hidden states of all tokens and some of filling, (…, hidden_size); of first tokens (rows, hidden_size)."""
        states, masks = self._embedded(rows), rows.masks()
        for layer in self._layers[:-1] if firsts else self._layers:
            states = layer(states, rows.groups, masks)
        return self._layers[-1].firsts(states, rows.groups) if firsts else states

    def _embedded(self, rows: Rows) -> torch.Tensor:
        filling = np.zeros(-len(rows.ids) % _TOKENS_MULTIPLE, np.int64)
        ids, places = (torch.from_numpy(np.concatenate([each, filling])) for each in (rows.ids, rows.places))
        states = functional.embedding(ids, self._word).add_(functional.embedding(places, self._positions))
        return self._norm(states)


class _Layer:
    """One transformer layer, post-norm."""

    def __init__(self, checkpoint: BertCheckpoint, number: int, make_linear: Callable[..., Step]) -> None:
        name = f"encoder.layer.{number}"
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

    def __call__(
        self,
        states: torch.Tensor,
        groups: Sequence[tuple[int, int, int]],
        masks: Sequence[torch.Tensor | None],
    ) -> torch.Tensor:
        """`states` (tokens, hidden_size) to the same."""
        qkv = self._qkv(states)
        context = torch.empty_like(states)
        end = sum(rows * width for _, rows, width in groups)
        context[end:] = 0
        for (at, rows, width), mask in zip(groups, masks, strict=True):
            cells = slice(at, at + rows * width)
            query, key, value = qkv[cells].view(rows, width, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            context[cells].view(rows, width, self._heads, -1).copy_(seen.transpose(1, 2))
        return self._feed(self._attended_norm(self._attended(context).add_(states)))

    def firsts(self, states: torch.Tensor, groups: Sequence[tuple[int, int, int]]) -> torch.Tensor:
        """`states` (tokens, hidden_size) to those of each row's first token, (rows, hidden_size)."""
        qkv = self._qkv(states)
        contexts, firsts = [], []
        for at, rows, width in groups:
            cells = slice(at, at + rows * width)
            query, key, value = qkv[cells].view(rows, width, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            seen = functional.scaled_dot_product_attention(query[:, :, :1], key, value)
            contexts.append(seen.reshape(rows, -1))
            firsts.append(states[cells].view(rows, width, -1)[:, 0])
        return self._feed(self._attended_norm(self._attended(torch.cat(contexts)).add_(torch.cat(firsts))))

    def _feed(self, states: torch.Tensor) -> torch.Tensor:
        return self._down_norm(self._down(self._activation(self._up(states))).add_(states))


def _identity(states: torch.Tensor) -> torch.Tensor:
    return states


def _norm(checkpoint: BertCheckpoint, name: str) -> Step:
    weight, bias = (tensor.clone() for tensor in checkpoint.linear(name))
    shape, eps = tuple(weight.shape), checkpoint.norm_eps
    return lambda states: functional.layer_norm(states, shape, weight, bias, eps)


class NativeLayers:
    """Embeddings and layers by our own kernels, in one call."""

    def __init__(self, encoder: NativeEncoder, *, helped: bool) -> None:
        """Use `of`."""
        self._encoder, self._helped = encoder, helped

    @classmethod
    def of(cls, checkpoint: BertCheckpoint, positions: torch.Tensor, *, helped: bool = False) -> Self | None:
        """Take weights as `TorchLayers`, float32; None where the kernels give other numbers than torch.

        With `helped`, a pass that is the only one in this process may use a second core.
        """
        library = native_library()
        if library is None:
            return None

        def linear(*names: str, activation: str = "none") -> NativeLinear:
            weight, bias = arrays(*names)
            return NativeLinear(library, weight, bias, activation)

        def arrays(*names: str) -> list[NDArray[np.float32]]:
            return [tensor.numpy() for tensor in checkpoint.linear(*names)]

        layers = [
            NativeLayer(
                qkv=linear(*(f"{name}.attention.self.{part}" for part in ("query", "key", "value"))),
                attended=linear(f"{name}.attention.output.dense"),
                up=linear(f"{name}.intermediate.dense", activation=checkpoint.activation),
                down=linear(f"{name}.output.dense"),
                attended_norm=arrays(f"{name}.attention.output.LayerNorm"),
                down_norm=arrays(f"{name}.output.LayerNorm"),
            )
            for name in (f"encoder.layer.{i}" for i in range(checkpoint.layers))
        ]
        words, norm = checkpoint.tensor("embeddings.word_embeddings.weight"), arrays("embeddings.LayerNorm")
        tables, shape = (words.numpy(), positions.numpy()), (checkpoint.heads, checkpoint.norm_eps)
        made = cls(NativeEncoder(library, *tables, norm, layers, *shape), helped=helped)
        error = made._error(checkpoint, positions)
        if error <= _TOLERANCE:
            return made
        _log.warning("layers run by torch's libraries: our kernels differ by %.1e, allowed %.0e", error, _TOLERANCE)
        return None

    @torch.inference_mode()
    def _error(self, checkpoint: BertCheckpoint, positions: torch.Tensor) -> float:
        """How far hidden states are from torch's, as a share of their length."""
        random = np.random.default_rng(0)
        lengths = np.minimum(_TRIAL_LENGTHS, len(positions))
        ids = random.integers(0, len(checkpoint.tensor("embeddings.word_embeddings.weight")), lengths.sum())
        places = np.concatenate([np.arange(length) for length in lengths])
        rows = Rows(np.arange(len(lengths)), ids, places, lengths, np.maximum(lengths - 1, 1))
        # One layer at a time, as weights take memory.
        expected = TorchLayers(checkpoint, positions, uncopied_linear, layers=0).run(rows)
        for i in range(checkpoint.layers):
            expected = _Layer(checkpoint, i, uncopied_linear)(expected, rows.groups, rows.masks())
        expected = expected[: len(ids)]
        difference = torch.linalg.vector_norm(self.run(rows) - expected)
        return float(difference / torch.linalg.vector_norm(expected))

    def run(self, rows: Rows, *, firsts: bool = False) -> torch.Tensor:
        """As `TorchLayers.run`, without filling."""
        starts = np.concatenate([[0], np.cumsum(rows.lengths)])
        threads = torch.get_num_threads()
        is_helped = self._helped and threads == 1
        arrays = (rows.ids, rows.places, starts, rows.seen)
        return torch.from_numpy(self._encoder.run(*arrays, threads, firsts=firsts, is_helped=is_helped))
