"""The steps after pooling, as torch modules: the layers of sentence-transformers' pipelines."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from provider.backends.kit.head import Layer, read_layers
from provider.domain import HeadStep, ModelSpec

# Over the vector, which they do not take as a default.
_OVER_THE_VECTOR = ("Softmax", "Softmin", "LogSoftmax")


def load_head(spec: ModelSpec) -> torch.nn.Sequential:
    """The steps after pooling, in float32: vectors are small, and this is where rounding would show.

    Raises:
        InvalidModel: a layer's files are missing or do not fit.
    """
    return load_steps(() if spec.pooled is None else spec.pooled.head)


def load_steps(steps: Sequence[HeadStep]) -> torch.nn.Sequential:
    """`steps` in float32.

    Raises:
        InvalidModel: a layer's files are missing or do not fit.
    """
    return torch.nn.Sequential(*map(_module, read_layers(steps)))


def _module(layer: Layer) -> torch.nn.Module:
    if layer.kind == "normalize":
        return _Normalize()
    module = _layer_norm(layer) if layer.kind == "layer_norm" else _dense(layer)
    return module.eval().requires_grad_(requires_grad=False)


def _layer_norm(layer: Layer) -> torch.nn.Module:
    norm = torch.nn.LayerNorm(len(layer.weight))
    norm.load_state_dict({"weight": torch.from_numpy(layer.weight), "bias": torch.from_numpy(layer.bias)})
    return norm


def _dense(layer: Layer) -> torch.nn.Module:
    dense = torch.nn.Sequential(_linear(layer.weight, layer.bias), _activation(layer))
    if not layer.is_residual:
        return dense
    residual = torch.nn.Identity() if layer.residual_weight is None else _linear(layer.residual_weight, None)
    return _Residual(dense, residual)


def _linear(weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> torch.nn.Module:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    state = {"weight": torch.from_numpy(weight)}
    linear.load_state_dict(state if bias is None else {**state, "bias": torch.from_numpy(bias)})
    return linear


def _activation(layer: Layer) -> torch.nn.Module:
    kind = getattr(torch.nn, layer.activation)
    activation: torch.nn.Module = kind(dim=-1) if layer.activation in _OVER_THE_VECTOR else kind()
    if layer.slope is not None:
        activation.load_state_dict({"weight": torch.from_numpy(layer.slope)})
    return activation


class _Normalize(torch.nn.Module):
    """A `Normalize` that is not the pipeline's last step."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(vectors, dim=-1)


class _Residual(torch.nn.Module):
    """A dense layer to whose output its input is added."""

    def __init__(self, dense: torch.nn.Module, residual: torch.nn.Module) -> None:
        super().__init__()
        self._dense, self._residual = dense, residual

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self._dense(vectors) + self._residual(vectors)
        return added
