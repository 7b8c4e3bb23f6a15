"""The onnx backend keeps the contract on models of every shape, and its vectors are those of the torch backend."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
import pytest
from emb_provider_onnx.backend import OnnxBackend, OnnxOptions
from exports import exported_minilm, with_graph
from processes import clean_environment, running
from waiting import PATIENCE_SECONDS

from provider.backends import BackendOptions, BackendUnavailable, ModelSpec, TokenBatch, Vectors
from provider.domain import EmbedRequest
from provider.engine.engine import Engine
from provider.engine.hooks import Hooks
from provider.models.spec import read_spec
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing import BackendContract
from provider.testing.tiny import TINY_SCORE_SHAPES, TINY_SHAPES
from provider.verification.corpus import Corpus

pytestmark = pytest.mark.slow

SENTENCES = [each.text for each in Corpus.bundled().texts if each.kind == "sentence"]
ODD = [each.text for each in Corpus.bundled().texts if each.kind == "odd"]


class TestOnnxBackend(BackendContract):
    backend_class = OnnxBackend
    shapes: ClassVar = {"mean": with_graph(TINY_SHAPES["mean"])}

    def test_an_unknown_provider_is_refused_with_those_there_are(self, spec: ModelSpec) -> None:
        with pytest.raises(BackendUnavailable, match=r"^.* no execution provider 'Abacus'; it has: .*CPU.*$"):
            OnnxBackend.load(spec, BackendOptions(own=OnnxOptions(providers=["Abacus"])))


@pytest.mark.slow
class TestOnnxBackendOnOtherShapes(BackendContract):
    backend_class = OnnxBackend
    shapes: ClassVar = {
        name: with_graph(write) for name, write in {**TINY_SHAPES, **TINY_SCORE_SHAPES}.items() if name != "mean"
    }


@pytest.mark.slow
class TestOnnxBackendOnTheRealModel(BackendContract):
    backend_class = OnnxBackend
    shapes: ClassVar = {"all-MiniLM-L6-v2": exported_minilm}


@pytest.mark.slow
class TestOnnxBackendInInt8OnTheRealModel(BackendContract):
    backend_class = OnnxBackend
    dtype = "int8"
    shapes: ClassVar = {"all-MiniLM-L6-v2": exported_minilm}
    least_cosine = 0.97
    least_same = 0.97


async def vectors_of(model: ModelSettings, texts: Sequence[str]) -> tuple[Vectors, str, str]:
    """Vectors of the texts by a service's whole way, and the dtype and fingerprint that it shows."""
    service = Engine(Settings(model=model, cache=CacheSettings(enabled=False)), Hooks()).start()
    try:
        (runtime,) = service.runtimes.values()
        await runtime.start_loading()
        assert runtime.failure is None, runtime.failure
        answer = await service.embed(EmbedRequest(model.served_name, tuple(texts), truncate="end"))
        assert runtime.loaded is not None
        return answer.vectors, runtime.loaded.backend.traits.dtype, runtime.loaded.fingerprint
    finally:
        await service.close()


async def test_on_the_real_model_float32_equals_torch_and_int8_stays_near(exported: Path) -> None:
    texts = [*SENTENCES, *ODD]
    torch, _, _ = await vectors_of(ModelSettings(path=str(exported)), texts)
    float32, dtype, fingerprint = await vectors_of(ModelSettings(path=str(exported), backend="onnx"), texts)
    assert dtype == "float32"
    assert (float32 * torch).sum(axis=1).min() >= 0.9999
    int8, dtype, other = await vectors_of(ModelSettings(path=str(exported), backend="onnx", dtype="int8"), texts)
    assert dtype == "int8"
    near = (int8 * torch).sum(axis=1)
    assert near[: len(SENTENCES)].min() >= 0.97
    # A single letter or another script is not what the model was made for, nor what its quantised weights keep best.
    assert near[len(SENTENCES) :].min() >= 0.95
    assert other != fingerprint, "vectors of different weights may not be taken for comparable"


def served_vectors(folder: Path, dtype: str, texts: Sequence[str]) -> Vectors:
    """Vectors of the texts by a server's whole way, which says that it is this backend."""
    arguments = ["--model", str(folder), "--backend", "onnx", "--dtype", dtype]
    with running(arguments, env=clean_environment()) as server:
        server.wait_until_ready()
        (model,) = server.get("/v1/models")[1]["data"]
        assert (model["backend"], model["dtype"]) == ("onnx", dtype)
        body = json.dumps({"model": model["id"], "input": texts}).encode()
        request = urllib.request.Request(f"{server.url}/v1/embeddings", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
            data = json.load(response)["data"]
    return np.array([each["embedding"] for each in data], np.float32)


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.9999), ("int8", 0.97)])
async def test_it_serves_the_vectors_of_the_torch_backend_over_http(exported: Path, dtype: str, least: float) -> None:
    texts = SENTENCES[:3]
    served = served_vectors(exported, dtype, texts)
    torch, _, _ = await vectors_of(ModelSettings(path=str(exported)), texts)
    assert (served * torch).sum(axis=1).min() >= least


def resident_mib() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


def test_memory_does_not_grow_with_the_number_of_shapes(exported: Path) -> None:
    spec, _ = read_spec(exported, name="m", max_context_length=None, default_prompt=None)
    backend = OnnxBackend.load(spec, BackendOptions(own=OnnxOptions()))
    random = np.random.default_rng(0)

    def embed(rows: int, width: int) -> None:
        ids = random.integers(5, 1000, (rows, width)).astype(np.int32)
        backend.run(TokenBatch.of_rows(list(ids)))["dense"]

    embed(16, 64)
    before = resident_mib()
    for _ in range(60):
        width = int(random.integers(3, 65))
        embed(int(random.integers(1, 1 + min(32, 1024 // width))), width)
    assert resident_mib() - before < 30
