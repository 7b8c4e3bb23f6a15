"""Folders that are saved in unusual ways give what sentence-transformers gives for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer

from provider.domain import EmbedRequest, ScoreRequest
from provider.engine.engine import Engine
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing.tiny import tiny_bert, tiny_classifier, tiny_xlm_roberta

TEXTS = ("the cat runs", "An old man, reads (in) the new part: of it!")
WEIGHTS = "model.safetensors"

Edit = Callable[[Path], None]
Tensors = dict[str, torch.Tensor]


def values(name: str, **changes: Any) -> Edit:
    """Change keys of a JSON file, or with None remove them."""

    def edit(folder: Path) -> None:
        path = folder / name
        document = {**(json.loads(path.read_bytes()) if path.exists() else {}), **changes}
        path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))

    return edit


def tensors(change: Callable[[Tensors], Tensors]) -> Edit:
    def edit(folder: Path) -> None:
        changed = change(load_file(folder / WEIGHTS))
        save_file({name: tensor.contiguous() for name, tensor in changed.items()}, folder / WEIGHTS, {"format": "pt"})

    return edit


def in_shards(folder: Path) -> None:
    whole = load_file(folder / WEIGHTS)
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(whole))}
    for file in set(places.values()):
        save_file({name: whole[name] for name in places if places[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / WEIGHTS).unlink()


def old_norms(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


OLD_POOLING = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
DENSE: dict[str, Edit] = {
    "shards": in_shards,
    "a head's prefix": tensors(lambda all_: {f"bert.{name}": each for name, each in all_.items()}),
    "float16": tensors(lambda all_: {name: each.half() for name, each in all_.items()}),
    "bfloat16": tensors(lambda all_: {name: each.bfloat16() for name, each in all_.items()}),
    "no pooler": tensors(lambda all_: {name: each for name, each in all_.items() if "pooler" not in name}),
    "another head": tensors(lambda all_: {**all_, "my_head.weight": torch.ones(3, 3)}),
    "a buffer": tensors(lambda all_: {**all_, "embeddings.position_ids": torch.arange(128)[None]}),
    "old names of norms": tensors(lambda all_: {old_norms(name): each for name, each in all_.items()}),
    "no architecture": values("config.json", architectures=None),
    "labels of a former head": values("config.json", num_labels=3),
    "no limit of its own": values("sentence_bert_config.json", max_seq_length=None),
    "no limit of the tokenizer": values("tokenizer_config.json", model_max_length=10**30),
    "padding before the text": values("tokenizer_config.json", padding_side="left"),
    "a prompt by default": values("config_sentence_transformers.json", prompts={"q": "find "}, default_prompt_name="q"),
    "old names of poolings": lambda folder: (folder / "1_Pooling/config.json").write_text(json.dumps(OLD_POOLING)),
    "another processor": values("tokenizer_config.json", processor_class="MyProcessor"),
}
TORCH = "torch.nn.modules."
SCORES: dict[str, tuple[int, Edit]] = {
    "shards": (1, in_shards),
    "bfloat16": (1, tensors(lambda all_: {name: each.bfloat16() for name, each in all_.items()})),
    "several labels at once": (3, values("config.json", problem_type="multi_label_classification")),
    "an activation by its path": (
        1,
        values("config.json", sentence_transformers={"activation_fn": f"{TORCH}linear.Identity"}),
    ),
    "an activation of its own": (1, values("config.json", sentence_transformers={"activation_fn": "my.module.Act"})),
    "no activation": (1, values("config.json", sentence_transformers={})),
    "a number of labels without names": (1, values("config.json", id2label=None, label2id=None, num_labels=1)),
}


def opened(folder: Path) -> Any:
    model = ModelSettings(name="m", path=str(folder), tune=False)
    return Engine.open(Settings(model=model, cache=CacheSettings(enabled=False)))


@pytest.mark.parametrize("edit", DENSE.values(), ids=list(DENSE))
async def test_vectors_are_the_same(edit: Edit, tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "model")
    edit(folder)
    reference = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    async with opened(folder) as engine:
        found = await engine.embed(EmbedRequest("m", TEXTS))
    # One at a time: there a text's vector depends on its neighbours where padding comes first.
    expected = [reference.encode(text, normalize_embeddings=True) for text in TEXTS]
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)


async def test_lower_case_of_its_own_is_applied(tmp_path: Path) -> None:
    folder = tiny_xlm_roberta(tmp_path / "model")
    values("sentence_bert_config.json", do_lower_case=True)(folder)
    async with opened(folder) as engine:
        found = await engine.embed(EmbedRequest("m", TEXTS))
    expected = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), normalize_embeddings=True)
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)


@pytest.mark.parametrize(("labels", "edit"), SCORES.values(), ids=list(SCORES))
async def test_scores_are_the_same(labels: int, edit: Edit, tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "model", labels=labels)
    edit(folder)
    reference = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    async with opened(folder) as engine:
        found = await engine.score(ScoreRequest("m", TEXTS, ("the old cat",)))
    expected = np.reshape(reference.predict([("the old cat", text) for text in TEXTS]), (len(TEXTS), labels))
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
