"""Linear layers in int8, on the CPU: weights are quantised once, states while they run.

Weights have a scale for each output, states one for each token: no row's numbers depend on the rows beside it. Products
are oneDNN's (`torch.ops.onednn.qlinear_pointwise`, which torch.compile generates calls to).
"""

import functools

import torch
from torch.nn import functional

from provider.backends.torch.linear import Step, speedup
from provider.backends.torch.linear_layers import linear_layers, replace_layers
from provider.domain import ModelSpec
from provider.errors import BackendUnavailable

_STATES_TOP, _STATES_ZERO = 127, 128
# Keeps tokens and weights of zeros from being divided by zero.
_LEAST = 1e-30


def int8_linear(weight: torch.Tensor, bias: torch.Tensor | None, *, with_gelu: bool = False) -> Step:
    """About `states @ weight.T + bias`, and GELU of it if asked.

    Args:
        weight: (out_features, in_features) float32.
        bias: (out_features,) float32; None for none.
        with_gelu: whether GELU follows.

    Returns:
        A function of states (..., in_features) float32.
    """
    top = 2 ** (weight_bits() - 1) - 1
    step = _quantized(weight.detach(), None if bias is None else bias.detach().clone(), top)
    return (lambda states: functional.gelu(step(states))) if with_gelu else step


def quantize_encoder(spec: ModelSpec, model: torch.nn.Module) -> float:
    """Quantise the linear layers of a transformers model's encoder; how many times as fast the largest is.

    Raises:
        BackendUnavailable: it has none.
    """
    layers = linear_layers(model)
    if not layers:
        msg = f"{spec.architecture} has no linear layers that int8 could be used for; set model.dtype to auto"
        raise BackendUnavailable(msg)
    largest = layers[0][2]
    replace_layers(layers, int8_linear)
    return round(speedup(int8_linear, largest.weight.detach(), largest.bias), 2)


def weight_bits() -> int:
    """How many bits a weight has on this processor, on which vectors depend."""
    return 8 if _has_exact_products() else 7


def _quantized(weight: torch.Tensor, bias: torch.Tensor | None, top: int) -> Step:
    outputs, inputs = weight.shape
    scales = (weight.abs().amax(1) / top).clamp(min=_LEAST)
    packed = torch.ops.onednn.qlinear_prepack((weight / scales[:, None]).round().to(torch.int8), None)
    zeros = torch.zeros(outputs, dtype=torch.int32)
    product = torch.ops.onednn.qlinear_pointwise

    def step(states: torch.Tensor) -> torch.Tensor:
        rows = states.reshape(-1, inputs)
        largest = rows.abs().amax(1, keepdim=True).clamp_(min=_LEAST)
        whole = (rows * (_STATES_TOP / largest)).round_().add_(_STATES_ZERO).to(torch.uint8)
        # fmt: off
        made = product(
            whole, 1 / _STATES_TOP, _STATES_ZERO, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        # fmt: on
        answer = made.mul_(largest) if bias is None else torch.addcmul(bias, made, largest)
        return answer.view(*states.shape[:-1], outputs)

    return step


@functools.cache
def _has_exact_products() -> bool:
    """Whether this processor adds pairs of 8-bit products without cutting them off at 16 bits, as those with VNNI do.

    Where it does not, weights of 7 bits keep sums below the cut.
    """
    states, weight = torch.ones(16, 64), torch.ones(16, 64)
    with torch.inference_mode():
        return bool((_quantized(weight, None, 127)(states) - 64).abs().max() < 0.1)
