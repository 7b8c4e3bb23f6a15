"""Classifiers run on OpenVINO give CrossEncoder's scores."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emb_provider_openvino import OpenVINOBackend
from sentence_transformers import CrossEncoder

from provider.backends import BackendUnavailable, InvalidModel, ModelSpec
from provider.domain import ScoreRequest
from provider.engine.engine import Engine
from provider.models.spec import read_spec
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing.tiny import TINY_CLASSIFIERS, tiny_bert, tiny_classifier, tiny_reranker

Load = Callable[..., OpenVINOBackend]

QUERY = "who runs"
DOCUMENTS = ("the cat runs", "a", "an old man reads in the new part of the world " * 3, "?", "Zwölf 世界!")


def spec_of(folder: Path) -> ModelSpec:
    return read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]


def with_file(folder: Path, load: Load, path: Path) -> Path:
    """The model in `folder` with its own conversion as a file of the model, where optimum writes it."""
    load(spec_of(folder), cache_folder=str(path / "kept"))
    (converted,) = (path / "kept").glob("[!.]*")
    shutil.copytree(folder, path / "model")
    (path / "model" / "openvino").mkdir()
    for suffix in ("xml", "bin"):
        shutil.copy(converted / f"model.{suffix}", path / "model" / "openvino" / f"openvino_model.{suffix}")
    return path / "model"


async def check(folder: Path, source: str, **options: str) -> None:
    """Alone and together, scores are those of CrossEncoder, in its order."""
    theirs = CrossEncoder(str(folder), device="cpu").predict([(QUERY, each) for each in DOCUMENTS])
    model = ModelSettings(name="m", path=str(folder), backend="openvino", options=options, tune=False)
    async with Engine.open(Settings(model=model, cache=CacheSettings(enabled=False))) as service:
        assert service.runtime("m").loaded.backend.traits.extra["source"] == source
        together = (await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,)))).scores
        alone = [(await service.score(ScoreRequest("m", (each,), (QUERY,)))).scores[0] for each in DOCUMENTS]
    theirs = theirs.reshape(together.shape)
    for ours in (together, np.array(alone)):
        assert np.abs(ours - theirs).max() <= 1e-4
        ordered = np.take_along_axis(ours, np.argsort(theirs, axis=0), axis=0)
        assert np.diff(ordered, axis=0).min(initial=0) >= -1e-5


@pytest.mark.parametrize(("family", "labels"), list(zip(TINY_CLASSIFIERS, (1, 3) * 3, strict=True)))
async def test_scores_of_pairs_are_those_of_cross_encoder(family: str, labels: int, tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m", family, labels=labels, layers=1)
    await check(folder, "conversion", cache_folder=str(tmp_path / "kept"))


async def test_a_file_of_a_classifier_runs(load: Load, tmp_path: Path) -> None:
    folder = with_file(tiny_classifier(tmp_path / "m", labels=3), load, tmp_path)
    await check(folder, "file", file="openvino/openvino_model.xml")


def test_a_file_of_an_encoder_is_refused_for_a_classifier(load: Load, tmp_path: Path) -> None:
    folder = with_file(tiny_bert(tmp_path / "m"), load, tmp_path)
    classifier = tiny_classifier(tmp_path / "classifier", family="distilbert")
    shutil.copytree(folder / "openvino", classifier / "openvino")
    with pytest.raises(InvalidModel, match=r"expected logits \(rows, 1\); export the model for text classification"):
        load(spec_of(classifier), file="openvino/openvino_model.xml")


def test_a_file_without_types_is_refused_where_they_tell_the_texts_of_a_pair_apart(load: Load, tmp_path: Path) -> None:
    folder = with_file(tiny_classifier(tmp_path / "m", family="distilbert"), load, tmp_path)
    classifier = tiny_classifier(tmp_path / "classifier")
    shutil.copytree(folder / "openvino", classifier / "openvino")
    with pytest.raises(InvalidModel, match="takes no token_type_ids"):
        load(spec_of(classifier), file="openvino/openvino_model.xml")


def test_int8_is_refused_before_anything_is_converted(load: Load, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"int8 is made and measured for vectors.*use float32"):
        load(spec_of(tiny_classifier(tmp_path / "m")), dtype="int8", cache_folder=str(tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()


def test_a_reranker_that_is_a_language_model_is_refused_before_its_weights_are_read(load: Load, tmp_path: Path) -> None:
    spec = spec_of(tiny_reranker(tmp_path / "m"))
    (spec.folder / "model.safetensors").unlink()
    with pytest.raises(BackendUnavailable, match=r"is a language model \(Qwen3ForCausalLM\).*use backend torch"):
        load(spec)
