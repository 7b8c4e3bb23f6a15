"""Classification heads run on ONNX Runtime give CrossEncoder's scores."""

from pathlib import Path

import numpy as np
import pytest
from emb_provider_onnx.backend import OnnxBackend, OnnxOptions
from exports import exported
from sentence_transformers import CrossEncoder

from provider.backends import BackendOptions, BackendUnavailable, InvalidModel
from provider.domain import ScoreRequest
from provider.engine.engine import Engine
from provider.engine.hooks import Hooks
from provider.models.spec import read_spec
from provider.settings import ModelSettings, Settings
from provider.testing.tiny import tiny_bert, tiny_classifier, tiny_reranker

pytestmark = pytest.mark.slow

PAIRS = [("who runs", text) for text in ("the cat runs", "a", "an old man reads in the new part of the world " * 3)]


@pytest.mark.parametrize(("family", "labels"), [("bert", 1), ("roberta", 3)])
async def test_scores_equal_those_of_cross_encoder(tmp_path: Path, family: str, labels: int) -> None:
    folder = exported(tiny_classifier(tmp_path, family, labels=labels))
    expected = CrossEncoder(str(folder), device="cpu").predict(PAIRS)
    settings = Settings(model=ModelSettings(name="m", path=str(folder), backend="onnx", tune=False))
    engine = Engine(settings, Hooks()).start()
    try:
        await engine.runtimes["m"].start_loading()
        assert engine.runtimes["m"].failure is None
        answer = await engine.score(ScoreRequest("m", tuple(text for _, text in PAIRS), (PAIRS[0][0],)))
        assert np.allclose(answer.scores.reshape(expected.shape), expected, atol=1e-4)
    finally:
        await engine.close()


def test_a_graph_without_logits_is_refused(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "model")
    (folder / "onnx").mkdir()
    graph = exported(tiny_bert(tmp_path / "encoder")) / "onnx" / "model.onnx"
    (folder / "onnx" / "model.onnx").write_bytes(graph.read_bytes())
    spec, _ = read_spec(folder, name="m", max_context_length=None, default_prompt=None)
    with pytest.raises(InvalidModel, match="no logits, as models with a classification head do"):
        OnnxBackend.load(spec, BackendOptions(own=OnnxOptions()))


def test_a_reranker_that_is_a_language_model_is_refused(tmp_path: Path) -> None:
    spec, _ = read_spec(tiny_reranker(tmp_path), name="m", max_context_length=None, default_prompt=None)
    with pytest.raises(BackendUnavailable, match=r"is a language model \(Qwen3ForCausalLM\).*use backend torch"):
        OnnxBackend.load(spec, BackendOptions(own=OnnxOptions()))
