"""The steps after pooling in numpy, for backends that do not run on torch.

Formulas: torch.nn's activations of the same names, with their default arguments.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from attrs import frozen
from safetensors import SafetensorError
from safetensors.numpy import load_file

from provider.domain import ModelSpec, Vectors
from provider.errors import InvalidModel

Activation = Callable[[Vectors], Vectors]

_erf = np.vectorize(math.erf, otypes=[np.float32])


def _sigmoid(x: Vectors) -> Vectors:
    return cast("Vectors", 0.5 * (1 + np.tanh(0.5 * x)))


def _softplus(x: Vectors) -> Vectors:
    return np.logaddexp(x, np.float32(0))


_ACTIVATIONS: dict[str, Activation] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": lambda x: 0.5 * x * (1 + _erf(x * np.float32(math.sqrt(0.5)))),
    "Sigmoid": _sigmoid,
    "SiLU": lambda x: x * _sigmoid(x),
    "LeakyReLU": lambda x: np.where(x >= 0, x, np.float32(0.01) * x),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "Softplus": _softplus,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
}


@frozen(eq=False)
class Head:
    """The steps of `ModelSpec.head`, weights loaded, in float32. Safe from several threads."""

    _steps: tuple[Activation, ...]

    @classmethod
    def load(cls, spec: ModelSpec) -> Self:
        """Read the layers' safetensors.

        Raises:
            InvalidModel: a layer's files are missing or do not fit.
        """
        return cls(tuple(_normalize if step.folder is None else _dense(step.folder) for step in spec.head))

    def __call__(self, pooled: Vectors) -> Vectors:
        """From pooled hidden states (rows, width) float32 to vectors (rows, `spec.dimension`), C-contiguous."""
        for step in self._steps:
            pooled = step(pooled)
        return np.ascontiguousarray(pooled, np.float32)


def _normalize(x: Vectors) -> Vectors:
    # The smallest divisor is that of torch.nn.functional.normalize.
    return cast("Vectors", x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12))


def _dense(folder: Path) -> Activation:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        state = load_file(folder / "model.safetensors")
        weight = np.ascontiguousarray(state["linear.weight"].T, np.float32)
        bias = state["linear.bias"].astype(np.float32) if config.get("bias", True) else np.float32(0)
        if weight.shape != (config["in_features"], config["out_features"]):
            msg = f"the dense layer in {folder} has weights of {weight.shape[::-1]}, which config.json does not say"
            raise InvalidModel(msg)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as exc:
        msg = f"the dense layer in {folder} cannot be loaded: {exc}"
        raise InvalidModel(msg) from exc
    # The names allowed are checked when the model's folder is read.
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    activation = _ACTIVATIONS[name]
    return lambda x: activation(x @ weight + bias)
