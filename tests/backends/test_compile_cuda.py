"""Compiled models on CUDA, up to the kernels: on the fake whose copies are late and whose graphs are strict."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import fake_cuda
import numpy as np
import pytest
import torch
from fake_cuda import FakeRuntime
from waiting import finish

from provider.backends import BackendOptions, BackendUnavailable, ModelSpec, TokenBatch
from provider.backends.torch.backend import TorchBackend, TorchOptions
from provider.backends.torch_compile import cache as compile_cache
from provider.backends.torch_compile.backend import TorchCompileBackend, TorchCompileOptions
from provider.backends.torch_compile.package import Package, _last_exception
from provider.models.spec import read_spec
from provider.testing import BackendContract
from provider.testing.tiny import tiny_bert, tiny_classifier, tiny_roberta

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("few_graphs")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return spec_of(tiny_bert(tmp_path_factory.mktemp("bert") / "model", layers=1, pooling=["cls", "mean"], dense=16))


def spec_of(folder: Path) -> ModelSpec:
    return read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]


def load(spec: ModelSpec, cache: Path, *, dtype: str = "auto", **own: Any) -> TorchCompileBackend:
    options = TorchCompileOptions(cache_folder=str(cache), **own)
    return TorchCompileBackend.load(spec, BackendOptions(device="cuda", dtype=dtype, threads=1, own=options))


def plain(spec: ModelSpec) -> TorchBackend:
    return TorchBackend.load(spec, BackendOptions(device="cpu", own=TorchOptions(packed=False)))


def batch_of(*lengths: int) -> TokenBatch:
    random = np.random.default_rng(1)
    return TokenBatch.of_rows(
        [random.integers(5, 60, length).astype(np.int32) for length in lengths], [length // 3 for length in lengths]
    )


def cosines(ours: Any, theirs: Any) -> Any:
    return (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


class TestCompiledOnCuda(BackendContract):
    """The contract on a device whose work is queued; the second shape has scores and types."""

    backend_class = TorchCompileBackend
    shapes: ClassVar[dict[str, Callable[[Path], Path]]] = {
        "roberta": partial(tiny_roberta, layers=1),
        "classifier": partial(tiny_classifier, family="bert", labels=3, layers=1),
    }
    device = "cuda"
    dtype = "float16"
    least_cosine = 0.999
    least_same = 0.999
    most_difference = 5e-2

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _fake(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            fake_cuda.install(patch)
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
            yield


def test_short_batches_run_as_graphs_and_others_in_rectangles(
    spec: ModelSpec, cache: Path, runtimes: list[FakeRuntime]
) -> None:
    compiled, uncompiled = load(spec, cache), plain(spec)
    (runtime,) = runtimes
    assert (compiled.traits.device, compiled.traits.dtype, compiled.traits.lanes) == ("cuda:0", "float16", 2)
    captured = compiled.traits.extra["graphs"]
    assert runtime.captures == captured > 5
    before = runtime.replays
    for i, lengths in enumerate([(1,), (3, 9), (16,) * 8, (62, 1), (5,)]):
        batch = batch_of(*lengths)
        assert cosines(compiled.run(batch)["dense"], uncompiled.run(batch)["dense"]).min() > 0.999
        assert runtime.replays == before + i + 1
    before = runtime.replays
    for lengths in [(60,) * 7, (1,) * 200, (30, 62, 1, 17, 44)]:
        batch = batch_of(*lengths)
        assert cosines(compiled.run(batch)["dense"], uncompiled.run(batch)["dense"]).min() > 0.999
    assert runtime.replays == before
    compiled.close()
    assert runtime.is_closed


def test_the_next_start_compiles_nothing_and_graphs_can_be_switched_off(
    spec: ModelSpec, cache: Path, runtimes: list[FakeRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(spec, cache)
    monkeypatch.setattr(compile_cache, "_compile", None)
    again = load(spec, cache, graphs=False)
    assert (again.traits.extra["cached"], again.traits.extra["graphs"]) == (True, 0)
    assert cosines(again.run(batch_of(4, 9))["dense"], plain(spec).run(batch_of(4, 9))["dense"]).min() > 0.999
    assert runtimes[-1].replays == 0


def test_two_lanes_share_a_package(spec: ModelSpec, cache: Path, runtimes: list[FakeRuntime]) -> None:
    compiled = load(spec, cache)
    batches = [batch_of(*lengths) for lengths in [(3, 9), (60,) * 7, (16,), (30, 62, 1, 17, 44)]]
    expected = [compiled.run(batch)["dense"] for batch in batches]
    found: list[list[Any]] = [[], []]

    def lane(kept: list[Any]) -> None:
        kept += [compiled.run(batch)["dense"] for _ in range(5) for batch in batches]

    threads = [threading.Thread(target=lane, args=(kept,)) for kept in found]
    finish(threads)
    for kept in found:
        for ours, theirs in zip(kept, expected * 5, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_graphs_that_give_other_vectors_are_not_used(
    spec: ModelSpec, cache: Path, runtimes: list[FakeRuntime], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    compute, calls = Package.compute, itertools.count()

    def wrong(self: Package, tensors: list[torch.Tensor]) -> torch.Tensor:
        return compute(self, tensors) + next(calls)

    monkeypatch.setattr(Package, "compute", wrong)
    assert load(spec, cache).traits.extra["graphs"] == 0
    assert "run without CUDA graphs: there they give vectors that differ" in caplog.text


def test_a_checkpoint_in_bfloat16_stays_so(tmp_path: Path, cache: Path, runtimes: list[FakeRuntime]) -> None:
    folder = tiny_bert(tmp_path / "model", layers=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert load(spec_of(folder), cache).traits.dtype == "bfloat16"


def test_what_is_out_of_bounds_never_reaches_the_card(
    spec: ModelSpec, cache: Path, runtimes: list[FakeRuntime]
) -> None:
    compiled = load(spec, cache)
    with pytest.raises(ValueError, match="token id 100000 is not among the model's"):
        compiled.run(TokenBatch.of_rows([np.array([100_000], np.int32)]))


def test_a_card_without_enough_memory_is_said(
    spec: ModelSpec, cache: Path, runtimes: list[FakeRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        msg = "CUDA out of memory"
        raise RuntimeError(msg)

    monkeypatch.setattr("provider.backends.torch_compile.package.Graphs.captured_by", full)
    with pytest.raises(BackendUnavailable, match="does not fit on or run on cuda:0: CUDA out of memory"):
        load(spec, cache)
    assert runtimes[-1].is_closed
    monkeypatch.setattr(torch._inductor, "aoti_load_package", full)
    with pytest.raises(BackendUnavailable, match="does not fit on or run on cuda:0: CUDA out of memory"):
        load(spec, cache)


def test_memory_that_runs_out_in_compiled_code_is_told_as_such(
    spec: ModelSpec, cache: Path, runtimes: list[FakeRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = load(spec, cache, graphs=False)

    def full(*_: torch.Tensor) -> None:
        msg = "aoti_torch_empty_strided API call failed at model.cpp, line 1"
        raise RuntimeError(msg)

    monkeypatch.setattr(compiled._model._package, "_model", full)  # type: ignore[union-attr]
    monkeypatch.setattr("provider.backends.torch_compile.package._last_exception", lambda: "CUDA out of memory")
    with pytest.raises(MemoryError, match=r"API call failed.*CUDA out of memory"):
        compiled.run(batch_of(3))


def test_what_torch_said_of_a_failed_call_is_kept_beside() -> None:
    assert isinstance(_last_exception(), str)
