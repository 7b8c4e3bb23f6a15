"""Weights of the BERT family, read from safetensors without transformers.

Importing transformers' model classes takes longer than importing torch, and 150 MB of memory; for an encoder that is
computed by `packed_bert` nothing of them is needed but the names of the tensors. What is not exactly as expected here
goes the way of `loading`, which also says what is wrong with it.

Names and shapes are those of transformers' `models/bert/modeling_bert.py` and `models/roberta/modeling_roberta.py`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen
from safetensors import SafetensorError, safe_open

# model_type to the prefix of its tensors' names in checkpoints that were saved with a head.
_PREFIXES = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta.", "camembert": "roberta."}
_WEIGHTS = "model.safetensors"
_LAYER = "encoder.layer."


@frozen(eq=False)
class BertCheckpoint:
    """An encoder's shape and tensors.

    Attributes:
        layers: number of transformer layers.
        heads: attention heads of each.
        activation: of the feed-forward layers, as transformers calls it (`gelu`).
        norm_eps: added to the variance in layer normalisation.
        hidden_size: width of the hidden states.
        pad_id: RoBERTa's padding id, whose tokens all stand at a position of their own and are not counted; None for
            BERT, which knows no such id.
        dtype: what `tensor` converts to.
        is_tied: whether a masked-LM head shares the table of token embeddings.
    """

    layers: int
    heads: int
    activation: str
    norm_eps: float
    hidden_size: int
    pad_id: int | None
    dtype: torch.dtype
    is_tied: bool
    _prefix: str
    _tensors: Mapping[str, torch.Tensor] = field(repr=False)

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype) -> "BertCheckpoint | None":
        """The checkpoint in `folder`; None if it is not one of the family, complete and of the usual form.

        Tensors are copied out of the mapped file: what becomes of that later must not reach a model that serves.
        """
        try:
            config = json.loads((folder / "config.json").read_bytes())
            if not _is_usual(config):
                return None
            weights = folder / _WEIGHTS
            with safe_open(weights, framework="pt") as file:
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except (OSError, ValueError, SafetensorError):
            return None
        prefix = _PREFIXES[config["model_type"]]
        prefix = prefix if any(name.startswith(prefix) for name in tensors) else ""
        if any(_shape(tensors, prefix + name) != shape for name, shape in _expected(config).items()):
            return None
        is_bert = config["model_type"] == "bert"
        return cls(
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            activation=config.get("hidden_act", "gelu"),
            norm_eps=config.get("layer_norm_eps", 1e-12 if is_bert else 1e-5),
            hidden_size=config["hidden_size"],
            pad_id=None if is_bert else config.get("pad_token_id", 1),
            dtype=dtype,
            is_tied=bool(config.get("tie_word_embeddings", True)),
            prefix=prefix,
            tensors=tensors,
        )

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called `name` in transformers' base model, without gradients, as `dtype`."""
        return self._tensors[self._prefix + name].to(self.dtype)

    def of_head(self, name: str) -> torch.Tensor | None:
        """A tensor of a head beside the base model, by its whole name; None where there is none."""
        found = self._tensors.get(name)
        return None if found is None else found.to(self.dtype)

    def positions(self) -> torch.Tensor:
        """What is added for a token's position (positions, hidden_size): from the padding id's, if there is one.

        The embedding of segments is part of it: without segments every token has type 0, so it is one table less.
        """
        return self._positions_of_type(0)

    def typed_positions(self) -> torch.Tensor:
        """`positions` of each type of tokens, one behind the other: (types * positions, hidden_size)."""
        types = len(self.tensor("embeddings.token_type_embeddings.weight"))
        return torch.cat([self._positions_of_type(i) for i in range(types)])

    def _positions_of_type(self, type_id: int) -> torch.Tensor:
        table = self.tensor("embeddings.position_embeddings.weight")[self.pad_id or 0 :]
        return table + self.tensor("embeddings.token_type_embeddings.weight")[type_id]

    def outer(self, name: str) -> torch.Tensor | None:
        """The tensor called `name` beside the base model, as `dtype`; None if there is none of floating point."""
        found = self._tensors.get(name)
        return found.to(self.dtype) if found is not None and found.is_floating_point() else None

    def linear(self, *names: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (out_features, in_features) and bias (out_features,) of a layer, or of several as one."""
        weights, biases = ([self.tensor(f"{name}.{part}") for name in names] for part in ("weight", "bias"))
        return (weights[0], biases[0]) if len(names) == 1 else (torch.cat(weights), torch.cat(biases))


def _is_usual(config: Mapping[str, Any]) -> bool:
    return (
        config.get("model_type") in _PREFIXES
        and not config.get("is_decoder")
        and not config.get("add_cross_attention")
        and config.get("position_embedding_type", "absolute") in ("absolute", None)
        and all(isinstance(config.get(name), int) for name in ("num_hidden_layers", "num_attention_heads"))
        and isinstance(config.get("hidden_size"), int)
        and isinstance(config.get("pad_token_id", 1), int)
        and config["num_hidden_layers"] > 0
        and config["hidden_size"] % config["num_attention_heads"] == 0
    )


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    return tuple(tensors[name].shape) if name in tensors and tensors[name].is_floating_point() else ()


def _expected(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = config["hidden_size"], config.get("intermediate_size", 3072)
    shapes = {
        "embeddings.word_embeddings.weight": (config.get("vocab_size", 30_522), hidden),
        "embeddings.position_embeddings.weight": (config.get("max_position_embeddings", 512), hidden),
        "embeddings.token_type_embeddings.weight": (config.get("type_vocab_size", 2), hidden),
        **_affine("embeddings.LayerNorm", hidden),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"{_LAYER}{i}"
        for name in ("query", "key", "value"):
            shapes |= _affine(f"{layer}.attention.self.{name}", hidden, hidden)
        shapes |= _affine(f"{layer}.attention.output.dense", hidden, hidden)
        shapes |= _affine(f"{layer}.attention.output.LayerNorm", hidden)
        shapes |= _affine(f"{layer}.intermediate.dense", inner, hidden)
        shapes |= _affine(f"{layer}.output.dense", hidden, inner)
        shapes |= _affine(f"{layer}.output.LayerNorm", hidden)
    return shapes


def _affine(name: str, *weight_shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight_shape, f"{name}.bias": weight_shape[:1]}
