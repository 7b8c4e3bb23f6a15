"""Layers of the pipeline where transformers' class has none: over each token before pooling, and scores after it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from provider.domain import EmbedRequest, ScoreRequest
from provider.engine.engine import Engine
from provider.errors import BackendUnavailable, InvalidModel
from provider.models.spec import read_spec
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing.tiny import tiny_bert, tiny_distilbert

TEXTS = ("the cat runs", "a", "An old man, reads (in) the new part: of it!", "of cat " * 5)


def opened(folder: Path, **model: Any) -> Any:
    settings = ModelSettings(name="m", path=str(folder), tune=False, **model)
    return Engine.open(Settings(model=settings, cache=CacheSettings(enabled=False)))


def over_tokens(folder: Path, make: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = Transformer(str(make(folder.with_name("encoder"))))
        dense = Dense(32, 16, activation_function=torch.nn.GELU(), module_input_name="token_embeddings")
        SentenceTransformer(modules=[first, dense, Pooling(16, "max")], device="cpu").save_pretrained(str(folder))
    return folder


def scores(folder: Path, make: Any, *, labels: int = 1) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = Transformer(str(make(folder.with_name("encoder"))))
        inner = Dense(32, 24, activation_function=torch.nn.GELU())
        outer = Dense(24, labels, activation_function=torch.nn.Identity(), module_output_name="scores")
        modules = [first, Pooling(32, "cls"), inner, LayerNorm(24), outer]
        CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("make", [tiny_bert, tiny_distilbert])
async def test_a_dense_layer_over_tokens_comes_before_pooling(make: Any, packed: bool, tmp_path: Path) -> None:
    folder = over_tokens(tmp_path / "model", make)
    expected = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), normalize_embeddings=True)
    async with opened(folder, options={"packed": packed}) as engine:
        found = await engine.embed(EmbedRequest("m", TEXTS))
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("make", "labels"), [(tiny_bert, 1), (tiny_bert, 3), (tiny_distilbert, 1)])
async def test_a_cross_encoder_may_score_by_layers_after_pooling(
    make: Any, labels: int, packed: bool, tmp_path: Path
) -> None:
    folder = scores(tmp_path / "model", make, labels=labels)
    expected = CrossEncoder(str(folder), device="cpu").predict([("the old cat", text) for text in TEXTS])
    async with opened(folder, options={"packed": packed}) as engine:
        found = await engine.score(ScoreRequest("m", TEXTS, ("the old cat",)))
    np.testing.assert_allclose(found.scores, np.reshape(expected, (len(TEXTS), labels)), atol=1e-5)


@pytest.mark.parametrize("write", [over_tokens, scores])
async def test_a_backend_without_such_layers_is_refused(write: Any, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="runs no layered models"):
        async with opened(write(tmp_path / "model", tiny_bert), backend="torch-compile"):
            pass


def test_layers_are_part_of_the_fingerprint_and_checked(tmp_path: Path) -> None:
    folder = scores(tmp_path / "model", tiny_bert)
    before = read_spec(folder, name="m", max_context_length=None, default_prompt=None)[0].fingerprint
    weights = folder / "4_Dense" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert read_spec(folder, name="m", max_context_length=None, default_prompt=None)[0].fingerprint != before
    config = folder / "4_Dense" / "config.json"
    config.write_text(config.read_text().replace('"scores"', '"sentence_embedding"'))
    with pytest.raises(InvalidModel, match=r"modules\.json has Dense from 'sentence_embedding' to .*only .*'scores'"):
        read_spec(folder, name="m", max_context_length=None, default_prompt=None)
