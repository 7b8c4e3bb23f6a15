"""int8 on the torch backend: near float32, no row changed by its neighbours, proven by verify."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from provider.backends import BackendOptions, BackendUnavailable, TokenBatch
from provider.backends.torch.backend import TorchBackend, TorchOptions
from provider.backends.torch.int8 import int8_linear, weight_bits
from provider.backends.torch.linear_layers import LinearStep, linear_layers, replace_layers
from provider.cli import cli
from provider.models.spec import read_spec
from provider.testing import packaged_minilm
from provider.testing.tiny import tiny_bert, tiny_decoder, tiny_mpnet, tiny_static


def load(folder: Path, *, dtype: str = "int8", device: str = "cpu", packed: bool = True) -> TorchBackend:
    spec = read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]
    return TorchBackend.load(spec, BackendOptions(device=device, dtype=dtype, own=TorchOptions(packed=packed)))


def batch() -> TokenBatch:
    random = np.random.default_rng(0)
    return TokenBatch.of_rows([random.integers(5, 90, length).astype(np.int32) for length in (3, 17, 8)])


def draw(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("with_gelu", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_a_layer_is_near_its_float32(tokens: int, with_gelu: bool) -> None:
    weight, bias = draw(96, 64), draw(96)
    # Tokens of very different size; one of zeros.
    states = draw(tokens, 64, seed=4) * torch.logspace(-3, 3, tokens)[:, None]
    states[0] = 0
    with torch.inference_mode():
        ours = int8_linear(weight, bias, with_gelu=with_gelu)(states)
    theirs = functional.linear(states, weight, bias)
    theirs = functional.gelu(theirs) if with_gelu else theirs
    assert functional.cosine_similarity(ours, theirs).min() > 0.999
    assert torch.allclose(ours[0], theirs[0], atol=1e-5)


def test_sums_of_the_largest_numbers_are_not_cut_off() -> None:
    states, weight = torch.ones(16, 512), torch.ones(32, 512)
    with torch.inference_mode():
        assert int8_linear(weight, None)(states).allclose(torch.tensor(512.0), rtol=1e-3)
        assert int8_linear(weight, None)(-states).allclose(torch.tensor(-512.0), rtol=1e-3)


def test_no_token_is_changed_by_those_beside_it() -> None:
    states = draw(40, 64) * torch.logspace(-2, 2, 40)[:, None]
    layer = int8_linear(draw(96, 64, seed=4), draw(96, seed=5))
    with torch.inference_mode():
        assert torch.equal(layer(states)[7:8], layer(states[7:8]))


def test_numbers_that_are_none_stay_visible() -> None:
    states = draw(3, 64)
    states[1, 5] = torch.nan
    states[2, 5] = torch.inf
    with torch.inference_mode():
        finite = int8_linear(draw(96, 64, seed=4), draw(96, seed=5))(states).isfinite()
    assert finite[0].all()
    assert not finite[1].any()
    assert not finite[2].any()


def test_the_head_stays_as_it_is() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 16, bias=False))
            self.classifier = torch.nn.Linear(16, 2)

    model = Model()
    layers = linear_layers(model)
    assert layers[0][2].weight.shape == (16, 8)
    replace_layers(layers, int8_linear)
    assert [type(layer) for layer in model.base_model] == [LinearStep, LinearStep]
    assert type(model.classifier) is torch.nn.Linear


@pytest.mark.parametrize(
    ("make", "packed"), [(tiny_bert, True), (tiny_bert, False), (tiny_mpnet, True), (tiny_decoder, True)]
)
def test_vectors_are_near_those_of_float32_and_say_what_they_are(
    tmp_path: Path, make: Callable[[Path], Path], packed: bool
) -> None:
    folder = make(tmp_path / "model")
    whole, quantised = (load(folder, dtype=dtype, packed=packed) for dtype in ("float32", "int8"))
    ours, theirs = (torch.from_numpy(np.asarray(each.run(batch())["dense"])) for each in (quantised, whole))
    assert not torch.equal(ours, theirs)
    assert functional.cosine_similarity(ours, theirs).min() > 0.98
    assert quantised.traits.dtype == "int8"
    # Part of the fingerprint: vectors of weights of 7 bits are others.
    assert quantised.traits.weights_digest == f"{weight_bits()} bits"
    assert quantised.traits.extra["int8_speedup"] > 0
    assert "int8_speedup" not in whole.traits.extra


def test_it_has_to_be_asked_for_and_runs_on_the_cpu_only(tmp_path: Path) -> None:
    assert load(tiny_bert(tmp_path / "model"), dtype="auto").traits.dtype == "float32"
    with pytest.raises(BackendUnavailable, match="table without linear layers"):
        load(tiny_static(tmp_path / "static"))
    with pytest.raises(BackendUnavailable, match="allowed are auto, float32, bfloat16, float16, int8"):
        load(tmp_path / "model", dtype="int4")


@pytest.mark.slow
def test_verify_proves_it_on_the_packaged_model() -> None:
    arguments = ["verify", str(packaged_minilm()), "--dtype", "int8", "--no-peer"]
    outcome = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
