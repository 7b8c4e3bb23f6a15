"""Linear layers of a frozen model on the CPU, by whichever of torch's two libraries is faster on this machine.

`torch.nn.functional.linear` takes MKL for float32, and brings the weights into oneDNN's layout on every call for
bfloat16. The operators that torch.compile generates calls to (`torch.ops.mkldnn`) run oneDNN on weights that were
brought into its layout once, with GELU computed on the way out. Which is faster depends on the processor: with MKL,
float32 runs at less than half the speed on AMD's. So it is measured, once a model.
"""

import time
from collections.abc import Callable

import torch
from torch.nn import functional

Step = Callable[[torch.Tensor], torch.Tensor]

# A product like those of a full batch; some milliseconds for the whole measurement.
_PROBE_TOKENS = 256
_PROBE_ROUNDS = 5
_PROBE_SECONDS = 0.02


def plain_linear(weight: torch.Tensor, bias: torch.Tensor, *, with_gelu: bool = False) -> Step:
    """`x @ weight.T + bias`, and GELU of it if asked, by `torch.nn.functional`."""
    weight, bias = weight.detach().contiguous(), bias.detach().contiguous()
    if with_gelu:
        return lambda states: functional.gelu(functional.linear(states, weight, bias))
    return lambda states: functional.linear(states, weight, bias)


def onednn_linear(weight: torch.Tensor, bias: torch.Tensor, *, with_gelu: bool = False) -> Step:
    """The same by oneDNN, on a copy of the weights in its own layout."""
    operators = torch.ops.mkldnn
    packed = operators._reorder_linear_weight(weight.detach().contiguous())  # noqa: SLF001 - there is no other way
    bias = bias.detach().contiguous()
    after, algorithm = ("gelu", "none") if with_gelu else ("none", "")
    return lambda states: operators._linear_pointwise(states, packed, bias, after, [], algorithm)  # noqa: SLF001


def faster_linear(weight: torch.Tensor, bias: torch.Tensor) -> tuple[str, Callable[..., Step]]:
    """The better of the two ways for layers like this one, measured on the calling thread.

    Args:
        weight: (out_features, in_features), on the CPU.
        bias: (out_features,).

    Returns:
        Its name (`torch` or `onednn`), and the function that makes a layer.
    """
    plain = ("torch", plain_linear)
    if not torch.backends.mkldnn.is_available():
        return plain
    states = _states(weight)
    try:
        theirs, ours = plain_linear(weight, bias), onednn_linear(weight, bias)
        with torch.inference_mode():
            # bfloat16 is rounded at other places in the two.
            tolerance = 1e-4 if weight.dtype == torch.float32 else 5e-2
            is_same = torch.allclose(ours(states), theirs(states), rtol=tolerance, atol=tolerance)
            is_faster = is_same and _seconds(ours, states) < _seconds(theirs, states)
    except (AttributeError, NotImplementedError, RuntimeError):
        # These operators are torch's own business: another release, processor or dtype may not have them.
        return plain
    return ("onednn", onednn_linear) if is_faster else plain


def bfloat16_speedup(weight: torch.Tensor, bias: torch.Tensor) -> float:
    """How many times as fast a layer like this float32 one would be in bfloat16, measured on the calling thread.

    Above 1 only on processors with instructions for it (avx512_bf16, amx_bf16, Arm's bf16); far below 1 elsewhere.
    """
    with torch.inference_mode():
        as_it_is, half = (
            _seconds(faster_linear(*layer)[1](*layer), _states(layer[0]))
            for layer in ((weight, bias), (weight.bfloat16(), bias.bfloat16()))
        )
    return as_it_is / half


def _states(weight: torch.Tensor) -> torch.Tensor:
    return torch.linspace(-1, 1, _PROBE_TOKENS * weight.shape[1]).reshape(_PROBE_TOKENS, -1).to(weight.dtype)


def _seconds(step: Step, states: torch.Tensor) -> float:
    """The shortest of some calls: everything that makes one longer comes from outside."""
    best, spent = float("inf"), 0.0
    for _ in range(_PROBE_ROUNDS):
        started = time.perf_counter()
        step(states)
        took = time.perf_counter() - started
        best, spent = min(best, took), spent + took
        if spent > _PROBE_SECONDS:
            break
    return best
