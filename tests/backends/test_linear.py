"""Every way of a linear layer gives the same numbers, and the one that is measured to be faster is taken."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from provider.backends.torch import linear as torch_linear
from provider.backends.torch.linear import WAYS, bfloat16_speedup, fastest_linear, plain_linear
from provider.backends.torch.linear_layers import LinearStep, linear_layers, use_fastest_linear
from provider.backends.torch.loading import load_encoder
from provider.models.spec import read_spec
from provider.testing.tiny import tiny_decoder, tiny_mpnet


@pytest.fixture
def layer() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(96, 64, generator=generator), torch.randn(96, generator=generator)


@pytest.fixture
def native_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """By measurement."""
    monkeypatch.setattr(
        torch_linear, "_seconds", lambda steps, _: [1.0 + (i < len(steps) - 1) for i in range(len(steps))]
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("with_gelu", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_it_gives_what_torch_gives(layer: Any, way: str, tokens: int, with_gelu: bool) -> None:
    states = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(5))
    theirs = functional.linear(states, *layer)
    with torch.inference_mode():
        ours = WAYS[way](*layer, with_gelu=with_gelu)(states)
    torch.testing.assert_close(ours, functional.gelu(theirs) if with_gelu else theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_states_of_another_dtype_are_an_error(layer: Any, way: str) -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError):
        WAYS[way](*layer)(torch.zeros(3, 64, dtype=torch.bfloat16))


@pytest.mark.parametrize("way", WAYS)
def test_the_fastest_one_is_taken(layer: Any, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    seconds = [1.0 if name == way else 2.0 for name in WAYS]
    monkeypatch.setattr(torch_linear, "_seconds", lambda *_: seconds)
    assert fastest_linear(*layer) == (way, WAYS[way])


def test_a_query_and_a_full_batch_count_alike(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # By shares of torch's: onednn 0.5 and 1.1, native 0.9 and 0.9.
    rounds = iter([[0.1, 0.05, 0.09], [10.0, 11.0, 9.0]])
    monkeypatch.setattr(torch_linear, "_seconds", lambda *_: next(rounds))
    assert fastest_linear(*layer)[0] == "onednn"


@pytest.mark.parametrize("problem", [RuntimeError("no such instruction"), AttributeError("no such operator")])
def test_ways_that_are_not_there_are_done_without(
    layer: Any, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise problem

    for name in ("onednn", "native"):
        monkeypatch.setitem(WAYS, name, missing)
    assert fastest_linear(*layer)[0] == "torch"


def test_numbers_that_differ_are_never_taken(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onednn", "native"):
        monkeypatch.setitem(WAYS, name, lambda *_: lambda states: torch.zeros(len(states), 96))
    assert fastest_linear(*layer)[0] == "torch"


@pytest.mark.parametrize("make", [tiny_mpnet, tiny_decoder])
@pytest.mark.usefixtures("native_wins")
def test_models_of_transformers_take_it_too(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    spec = read_spec(make(tmp_path), name="tiny", max_context_length=None, default_prompt=None)[0]
    model = load_encoder(spec, lambda _: "float32", "auto")[0]
    ids = torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = model(input_ids=ids).last_hidden_state
        assert use_fastest_linear(model) == "native"
        assert not linear_layers(model)
        assert any(isinstance(module, LinearStep) for module in model.modules())
        torch.testing.assert_close(model(input_ids=ids).last_hidden_state, before, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("native_wins")
def test_weights_are_freed_layer_by_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_spec(tiny_mpnet(tmp_path), name="tiny", max_context_length=None, default_prompt=None)[0]
    model = load_encoder(spec, lambda _: "float32", "auto")[0]
    layers = [weakref.ref(layer) for *_, layer in linear_layers(model)]
    native, alive = WAYS["native"], []

    def counting(weight: torch.Tensor, bias: torch.Tensor) -> Any:
        alive.append(sum(layer() is not None for layer in layers))
        return native(weight, bias)

    monkeypatch.setitem(WAYS, "native", counting)
    assert use_fastest_linear(model) == "native"
    # The first is of the measurement.
    assert alive[1:] == list(range(len(layers), 0, -1))


@pytest.mark.usefixtures("native_wins")
def test_a_layer_with_other_numbers_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_spec(tiny_mpnet(tmp_path), name="tiny", max_context_length=None, default_prompt=None)[0]
    model = load_encoder(spec, lambda _: "float32", "auto")[0]
    ids = torch.arange(5, 12)[None]
    native, made = WAYS["native"], []

    def wrong(weight: torch.Tensor, bias: torch.Tensor) -> Any:
        made.append(weight)
        return native(weight if len(made) == 1 else weight + 1, bias)

    monkeypatch.setitem(WAYS, "native", wrong)
    with torch.inference_mode():
        before = model(input_ids=ids).last_hidden_state
        use_fastest_linear(model)
        torch.testing.assert_close(model(input_ids=ids).last_hidden_state, before, rtol=1e-4, atol=1e-5)
    assert len(made) > 1


@pytest.mark.usefixtures("native_wins")
def test_a_model_that_reads_the_weights_of_its_layers_stays_as_it_is() -> None:
    class Reader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.dense = torch.nn.Embedding(9, 8), torch.nn.Linear(8, 8)

        def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.words(input_ids) @ self.dense.weight,)

    model = Reader()
    assert use_fastest_linear(model) == "torch"
    assert type(model.dense) is torch.nn.Linear


def test_whether_bfloat16_would_pay_is_a_ratio_of_two_measurements(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: 6.0, torch.bfloat16: 2.0}
    monkeypatch.setattr(torch_linear, "_seconds", lambda _, states: [seconds[each.dtype] for each in states])
    assert bfloat16_speedup(plain_linear, *layer) == 3.0


def test_it_is_measured_for_real(layer: Any) -> None:
    assert 0 < bfloat16_speedup(plain_linear, *layer) < 1000
