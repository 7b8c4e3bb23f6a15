"""The onnx backend keeps the contract on models of several shapes, and its vectors are those of the torch backend."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emb_provider_onnx.backend import OnnxBackend, OnnxOptions
from processes import ROOT, clean_environment, running

from provider.backends import BackendOptions, ModelSpec, TokenBatch, Vectors
from provider.backends.torch_eager import TorchBackend, TorchOptions
from provider.domain import EmbedRequest, Ids
from provider.engine.hooks import Hooks
from provider.engine.service import EmbeddingService
from provider.models.spec import read_spec
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing import BackendContract
from provider.testing.tiny import tiny_bert, tiny_decoder, tiny_roberta

# Name to the graph it runs on, and the model around it; the same seed gives the same transformer.
SHAPES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "mean": ("bert", tiny_bert),
    "cls and a dense head": ("bert", lambda path: tiny_bert(path, pooling="cls", dense=16)),
    "cls, max and mean": ("bert", lambda path: tiny_bert(path, pooling=["cls", "max", "mean"])),
    "positions from an offset": ("roberta", tiny_roberta),
    "decoder, last token": ("decoder", tiny_decoder),
}
SENTENCES = (ROOT / "tests" / "data" / "sentences.txt").read_text(encoding="utf-8").splitlines()


def spec_of(folder: Path) -> ModelSpec:
    return read_spec(folder, name="m", max_context_length=None, default_prompt=None)[0]


def load(spec: ModelSpec, **own: Any) -> OnnxBackend:
    return OnnxBackend.load(spec, BackendOptions(own=OnnxOptions(**own)))


class TestOnnxBackend(BackendContract):
    vocabulary = 60

    @pytest.fixture(scope="class", params=SHAPES)
    @classmethod
    def spec(
        cls, request: pytest.FixtureRequest, tiny_graphs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
    ) -> ModelSpec:
        graph, write = SHAPES[request.param]
        folder = write(tmp_path_factory.mktemp("tiny") / "model")
        shutil.copytree(tiny_graphs[graph], folder / "onnx")
        return spec_of(folder)

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, spec: ModelSpec) -> OnnxBackend:
        return load(spec)

    @pytest.fixture(autouse=True)
    def _keep_spec(self, spec: ModelSpec) -> None:
        self.spec_in_use = spec

    @pytest.fixture
    def spare(self, spec: ModelSpec) -> OnnxBackend:
        return load(spec)

    def reference(self, rows: Sequence[Ids]) -> Vectors:
        torch = TorchBackend.load(self.spec_in_use, BackendOptions(own=TorchOptions()))
        return torch.embed(TokenBatch.of_rows(rows))

    def test_tokens_left_out_of_pooling_are_those_that_torch_leaves_out(
        self, backend: OnnxBackend, spec: ModelSpec
    ) -> None:
        batch = TokenBatch.of_rows(self.rows([4, 9]), [2, 3])
        expected = TorchBackend.load(spec, BackendOptions(own=TorchOptions())).embed(batch)
        np.testing.assert_allclose(backend.embed(batch), expected, rtol=1e-3, atol=1e-4)

    def test_a_closed_backend_fails_instead_of_answering(self, spare: OnnxBackend) -> None:
        spare.close()
        with pytest.raises(RuntimeError, match="closed"):
            spare.embed(TokenBatch.of_rows(self.rows([3])))


async def vectors_of(model: ModelSettings) -> tuple[Vectors, str, str]:
    """Vectors of the sentences by a service's whole way, and the dtype and fingerprint that it shows."""
    service = EmbeddingService(Settings(model=model, cache=CacheSettings(enabled=False)), Hooks()).open()
    try:
        (runtime,) = service.runtimes.values()
        await runtime.start_loading()
        assert runtime.failure is None, runtime.failure
        answer = await service.embed(EmbedRequest(model.served_name, tuple(SENTENCES), truncate="end"))
        assert runtime.loaded is not None
        return answer.vectors, runtime.loaded.backend.traits.dtype, runtime.loaded.fingerprint
    finally:
        await service.close()


async def test_on_the_real_model_float32_equals_torch_and_int8_stays_near(exported: Path) -> None:
    torch, _, _ = await vectors_of(ModelSettings(path=str(exported)))
    float32, dtype, fingerprint = await vectors_of(ModelSettings(path=str(exported), backend="onnx"))
    assert dtype == "float32"
    assert (float32 * torch).sum(axis=1).min() >= 0.9999
    int8, dtype, other = await vectors_of(ModelSettings(path=str(exported), backend="onnx", dtype="int8"))
    assert dtype == "int8"
    near = (int8 * torch).sum(axis=1)
    # Ordinary sentences stay above 0.97; among the odd ones (lone symbols, other scripts) one or two may not.
    assert np.quantile(near, 0.02) >= 0.97
    assert near.min() >= 0.95
    assert other != fingerprint, "vectors of different weights may not be taken for comparable"


def test_it_serves_over_http(exported: Path) -> None:
    arguments = ["--model", str(exported), "--backend", "onnx", "--dtype", "int8"]
    with running(arguments, env=clean_environment()) as server:
        server.wait_until_ready()
        (model,) = server.get("/v1/models")[1]["data"]
    assert "int8" in str(model)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="this system does not tell the memory in use this way"
)
def test_memory_does_not_grow_with_the_number_of_shapes(exported: Path) -> None:
    spec = spec_of(exported)
    backend = load(spec)
    random = np.random.default_rng(0)

    def embed(rows: int, width: int) -> None:
        ids = random.integers(5, 1000, (rows, width)).astype(np.int32)
        backend.embed(TokenBatch.of_rows(list(ids)))

    embed(16, 64)
    before = resident_mib()
    for _ in range(60):
        width = int(random.integers(3, 65))
        embed(int(random.integers(1, 1 + min(32, 1024 // width))), width)
    assert resident_mib() - before < 30
