"""Both ways of a linear layer give the same numbers, and the one that is measured to be faster is taken."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from provider.backends import torch_linear
from provider.backends.torch_linear import bfloat16_speedup, faster_linear, onednn_linear, plain_linear


@pytest.fixture
def layer() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(96, 64, generator=generator), torch.randn(96, generator=generator)


@pytest.mark.parametrize("with_gelu", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_onednn_gives_what_torch_gives(layer: Any, tokens: int, with_gelu: bool) -> None:
    states = torch.randn(tokens, 64, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        ours, theirs = (make(*layer, with_gelu=with_gelu)(states) for make in (onednn_linear, plain_linear))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("onednn_seconds", "name"), [(1.0, "onednn"), (3.0, "torch")])
def test_the_faster_one_is_taken(layer: Any, monkeypatch: pytest.MonkeyPatch, onednn_seconds: float, name: str) -> None:
    measured: Iterator[float] = iter([onednn_seconds, 2.0])
    monkeypatch.setattr(torch_linear, "_seconds", lambda *_: next(measured))
    assert faster_linear(*layer)[0] == name


@pytest.mark.parametrize("problem", [RuntimeError("no such instruction"), AttributeError("no such operator")])
def test_operators_that_are_not_there_are_done_without(
    layer: Any, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise problem

    monkeypatch.setattr(torch_linear, "onednn_linear", missing)
    assert faster_linear(*layer)[0] == "torch"


def test_numbers_that_differ_are_never_taken(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_linear, "onednn_linear", lambda *_: lambda states: torch.zeros(len(states), 96))
    assert faster_linear(*layer)[0] == "torch"


def test_whether_bfloat16_would_pay_is_a_ratio_of_two_measurements(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: 6.0, torch.bfloat16: 2.0}
    monkeypatch.setattr(torch_linear, "_seconds", lambda _step, states: seconds[states.dtype])
    assert bfloat16_speedup(*layer) == 3.0


def test_it_is_measured_for_real(layer: Any) -> None:
    assert 0 < bfloat16_speedup(*layer) < 1000
