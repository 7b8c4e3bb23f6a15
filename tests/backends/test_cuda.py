"""The `torch` backend on CUDA, up to the kernels: on a fake whose copies are late and whose graphs are strict."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import fake_cuda
import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from fake_cuda import FakeRuntime
from waiting import finish

from provider.backends import BackendOptions, BackendUnavailable, ModelSpec, TokenBatch
from provider.backends.protocol import Memory
from provider.backends.torch.backend import TorchBackend, TorchOptions
from provider.backends.torch.device import memory_of
from provider.domain import EmbedRequest
from provider.engine.engine import Engine
from provider.models.spec import read_spec
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing import BackendContract
from provider.testing.tiny import TINY_SHAPES, tiny_bert, tiny_mpnet, tiny_multi_vector, tiny_qwen3, tiny_reranker

pytestmark = pytest.mark.usefixtures("few_graphs")

LENGTHS = (9, 1, 30, 9, 4, 1, 62, 9, 17, 33)


def spec_of(folder: Path) -> ModelSpec:
    return read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]


def load(spec: ModelSpec, *, device: str = "cuda", dtype: str = "auto", **own: Any) -> TorchBackend:
    return TorchBackend.load(spec, BackendOptions(device=device, dtype=dtype, threads=1, own=TorchOptions(**own)))


def batch_of(*lengths: int, outputs: tuple[str, ...] = ("dense",), skips: bool = False) -> TokenBatch:
    random = np.random.default_rng(1)
    rows = [random.integers(5, 60, length).astype(np.int32) for length in lengths]
    return TokenBatch.of_rows(rows, [length // 3 for length in lengths] if skips else None, outputs)


def cosines(ours: Any, theirs: Any) -> Any:
    return (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


class OnCuda(BackendContract):
    """The contract on a device whose work is queued."""

    backend_class = TorchBackend
    device = "cuda"
    dtype = "float16"
    least_cosine = 0.999
    least_same = 0.999
    most_difference = 5e-2

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def cuda(cls) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            fake_cuda.install(patch)
            yield


class TestTorchBackendOnCuda(OnCuda):
    """Without padding."""


class TestTorchBackendOnCudaInFloat32(OnCuda):
    """Over padded rectangles, as the kernel takes half precision only."""

    dtype = "float32"
    shapes: ClassVar = {"mean": tiny_bert, "no sdpa": tiny_mpnet}
    least_cosine = 0.9999
    least_same = 0.99999
    most_difference = 1e-4


SHAPES: dict[str, Callable[[Path], Path]] = {
    **TINY_SHAPES,
    "max": lambda path: tiny_bert(path, pooling="max"),
    "weighted mean": lambda path: tiny_bert(path, pooling="weightedmean"),
    "no sdpa": tiny_mpnet,
    **{name: ARCHITECTURES[name].build for name in ("ModernBERT", "XLM-RoBERTa", "Qwen3", "Gemma 3", "NomicBERT")},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_vectors_are_those_of_the_cpu_by_graphs_and_without(
    tmp_path: Path, runtimes: list[FakeRuntime], shape: str, dtype: str
) -> None:
    SHAPES[shape](tmp_path / "model")
    spec = spec_of(tmp_path / "model")
    cpu = load(spec, device="cpu", dtype="float32")
    cuda = load(spec, dtype=dtype)
    (runtime,) = runtimes
    least = 0.999 if dtype == "bfloat16" else 0.9999
    for lengths, replays in (((7,), 1), ((3, 16, 9), 1), (LENGTHS, 0)):
        runtime.replays = 0
        skips = not spec.dense.pools_prompt
        batch = batch_of(*lengths, skips=skips)
        assert cosines(cuda.run(batch)["dense"], cpu.run(batch)["dense"]).min() > least
        if spec.encoder == "transformer":
            assert runtime.replays == replays


def test_a_batch_goes_up_at_once_and_is_waited_for_once(tmp_path: Path, runtimes: list[FakeRuntime]) -> None:
    cuda = load(spec_of(tiny_bert(tmp_path / "model")))
    (runtime,) = runtimes
    # The second time nothing about masks has to be asked of the device.
    for lengths, uploads in (((7,), 1), (LENGTHS, 2), (LENGTHS, 2)):
        runtime.uploads = runtime.downloads = runtime.waits = 0
        cuda.run(batch_of(*lengths))
        assert (runtime.uploads, runtime.downloads) == (uploads, 1)
        assert runtime.waits == 1


def test_two_lanes_share_buffers_and_graphs(tmp_path: Path, runtimes: list[FakeRuntime]) -> None:
    cuda = load(spec_of(tiny_bert(tmp_path / "model")))
    assert cuda.traits.lanes == 2
    batches = [batch_of(length) for length in range(1, 16)] + [batch_of(*LENGTHS), batch_of(62, 3, 44)]
    expected = [cuda.run(batch)["dense"] for batch in batches]
    meet = threading.Barrier(3)
    found: list[list[Any]] = [[], [], []]

    def lane(number: int) -> None:
        meet.wait(10)
        for _ in range(3):
            found[number] = [cuda.run(batch)["dense"] for batch in batches]

    finish([threading.Thread(target=lane, args=(i,)) for i in range(3)])
    for each in found:
        for ours, theirs in zip(each, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)
    assert runtimes[0].replays > 3 * 3 * 15


def test_where_nothing_can_be_captured_one_line_says_so_and_vectors_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of(tiny_bert(tmp_path / "model"))
    fake_cuda.install(monkeypatch, lambda: FakeRuntime(graphs=False))
    with caplog.at_level(logging.WARNING):
        cuda = load(spec)
    (line,) = [each.getMessage() for each in caplog.records]
    assert line.startswith("batches of 1 rows of 16 tokens and larger ones run without CUDA graphs: RuntimeError")
    assert cuda.traits.extra["graphs"] == 0
    cpu = load(spec, device="cpu", dtype="float32")
    assert cosines(cuda.run(batch_of(7))["dense"], cpu.run(batch_of(7))["dense"]).min() > 0.999


def test_graphs_that_give_other_vectors_are_not_used(
    tmp_path: Path, runtimes: list[FakeRuntime], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of(tiny_bert(tmp_path / "model"))
    capture = FakeRuntime.capture

    def wrong(self: FakeRuntime, function: Callable[[], torch.Tensor]) -> Any:
        factor = 1.0 if self.captures < 3 else 1.2
        return capture(self, lambda: function() * factor)

    monkeypatch.setattr(FakeRuntime, "capture", wrong)
    with caplog.at_level(logging.WARNING):
        cuda = load(spec)
    assert cuda.traits.extra["graphs"] == 3
    assert "differ by 2.0e-01 of their length, allowed 4e-02" in caplog.text


def test_a_card_without_the_kernel_runs_padded_and_says_why(
    tmp_path: Path, runtimes: list[FakeRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        msg = "FlashAttention only supports Ampere GPUs or newer."
        raise RuntimeError(msg)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", refuse)
    spec = spec_of(tiny_bert(tmp_path / "model"))
    cuda, cpu = load(spec), load(spec, device="cpu", dtype="float32")
    assert "RuntimeError: FlashAttention only supports Ampere" in cuda.traits.extra["padded_because"]
    assert not cuda.traits.padding_is_free
    assert cuda.traits.extra["graphs"] > 0
    for lengths in ((7,), LENGTHS):
        assert cosines(cuda.run(batch_of(*lengths))["dense"], cpu.run(batch_of(*lengths))["dense"]).min() > 0.999


def test_graphs_can_be_switched_off(tmp_path: Path, runtimes: list[FakeRuntime]) -> None:
    cuda = load(spec_of(tiny_bert(tmp_path / "model")), graphs=False)
    assert runtimes[0].captures == 0
    assert "graphs" not in cuda.traits.extra


@pytest.mark.parametrize("make", [tiny_reranker, tiny_qwen3, tiny_multi_vector])
def test_other_outputs_are_those_of_the_cpu(
    tmp_path: Path, runtimes: list[FakeRuntime], make: Callable[[Path], Path]
) -> None:
    spec = spec_of(make(tmp_path / "model"))
    batch = batch_of(*LENGTHS, outputs=spec.outputs)
    ours, theirs = (load(spec, device=device, dtype="float32").run(batch) for device in ("cuda", "cpu"))
    half = load(spec, dtype="bfloat16").run(batch)
    for name in spec.outputs:
        for found, expected, rounded in zip(ours[name], theirs[name], half[name], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(rounded, expected, rtol=0.1, atol=0.1)


def test_memory_that_runs_out_is_a_memory_error_and_the_next_batch_works(
    tmp_path: Path, runtimes: list[FakeRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = load(spec_of(tiny_bert(tmp_path / "model")))

    def run_out(*_: object, **__: object) -> None:
        msg = "CUDA out of memory. Tried to allocate 2.00 GiB"
        raise torch.OutOfMemoryError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "layer_norm", run_out)
        for lengths in ((7,), LENGTHS):
            with pytest.raises(MemoryError, match=r"2\.00 GiB"):
                cuda.run(batch_of(*lengths))
    assert np.isfinite(cuda.run(batch_of(*LENGTHS))["dense"]).all()


def test_a_model_that_does_not_fit_is_refused(
    tmp_path: Path, runtimes: list[FakeRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object, **__: object) -> None:
        msg = "CUDA out of memory. Tried to allocate 20.00 GiB"
        raise torch.OutOfMemoryError(msg)

    monkeypatch.setattr("provider.backends.torch.backend.load_head", run_out)
    with pytest.raises(BackendUnavailable, match=r"does not fit on or run on cuda:0: CUDA out of memory.*20\.00 GiB"):
        load(spec_of(tiny_bert(tmp_path / "model")))
    assert len(runtimes) == 1


def test_closing_waits_for_the_queue_once(tmp_path: Path, runtimes: list[FakeRuntime]) -> None:
    cuda = load(spec_of(tiny_bert(tmp_path / "model")))
    cuda.close()
    cuda.close()
    assert runtimes[0].is_closed
    with pytest.raises(RuntimeError, match="the backend is closed"):
        cuda.run(batch_of(3))


def test_more_tokens_than_positions_are_one_pass_where_the_class_can(
    tmp_path: Path, runtimes: list[FakeRuntime]
) -> None:
    spec = spec_of(tiny_bert(tmp_path / "model"))
    cuda, cpu = load(spec), load(spec, device="cpu", dtype="float32")
    positions = 64
    batch = batch_of(*[60] * 5)
    assert batch.tokens > positions
    (runtime,) = runtimes
    runtime.uploads = 0
    assert cosines(cuda.run(batch)["dense"], cpu.run(batch)["dense"]).min() > 0.999
    assert runtime.uploads == 1


def test_memory_of_a_card_is_what_torch_has_reserved_without_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("empty"))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda name: asked.append(name) or 7)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=9))
    assert memory_of("cuda:1") == Memory("cuda:1", 7, 9)
    assert asked == ["empty", "cuda:1"]
    assert memory_of("cpu") is memory_of("mps") is None


async def test_an_engine_runs_a_model_on_it_by_two_lanes(tmp_path: Path, runtimes: list[FakeRuntime]) -> None:
    folder = str(tiny_bert(tmp_path / "model"))
    texts = tuple(["a cat", "the quick brown fox jumps over the lazy dog", "?"] * 20)
    requests = [EmbedRequest("m", each) for each in (*((text,) for text in texts), texts, texts[:3])]
    found = []
    for device in ("cuda", "cpu"):
        model = ModelSettings("m", folder, device=device, tune=False)
        async with Engine.open(Settings(model=model, cache=CacheSettings(enabled=False))) as engine:
            answers = await asyncio.gather(*map(engine.embed, requests))
            loaded = engine.runtimes["m"].loaded
            assert loaded is not None
            assert loaded.plan.lanes == 2 or device == "cpu"
            found.append(np.concatenate([answer.outputs["dense"] for answer in answers]))
    assert cosines(*found).min() > 0.999
    assert runtimes[0].replays > 0
    assert runtimes[0].is_closed
