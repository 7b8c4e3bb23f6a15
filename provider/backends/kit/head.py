"""The steps after pooling: read once for every backend, and computed in numpy for those that do not run on torch.

Formulas: torch.nn's activations of the same names, with their default arguments.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from attrs import frozen
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from provider.domain import HeadStep, ModelSpec, Vectors
from provider.errors import InvalidModel

Activation = Callable[[Vectors], Vectors]

_NORM_EPSILON = 1e-5  # torch.nn.LayerNorm's default, which sentence-transformers' LayerNorm leaves as it is
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_RRELU_SLOPE = (1 / 8 + 1 / 3) / 2  # outside of training
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}

_EMPTY: NDArray[np.float32] = np.zeros(0, np.float32)
_erf = np.vectorize(math.erf, otypes=[np.float32])


@frozen(eq=False)
class Layer:
    """A step after pooling with its weights, all float32.

    Attributes:
        kind: as in `HeadStep`.
        weight: `dense`: (out_features, in_features); `layer_norm`: (width,); empty for `normalize`.
        bias: (out_features,) or (width,), 0 for none; empty for `normalize`.
        activation: of `dense`: the name of a class in torch.nn.
        slope: the learned slopes of the activation PReLU, (1,); None for others.
        is_residual: whether the input is added to the activated output.
        residual_weight: (out_features, in_features), by which the input is mapped first; None where it is not.
    """

    kind: str
    weight: NDArray[np.float32] = _EMPTY
    bias: NDArray[np.float32] = _EMPTY
    activation: str = "Identity"
    slope: NDArray[np.float32] | None = None
    is_residual: bool = False
    residual_weight: NDArray[np.float32] | None = None

    @classmethod
    def read(cls, step: HeadStep) -> Self:
        """Read the layer's `config.json` and safetensors.

        Raises:
            InvalidModel: they are missing or do not fit.
        """
        if step.folder is None:
            return cls("normalize")
        if step.kind == "linear":
            return cls._plain(step.folder)
        what = f"the {step.kind.replace('_', ' ')} layer in {step.folder}"
        try:
            config: dict[str, Any] = json.loads((step.folder / "config.json").read_text(encoding="utf-8"))
            state = read_tensors(step.folder / "model.safetensors")
            read = cls._dense if step.kind == "dense" else cls._layer_norm
            return read(what, config, state)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as exc:
            msg = f"{what} cannot be loaded: {exc}"
            raise InvalidModel(msg) from exc

    @classmethod
    def _dense(cls, what: str, config: dict[str, Any], state: dict[str, NDArray[Any]]) -> Self:
        shape = (config["out_features"], config["in_features"])
        # The names allowed are checked when the model's folder is read.
        activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
        is_residual = bool(config.get("use_residual"))
        return cls(
            "dense",
            _tensor(what, state, "linear.weight", shape),
            _tensor(what, state, "linear.bias", shape[:1])
            if config.get("bias", True)
            else np.zeros(shape[0], np.float32),
            activation,
            _tensor(what, state, "activation_function.weight", (1,)) if activation == "PReLU" else None,
            is_residual,
            _tensor(what, state, "residual.weight", shape) if is_residual and shape[0] != shape[1] else None,
        )

    @classmethod
    def _plain(cls, path: Path) -> Self:
        weight, bias = read_linear(path)
        return cls("dense", weight, bias)

    @classmethod
    def _layer_norm(cls, what: str, config: dict[str, Any], state: dict[str, NDArray[Any]]) -> Self:
        shape = (config["dimension"],)
        return cls("layer_norm", _tensor(what, state, "norm.weight", shape), _tensor(what, state, "norm.bias", shape))


def read_linear(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight (out_features, in_features) and bias (out_features,), float32, of a safetensors file with one layer.

    The tensors are called `weight` and `bias`, or `linear.weight` and `linear.bias` beside others; the bias may lack.

    Raises:
        InvalidModel: there is no such layer.
    """
    try:
        tensors = read_tensors(path)
    except (OSError, SafetensorError, ValueError, KeyError) as exc:
        msg = f"{path} cannot be loaded: {exc}; download the model again"
        raise InvalidModel(msg) from exc
    prefix = "" if "weight" in tensors else "linear."
    weight = tensors.get(f"{prefix}weight")
    if weight is None or weight.ndim != 2:
        msg = f"{path} has no weight of a linear layer; download the model again"
        raise InvalidModel(msg)
    bias = tensors.get(f"{prefix}bias")
    none = np.zeros(len(weight), np.float32)
    return weight.astype(np.float32), none if bias is None else bias.astype(np.float32)


def read_layers(steps: Sequence[HeadStep]) -> tuple[Layer, ...]:
    """The layers of a head, in order.

    Raises:
        InvalidModel: a layer's files are missing or do not fit.
    """
    return tuple(map(Layer.read, steps))


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors of a safetensors file, in memory; bfloat16, which numpy does not know, as float32.

    Raises:
        OSError: it cannot be read.
        SafetensorError: it is damaged.
        KeyError: a dtype is unknown.
    """
    found = {}
    for name, tensor in deserialize(path.read_bytes()):  # type: ignore[no-untyped-call]
        if tensor["dtype"] == "BF16":
            array = (np.frombuffer(tensor["data"], "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]])
        found[name] = array.reshape(tensor["shape"])
    return found


def _tensor(what: str, state: dict[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    tensor = state[name]
    if tensor.shape != shape:
        msg = f"{what} has {name} of {tensor.shape}, expected {shape} by its config.json; the files do not fit together"
        raise InvalidModel(msg)
    return np.array(tensor, np.float32)


@frozen(eq=False)
class Head:
    """The steps of a model's dense task, weights loaded, in float32. Safe from several threads."""

    _steps: tuple[Activation, ...]

    @classmethod
    def load(cls, spec: ModelSpec) -> Self:
        """Read the layers' safetensors.

        Raises:
            InvalidModel: a layer's files are missing or do not fit.
        """
        return cls(tuple(map(_step, read_layers(spec.dense.head))))

    def __call__(self, pooled: Vectors) -> Vectors:
        """From pooled hidden states (rows, width) float32 to vectors (rows, dimension), C-contiguous."""
        for step in self._steps:
            pooled = step(pooled)
        return np.ascontiguousarray(pooled, np.float32)


def _step(layer: Layer) -> Activation:
    if layer.kind == "normalize":
        return _normalize
    weight, bias = layer.weight, layer.bias
    if layer.kind == "layer_norm":
        return lambda x: _layer_norm(x) * weight + bias
    transposed = np.ascontiguousarray(weight.T)
    activation = _activation(layer)
    if not layer.is_residual:
        return lambda x: activation(x @ transposed + bias)
    residual = None if layer.residual_weight is None else np.ascontiguousarray(layer.residual_weight.T)
    return lambda x: activation(x @ transposed + bias) + (x if residual is None else x @ residual)


def _normalize(x: Vectors) -> Vectors:
    # The smallest divisor is that of torch.nn.functional.normalize.
    return cast("Vectors", x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12))


def _layer_norm(x: Vectors) -> Vectors:
    centred = x - x.mean(axis=-1, keepdims=True)
    return cast("Vectors", centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + _NORM_EPSILON))


def _sigmoid(x: Vectors) -> Vectors:
    return cast("Vectors", 0.5 * (1 + np.tanh(0.5 * x)))


def _softplus(x: Vectors) -> Vectors:
    return np.logaddexp(x, np.float32(0))


def _elu(x: Vectors) -> Vectors:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _log_softmax(x: Vectors) -> Vectors:
    shifted = x - x.max(axis=-1, keepdims=True)
    return cast("Vectors", shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _leaky(slope: float) -> Activation:
    return lambda x: np.where(x >= 0, x, np.float32(slope) * x)


def _activation(layer: Layer) -> Activation:
    if layer.slope is not None:
        return _leaky(float(layer.slope[0]))
    return _ACTIVATIONS[layer.activation]


_ACTIVATIONS: dict[str, Activation] = {
    "CELU": _elu,
    "ELU": _elu,
    "GELU": lambda x: 0.5 * x * (1 + _erf(x * np.float32(math.sqrt(0.5)))),
    "Hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, np.float32(0)),
    "Hardsigmoid": lambda x: np.clip(x / 6 + np.float32(0.5), 0, 1),
    "Hardswish": lambda x: x * np.clip(x / 6 + np.float32(0.5), 0, 1),
    "Hardtanh": lambda x: np.clip(x, -1, 1),
    "Identity": lambda x: x,
    "LeakyReLU": _leaky(0.01),
    "LogSigmoid": lambda x: -_softplus(-x),
    "LogSoftmax": _log_softmax,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "RReLU": _leaky(_RRELU_SLOPE),
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "SELU": lambda x: np.float32(_SELU_SCALE) * np.where(x > 0, x, np.float32(_SELU_ALPHA) * _elu(x)),
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
    "Softmax": lambda x: np.exp(_log_softmax(x)),
    "Softmin": lambda x: np.exp(_log_softmax(-x)),
    "Softplus": _softplus,
    "Softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - np.float32(0.5), 0),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanh": np.tanh,
    "Tanhshrink": lambda x: x - np.tanh(x),
}
