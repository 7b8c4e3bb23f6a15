"""The linear layers of a transformers model, replaced by steps that do the same faster."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from provider.backends.torch.linear import Step, bias_of, checked, fastest_linear, uncopied_linear

# Most that hidden states may differ, as a share of their length, of float32 and of half precision.
_TOLERANCES = (1e-4, 5e-2)
# A model is tried with so many tokens.
_TRIAL_TOKENS = 3


class LinearStep(torch.nn.Module):
    """A step in the place of a `torch.nn.Linear`."""

    def __init__(self, linear: torch.nn.Linear, make: Callable[..., Step]) -> None:
        """Let `make` take the weights of `linear`."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._step = make(linear.weight.detach(), bias_of(linear.weight, linear.bias))
        # Some models look up what dtype a layer wants.
        self.weight = torch.nn.Buffer(torch.empty(0, dtype=linear.weight.dtype), persistent=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States (..., in_features) to (..., out_features)."""
        return self._step(states.reshape(-1, self.in_features)).view(*states.shape[:-1], self.out_features)


Layers = list[tuple[torch.nn.Module, str, torch.nn.Linear]]
"""Linear layers: the module that each belongs to, its name there, and itself."""


def linear_layers(model: torch.nn.Module) -> Layers:
    """Those of a transformers model's encoder, the largest first; its head stays as it is."""
    encoder: Any = getattr(model, "base_model", model)
    found = [
        (module, name, layer)
        for module in encoder.modules()
        for name, layer in module.named_children()
        # Not of a subclass, which may use its weights in other ways.
        if type(layer) is torch.nn.Linear
    ]
    return sorted(found, key=lambda each: -each[2].weight.numel())


def replace_layers(layers: Layers, make: Callable[..., Step]) -> None:
    """Put steps of `make` in the place of `layers`; that list is emptied, so that each layer's weights can be freed."""
    while layers:
        module, name, layer = layers.pop()
        setattr(module, name, LinearStep(layer, make))


def use_fastest_linear(model: torch.nn.Module) -> str:
    """Let the linear layers of a transformers model's encoder on the CPU be computed by what is fastest.

    One layer's weights are there twice at a time.

    Returns:
        Its name; `torch` where the model stays as it is.
    """
    layers = linear_layers(model)
    if not layers:
        return "torch"
    name, make = _fastest(layers)
    if name == "torch" or not _runs_by_steps(model, layers):
        return "torch"
    with torch.inference_mode():
        replace_layers(layers, checked(make))
    return name


class LaterLinear:
    """The same while the model is in use, which runs by torch until then."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Let steps take the place of the layers, if the model does the same with them."""
        self.name = "torch"
        layers = linear_layers(model)
        self._layers = layers if layers and _runs_by_steps(model, layers) else []

    def steps(self) -> Iterator[Callable[[], None]]:
        """Each changes one layer; afterwards `name` says what computes them. See `GetsFaster.improvements`."""
        if not self._layers:
            return
        name, make = _fastest(self._layers)
        # Where torch is the fastest, it is on weights of its own.
        self.name = name
        while self._layers:
            module, place, layer = self._layers.pop()
            with torch.inference_mode():
                step = LinearStep(layer, checked(make))
            yield partial(setattr, module, place, step)


def _fastest(layers: Layers) -> tuple[str, Callable[..., Step]]:
    weight, bias = layers[0][2].weight.detach(), layers[0][2].bias
    return fastest_linear(weight, bias_of(weight, bias))


def _runs_by_steps(model: torch.nn.Module, layers: Layers) -> bool:
    """Whether a model does the same with steps instead of `layers`; if not, it has its layers back."""
    encoder: Any = getattr(model, "base_model", model)
    ids = torch.arange(1, _TRIAL_TOKENS + 1)[None]
    try:
        with torch.inference_mode():
            expected = encoder(input_ids=ids)[0]
            replace_layers([*layers], uncopied_linear)
            error = torch.linalg.vector_norm(encoder(input_ids=ids)[0] - expected)
            tolerance = _TOLERANCES[layers[0][2].weight.dtype != torch.float32]
            is_same = bool(error <= tolerance * torch.linalg.vector_norm(expected))
    except Exception:  # noqa: BLE001 - a class that reads the weights of its layers may fail by anything
        is_same = False
    if not is_same:
        for module, place, layer in layers:
            setattr(module, place, layer)
    return is_same
