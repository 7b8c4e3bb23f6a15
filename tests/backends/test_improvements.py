"""Until our kernels have been compiled torch runs a model; then they take over between passes, and give the same."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from provider.backends import BackendOptions, BackendTraits, TokenBatch
from provider.backends.kit import routed
from provider.backends.kit.routed import class_for
from provider.backends.protocol import GetsFaster
from provider.backends.torch import linear, linear_layers, packed_bert
from provider.backends.torch.backend import TorchBackend, TorchOptions
from provider.backends.torch.linear import WAYS
from provider.backends.torch.native import native_library
from provider.domain import DENSE, ModelSpec
from provider.models.spec import read_spec
from provider.testing.tiny import tiny_bert, tiny_classifier, tiny_modernbert, tiny_mpnet, tiny_splade

FOLDERS: dict[str, Callable[[Path], Path]] = {
    "bert": tiny_bert,
    "classifier": tiny_classifier,
    "splade": tiny_splade,
    "modernbert": tiny_modernbert,
    "padded": tiny_mpnet,
}


def fastest(weight: torch.Tensor, _: torch.Tensor) -> tuple[str, Callable[..., Any]]:
    name = "native" if weight.dtype == torch.float32 else "torch"
    return name, WAYS[name]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine where nothing was compiled yet, and our kernels are the fastest."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (linear, linear_layers, packed_bert):
        monkeypatch.setattr(module, "fastest_linear", fastest)
    native_library.cache_clear()
    yield
    native_library.cache_clear()


def load(folder: Path, dtype: str = "float32") -> tuple[TorchBackend, ModelSpec]:
    spec, _ = read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)
    loaded = class_for(TorchBackend, spec).load(spec, BackendOptions(dtype=dtype, threads=1, own=TorchOptions()))
    return loaded, spec  # type: ignore[return-value]


def outputs(backend: TorchBackend, spec: ModelSpec) -> list[Any]:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 50, length).astype(np.int32) for length in (3, 9, 9, 1)]
    found = backend.run(TokenBatch.of_rows(rows, outputs=spec.outputs))
    return [
        np.concatenate([each.weights if hasattr(each, "weights") else each for each in found[name]])
        for name in sorted(found)
    ]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", FOLDERS)
def test_the_first_start_serves_by_torch_and_gets_the_kernels_between_passes(name: str, tmp_path: Path) -> None:
    folder = FOLDERS[name](tmp_path / "model")
    backend, spec = load(folder)
    assert (backend.traits.extra["linear"], native_library.cache_info().currsize) == ("torch", 0)
    before = outputs(backend, spec)
    for step in backend.improvements():
        # Half-way, too.
        for one, other in zip(outputs(backend, spec), before, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
        step()
    assert backend.traits.extra["linear"] == "native"
    after = outputs(backend, spec)
    for one, other in zip(after, before, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert list(backend.improvements()) == []
    # The next start has them at once, and gives to the bit what this one gives now.
    again, _ = load(folder)
    assert (again.traits.extra["linear"], list(again.improvements())) == ("native", [])
    for one, other in zip(outputs(again, spec), after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("fresh")
def test_a_model_that_runs_meanwhile_gives_the_same_all_the_time(tmp_path: Path) -> None:
    backend, spec = load(tiny_bert(tmp_path / "model"))
    expected, found, done = outputs(backend, spec), list[Any](), threading.Event()

    def serve() -> None:
        while not done.is_set() or not found:
            found.append(outputs(backend, spec))

    lane = threading.Thread(target=serve)
    lane.start()
    steps = list(backend.improvements())
    done.set()
    lane.join(240)
    assert not lane.is_alive()
    assert steps
    for each in found:
        np.testing.assert_array_equal(each[0], expected[0])


@pytest.mark.usefixtures("fresh")
def test_where_nothing_can_be_compiled_the_fastest_of_torchs_ways_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    failing = tmp_path / "cc"
    failing.write_text('#!/bin/sh\ntest "$1" = --version\n')
    failing.chmod(0o700)
    monkeypatch.setenv("CC", str(failing))
    backend, spec = load(tiny_bert(tmp_path / "model"))
    before = outputs(backend, spec)
    for step in backend.improvements():
        step()
    assert backend.traits.extra["linear"] in ("torch", "onednn")
    np.testing.assert_allclose(outputs(backend, spec)[0], before[0], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("fresh")
def test_half_precision_and_int8_wait_for_no_kernels(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "model")
    for dtype in ("bfloat16", "int8"):
        backend, spec = load(folder, dtype)
        assert list(backend.improvements()) == []
        assert spec.outputs == (DENSE,)


def test_a_backend_of_two_ways_improves_both() -> None:
    steps: list[str] = []

    class Way:
        def __init__(self, name: str) -> None:
            self.name, self.traits = name, BackendTraits("cpu", "float32", padding_is_free=True, batch_tokens=1)

        def improvements(self) -> Iterator[Callable[[], None]]:
            yield self.improve

        def improve(self) -> None:
            steps.append(self.name)
            self.traits = attrs.evolve(self.traits, extra={"linear": "native"})

    both = routed._Routed(Way("documents"), Way("queries"))  # type: ignore[arg-type]
    assert isinstance(both, GetsFaster)
    for step in both.improvements():
        step()
    assert steps == ["documents", "queries"]
    assert both.traits.extra["queries"]["linear"] == both.traits.extra["linear"] == "native"
