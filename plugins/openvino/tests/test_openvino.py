"""The OpenVINO backend keeps the contract on models of every shape, and equals sentence-transformers on each."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openvino
import pytest
import torch
from emb_provider_openvino import OpenVINOBackend, OpenVINOOptions
from sentence_transformers import SentenceTransformer

from provider.backends import (
    BackendUnavailable,
    InvalidModel,
    ModelSpec,
    TokenBatch,
    find_backend,
)
from provider.engine.tokenizer import Tokenizer
from provider.models.spec import read_spec
from provider.testing import BackendContract, packaged_minilm
from provider.testing.tiny import TINY_SCORE_SHAPES, TINY_SHAPES, tiny_bert

Load = Callable[..., OpenVINOBackend]

TEXTS = [
    "a cat",
    "The quick brown fox jumps over the lazy dog, and over the fence behind it.",
    "?",
    "naïve café - 漢字 and emoji 🙂 in one text",
    "A man is eating food. " * 3,
]
HAS_BFLOAT16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def spec_of(folder: Path) -> ModelSpec:
    return read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


SHAPES = {**TINY_SHAPES, **TINY_SCORE_SHAPES}
QUICK = ("mean", "classifier, types of tokens")


class TestOpenVINOBackend(BackendContract):
    backend_class = OpenVINOBackend
    shapes: ClassVar = {name: SHAPES[name] for name in QUICK}


@pytest.mark.slow
class TestOpenVINOBackendOnOtherShapes(BackendContract):
    backend_class = OpenVINOBackend
    shapes: ClassVar = {name: make for name, make in SHAPES.items() if name not in QUICK}


class TestOpenVINOBackendInInt8(BackendContract):
    backend_class = OpenVINOBackend
    dtype = "int8"
    shapes: ClassVar = {"mean": tiny_bert}
    # Random weights lose more than trained ones.
    least_cosine = 0.97


@pytest.mark.slow
class TestOpenVINOBackendOnTheRealModel(BackendContract):
    backend_class = OpenVINOBackend
    shapes: ClassVar = {"all-MiniLM-L6-v2": packaged_minilm}


@pytest.mark.parametrize("shape", TINY_SHAPES)
def test_it_equals_sentence_transformers(tmp_path: Path, load: Load, shape: str) -> None:
    spec = spec_of(TINY_SHAPES[shape](tmp_path / "model"))
    tokenizer = Tokenizer.from_folder(spec.folder, max_tokens=spec.max_tokens, pools_prompt=spec.dense.pools_prompt)
    encoded = tokenizer.encode(TEXTS, truncate="end")
    ours = load(spec).run(TokenBatch.of_rows([each.ids for each in encoded], [each.skip for each in encoded]))["dense"]
    theirs = SentenceTransformer(str(spec.folder), device="cpu").encode(TEXTS)
    assert unit(ours).shape == theirs.shape
    assert (unit(ours) * unit(theirs)).sum(axis=1).min() > 0.99999


def test_it_is_found_by_its_name() -> None:
    assert find_backend("openvino") is OpenVINOBackend


def test_prompt_tokens_are_left_out_of_pooling_where_the_model_wants_it(tmp_path: Path, load: Load) -> None:
    spec = spec_of(tiny_bert(tmp_path / "model", include_prompt=False, prompts={"query": "query: "}))
    tokenizer = Tokenizer.from_folder(spec.folder, max_tokens=spec.max_tokens, pools_prompt=spec.dense.pools_prompt)
    encoded = tokenizer.encode(TEXTS, prompt="query: ", truncate="end")
    ours = load(spec).run(TokenBatch.of_rows([each.ids for each in encoded], [each.skip for each in encoded]))["dense"]
    theirs = SentenceTransformer(str(spec.folder), device="cpu").encode(TEXTS, prompt_name="query")
    assert (unit(ours) * unit(theirs)).sum(axis=1).min() > 0.99999


def test_it_says_what_it_is(spec: ModelSpec, load: Load) -> None:
    traits = load(spec).traits
    assert (traits.device, traits.dtype, traits.padding_is_free) == ("cpu", "float32", False)
    assert traits.weights_digest == ""


def test_the_places_of_files_are_no_part_of_what_vectors_depend_on() -> None:
    assert repr(OpenVINOOptions(calibration="/a", cache_folder="/b")) == repr(OpenVINOOptions())


def test_bfloat16_is_close_where_the_processor_has_it_and_refused_elsewhere(
    spec: ModelSpec, load: Load, batch: TokenBatch
) -> None:
    if not HAS_BFLOAT16:
        with pytest.raises(BackendUnavailable, match=r"not supported by this processor.*use float32, or int8"):
            load(spec, dtype="bfloat16")
        return
    half = load(spec, dtype="bfloat16")
    assert half.traits.dtype == "bfloat16"
    assert (unit(half.run(batch)["dense"]) * unit(load(spec).run(batch)["dense"])).sum(axis=1).min() > 0.999


def test_float32_is_computed_in_float32_whatever_the_processor_would_prefer(spec: ModelSpec, load: Load) -> None:
    engine: Any = load(spec)._engine
    compiled = engine._compiled
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


@pytest.mark.parametrize("threads", [1, 2])
def test_there_is_a_stream_for_every_lane_that_the_cores_allow(
    spec: ModelSpec, load: Load, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emb_provider_openvino.backend.available_cores", lambda: 2)
    engine: Any = load(spec, threads=threads)._engine
    compiled = engine._compiled
    assert compiled.get_property("NUM_STREAMS") == 2 // threads
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_a_dtype_that_there_is_not_is_refused_with_those_there_are(spec: ModelSpec, load: Load) -> None:
    with pytest.raises(BackendUnavailable, match="'float16'; allowed are auto, float32, bfloat16, int8"):
        load(spec, dtype="float16")


def test_a_device_that_is_not_there_is_refused_with_those_there_are(spec: ModelSpec, load: Load) -> None:
    with pytest.raises(BackendUnavailable, match=r"device 'gpu\.7' is not available: OpenVINO finds .*cpu"):
        load(spec, device="gpu.7")


def test_a_folder_without_its_weights_is_refused(tmp_path: Path, load: Load) -> None:
    spec = spec_of(tiny_bert(tmp_path / "model"))
    (spec.folder / "model.safetensors").unlink()
    with pytest.raises(InvalidModel, match="cannot be loaded"):
        load(spec, cache_folder=str(tmp_path / "converted"))
    assert list(tmp_path.glob("converted/[!.]*")) == []


def test_a_model_that_changes_by_conversion_is_refused(spec: ModelSpec, load: Load, tmp_path: Path) -> None:
    trace = torch.jit.trace

    def wrongly(module: torch.nn.Module, example: Any, **kwargs: Any) -> Any:
        """As if tracing had fixed the mask: all tokens are seen, padding among them."""

        class Unmasked(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.module = module

            def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
                found: torch.Tensor = self.module(input_ids, attention_mask * 0 + 1)
                return found

        return trace(Unmasked().eval(), example, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.jit, "trace", wrongly)
        with pytest.raises(BackendUnavailable, match=r"does not compute what torch computes.*use the backend torch"):
            load(spec, cache_folder=str(tmp_path / "converted"))
    assert list(tmp_path.glob("converted/[!.]*")) == []


def test_a_conversion_that_fails_is_one_line_and_leaves_nothing_behind(
    spec: ModelSpec, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        msg = "Exception from src/frontends:12:\nCheck 'ok' failed\nNo conversion for aten::strange\n"
        raise RuntimeError(msg)

    monkeypatch.setattr(openvino, "convert_model", fails)
    with pytest.raises(BackendUnavailable) as caught:
        load(spec, cache_folder=str(tmp_path / "converted"))
    assert "cannot convert the architecture 'BertModel' (No conversion for aten::strange)" in caught.value.message
    assert "\n" not in caught.value.message
    assert list(tmp_path.glob("converted/[!.]*")) == []


def test_converting_leaves_the_log_of_the_process_as_it_is(
    spec: ModelSpec, load: Load, few_texts: str, tmp_path: Path
) -> None:
    root = logging.getLogger()
    before = root.level, [(each, each.level) for each in root.handlers]
    # What the first one does to the handlers shows at the second.
    for name in ("first", "second"):
        load(spec, dtype="int8", calibration=few_texts, cache_folder=str(tmp_path / name))
    assert (root.level, [(each, each.level) for each in root.handlers]) == before


def test_nothing_is_reported_to_anybody() -> None:
    code = (
        "import emb_provider_openvino, sys, nncf.telemetry.wrapper as n, openvino.tools.ovc.telemetry_utils as o;"
        "print(o.tm.__name__, 'openvino_telemetry.main' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]


def test_torch_is_not_imported_if_the_converted_model_is_there(load: Load, tmp_path: Path) -> None:
    folder, kept = tiny_bert(tmp_path / "model", dense=16), str(tmp_path / "kept")
    load(spec_of(folder), cache_folder=kept)
    code = (
        "import sys, pathlib; from emb_provider_openvino import *; from provider.backends import BackendOptions;"
        "from provider.models.spec import read_spec;"
        "spec, _ = read_spec(pathlib.Path(sys.argv[1]), name='m', max_context_length=None, default_prompt=None);"
        "own = OpenVINOOptions(cache_folder=sys.argv[2]);"
        "backend = OpenVINOBackend.load(spec, BackendOptions(own=own));"
        "print(backend.traits.extra['source'], 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(folder), kept]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.split() == ["cache", "False"]


def test_its_options_are_checked_by_name_and_type(spec: ModelSpec) -> None:
    from provider.backends import own_options
    from provider.errors import SettingsError

    with pytest.raises(SettingsError, match="its options are: cache_folder, calibration, file"):
        own_options("openvino", OpenVINOBackend, {"precision": "f32"})
    assert own_options("openvino", OpenVINOBackend, {"file": "a.xml"}) == OpenVINOOptions(file="a.xml")
