"""Linear layers of a frozen model on the CPU, by whatever is fastest on this machine.

For float32, torch takes MKL: on weights that were transposed once it is faster than on weights as checkpoints store
them, by a seventh for the tokens of one short text and by 3 % for those of a full batch. For bfloat16 it brings the
weights into oneDNN's layout on every call. The operators that torch.compile generates calls to (`torch.ops.mkldnn`)
run oneDNN on weights that were brought into its layout once, with GELU computed on the way out. Our own kernels
(`native`) do the same, and need half as long as MKL for the tokens of one short text. Which is fastest depends on the
processor: with MKL, float32 runs at less than half the speed on AMD's AVX-512. So it is measured, once a model.
"""

import time
from collections.abc import Callable, Collection, Sequence

import torch
from torch.nn import functional

from provider.backends.torch.native import native_library
from provider.backends.torch.native_layers import NativeLinear

Step = Callable[[torch.Tensor], torch.Tensor]

# The tokens of a query and of a full batch; some milliseconds for the whole measurement.
_PROBE_TOKENS = (16, 256)
_PROBE_ROUNDS = 5
_PROBE_SECONDS = 0.02
# Of float32 and of half precision, which is rounded at other places.
_TOLERANCES = (1e-5, 5e-2)
# A layer is tried with so many tokens before it is used.
_TRIAL_TOKENS = 3
# oneDNN's operators are torch's own business: another release, processor or dtype may not have them.
_MISSING = (AttributeError, NotImplementedError, RuntimeError)


def plain_linear(weight: torch.Tensor, bias: torch.Tensor, *, with_gelu: bool = False) -> Step:
    """`states @ weight.T + bias`, and GELU of it if asked, by torch's own choice of library.

    Args:
        weight: (out_features, in_features). In float32 a transposed copy is made.
        bias: (out_features,).
        with_gelu: whether GELU follows.

    Returns:
        A function of states (tokens, in_features).
    """
    weight, bias = weight.detach(), bias.detach().clone()
    if weight.dtype == torch.float32:
        transposed = weight.t().contiguous()
        linear: Step = lambda states: torch.addmm(bias, states, transposed)  # noqa: E731 - one of two
    else:
        # In half precision a transposed one is seven times slower on processors without instructions for it.
        weight = weight.contiguous()
        linear = lambda states: functional.linear(states, weight, bias)  # noqa: E731
    return (lambda states: functional.gelu(linear(states))) if with_gelu else linear


def uncopied_linear(weight: torch.Tensor, bias: torch.Tensor, *, with_gelu: bool = False) -> Step:
    """The same by torch, on the weights as they are."""

    def step(states: torch.Tensor) -> torch.Tensor:
        made = functional.linear(states, weight, bias)
        return functional.gelu(made) if with_gelu else made

    return step


def onednn_linear(weight: torch.Tensor, bias: torch.Tensor, *, with_gelu: bool = False) -> Step:
    """The same by oneDNN, on a copy of the weights in its own layout."""
    operators = torch.ops.mkldnn
    packed = operators._reorder_linear_weight(weight.detach().contiguous())  # noqa: SLF001 - oneDNN packs nowhere else
    bias = bias.detach().clone()
    after, algorithm = ("gelu", "none") if with_gelu else ("none", "")
    return lambda states: operators._linear_pointwise(states, packed, bias, after, [], algorithm)  # noqa: SLF001


def native_linear(weight: torch.Tensor, bias: torch.Tensor, *, with_gelu: bool = False) -> Step:
    """The same by our own kernels, on a copy of the weights in their layout; float32 only.

    Raises:
        NotImplementedError: they cannot be compiled here, or `weight` is not float32.
    """
    library = native_library() if weight.dtype == torch.float32 else None
    if library is None:
        msg = "there are no kernels for these weights on this machine"
        raise NotImplementedError(msg)
    outputs, inputs = weight.shape
    layer = NativeLinear(library, weight.detach().numpy(), bias.detach().numpy(), "gelu" if with_gelu else "none")

    def step(states: torch.Tensor) -> torch.Tensor:
        if states.dtype != torch.float32:
            msg = f"expected float32 states, got {states.dtype}"
            raise RuntimeError(msg)
        states = states.contiguous()
        out = states.new_empty((*states.shape[:-1], outputs))
        layer.run(states.data_ptr(), states.numel() // inputs, torch.get_num_threads(), out.data_ptr())
        return out

    return step


WAYS: dict[str, Callable[..., Step]] = {"torch": plain_linear, "onednn": onednn_linear, "native": native_linear}
"""What makes a linear layer, by name."""


def fastest_linear(
    weight: torch.Tensor, bias: torch.Tensor, *, ways: Collection[str] = WAYS
) -> tuple[str, Callable[..., Step]]:
    """The best way for layers like this one, measured on the calling thread; wrong ones are not considered.

    Args:
        weight: (out_features, in_features), on the CPU.
        bias: (out_features,).
        ways: names to choose from, beside `torch`.

    Returns:
        Its name, and the function that makes a layer.
    """
    names, steps = ["torch"], [plain_linear(weight, bias)]
    batches = [_states(weight, tokens) for tokens in _PROBE_TOKENS]
    with torch.inference_mode():
        expected = [steps[0](states) for states in batches]
        for name in [name for name in WAYS if name != "torch" and name in ways]:
            try:
                step = WAYS[name](weight, bias)
                is_same = all(_are_close(step(states), right) for states, right in zip(batches, expected, strict=True))
            except _MISSING:
                continue
            if is_same:
                names.append(name)
                steps.append(step)
        # Batches count alike, however long they take.
        rounds = [_seconds(steps, [states] * len(steps)) for states in batches]
    shares = [sum(took[i] / took[0] for took in rounds) for i in range(len(names))]
    best = names[shares.index(min(shares))]
    return best, WAYS[best]


def bfloat16_speedup(make: Callable[..., Step], weight: torch.Tensor, bias: torch.Tensor) -> float:
    """How many times as fast a float32 layer of `make` would be in bfloat16, measured on the calling thread.

    Above 1 only on processors with instructions for it (avx512_bf16, amx_bf16, Arm's bf16); far below 1 elsewhere.
    """
    layers = ((weight, bias), (weight.bfloat16(), bias.bfloat16()))
    with torch.inference_mode():
        steps = [make(*layers[0]), fastest_linear(*layers[1])[1](*layers[1])]
        as_it_is, half = _seconds(steps, [_states(layer[0]) for layer in layers])
    return as_it_is / half


def speedup(make: Callable[..., Step], weight: torch.Tensor, bias: torch.Tensor | None) -> float:
    """How many times as fast as float32 a layer like this is if `make` makes it, measured on the calling thread."""
    layer = (weight, bias_of(weight, bias))
    with torch.inference_mode():
        usual, other = _seconds([fastest_linear(*layer)[1](*layer), make(*layer)], [_states(weight)] * 2)
    return usual / other


def checked(make: Callable[..., Step]) -> Callable[..., Step]:
    """As `make`, or by torch where that gives other numbers."""

    def tried(weight: torch.Tensor, bias: torch.Tensor) -> Step:
        own, states = uncopied_linear(weight, bias), _states(weight, _TRIAL_TOKENS)
        try:
            step = make(weight, bias)
            return step if _are_close(step(states), own(states)) else own
        except _MISSING:
            return own

    return tried


def bias_of(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Of a layer with that weight; zeros where it has none."""
    return torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias.detach()


def _are_close(ours: torch.Tensor, right: torch.Tensor) -> bool:
    tolerance = _TOLERANCES[right.dtype != torch.float32]
    return torch.allclose(ours, right, rtol=tolerance, atol=tolerance * float(right.abs().max()))


def _states(weight: torch.Tensor, tokens: int = _PROBE_TOKENS[-1]) -> torch.Tensor:
    return torch.linspace(-1, 1, tokens * weight.shape[1]).reshape(tokens, -1).to(weight.dtype)


def _seconds(steps: Sequence[Step], states: Sequence[torch.Tensor]) -> list[float]:
    """CPU seconds of each: the shortest of some calls in turn. What makes one longer comes from outside."""
    best, spent = [float("inf")] * len(steps), 0.0
    for _ in range(_PROBE_ROUNDS):
        for i, (step, its_states) in enumerate(zip(steps, states, strict=True)):
            started = time.thread_time()
            step(its_states)
            took = time.thread_time() - started
            best[i], spent = min(best[i], took), spent + took
        if spent > _PROBE_SECONDS * len(steps):
            break
    return best
