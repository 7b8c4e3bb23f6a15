"""Every architecture that we say we serve equals sentence-transformers, from text to vector, on the same folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from provider.domain import EmbedRequest
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing import tiny

FAMILIES: dict[str, Callable[..., Path]] = {
    "BERT": tiny.tiny_bert,
    "DistilBERT": tiny.tiny_distilbert,
    "RoBERTa": tiny.tiny_roberta,
    "XLM-RoBERTa, E5": tiny.tiny_xlm_roberta,
    "MPNet": tiny.tiny_mpnet,
    "ModernBERT": tiny.tiny_modernbert,
    "NomicBERT": tiny.tiny_nomic,
    "GTE": tiny.tiny_gte,
    "T5": tiny.tiny_t5,
    "Qwen2": tiny.tiny_decoder,
    "Qwen3-Embedding": tiny.tiny_qwen3,
    "EmbeddingGemma": tiny.tiny_gemma,
}
PROMPTED = ["XLM-RoBERTa, E5", "NomicBERT", "Qwen3-Embedding", "EmbeddingGemma"]
TEXTS = (
    "a cat",
    "The quick brown fox jumps over the lazy dog, and over the fence behind it.",
    "?",
    "naïve café - 漢字 and emoji 🙂 in one text",
    "the same the same the same",
    "written out: <pad> [PAD] </s> <unk> [MASK]",
    "  two  blanks,\n\nlines and\ttabs ",
    "This is a long text, of more than every limit. " * 30,
    "the person " * 20,
)


IN_THE_MODELS_FOLDER = ("modules.json", "config_sentence_transformers.json")


def equals(folder: Path, ours: Any, prompt: str) -> None:
    """`ours` (an answer for `TEXTS`) has the vectors and the tokens of sentence-transformers."""
    model = SentenceTransformer(str(folder), device="cpu")
    theirs = model.encode(list(TEXTS), prompt=prompt, normalize_embeddings=True)
    assert ours.vectors.shape == theirs.shape
    assert (ours.vectors * theirs).sum(axis=1).min() >= 0.9999
    tokens = [int(model.preprocess([text], prompt=prompt)["attention_mask"].sum()) for text in TEXTS]
    assert ours.usage.tokens == sum(tokens)


def settings_of(folder: Path) -> Settings:
    return Settings(model=ModelSettings(name="m", path=str(folder)), cache=CacheSettings(enabled=False))


@pytest.mark.parametrize("family", FAMILIES)
async def test_texts_alone_and_together_have_the_vectors_and_tokens_of_sentence_transformers(
    family: str, tmp_path: Path, open_service: Any
) -> None:
    folder = FAMILIES[family](tmp_path / "model")
    async with open_service(settings_of(folder)) as service:
        together = await service.embed(EmbedRequest("m", TEXTS, truncate="end"))
        equals(folder, together, prompt="")
        for text, expected in zip(TEXTS, together.vectors, strict=True):
            alone = await service.embed(EmbedRequest("m", (text,), truncate="end"))
            assert float(alone.vectors[0] @ expected) >= 0.99999, text


@pytest.mark.parametrize("input_type", ["query", "document"])
@pytest.mark.parametrize("family", PROMPTED)
async def test_prompts_go_before_queries_and_documents_as_in_sentence_transformers(
    family: str, input_type: str, tmp_path: Path, open_service: Any
) -> None:
    folder = FAMILIES[family](tmp_path / "model")
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    async with open_service(settings_of(folder)) as service:
        answer = await service.embed(EmbedRequest("m", TEXTS, input_type=input_type, truncate="end"))
    prompt = prompts["passage"] if input_type == "document" and "passage" in prompts else prompts[input_type]
    equals(folder, answer, prompt=prompt)


@pytest.mark.parametrize("family", ["XLM-RoBERTa, E5", "T5", "Qwen3-Embedding", "EmbeddingGemma"])
async def test_prompt_tokens_are_left_out_of_pooling_where_the_model_says_so(
    family: str, tmp_path: Path, open_service: Any
) -> None:
    prompts = {"query": "find: "}
    folder = FAMILIES[family](tmp_path / "model", include_prompt=False, pooling="mean", prompts=prompts)
    async with open_service(settings_of(folder)) as service:
        answer = await service.embed(EmbedRequest("m", TEXTS, prompt_name="query", truncate="end"))
    equals(folder, answer, prompt="find: ")


def renamed(name: str) -> str:
    """A weight of transformers' NomicBert as nomic-embed-text's own code calls it."""
    parts = {
        "embeddings.LayerNorm": "emb_ln",
        "mlp.up_proj": "mlp.fc11",
        "mlp.gate_proj": "mlp.fc12",
        "mlp.down_proj": "mlp.fc2",
        "post_attention_layernorm": "norm1",
        "post_mlp_layernorm": "norm2",
    }
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return f"encoder.{name}" if name.startswith("layers.") else name


async def test_a_repository_that_offers_code_of_its_own_is_served_by_transformers_class(
    tmp_path: Path, open_service: Any
) -> None:
    """As nomic-embed-text is published: `auto_map`, and weights under the names of that code."""
    folder = tiny.tiny_nomic(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "elsewhere--configuration.Config", "AutoModel": "elsewhere--modeling.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": code}))
    weights = load_file(folder / "model.safetensors")
    published = {renamed(name): value for name, value in weights.items() if "self_attn." not in name}
    for layer in range(config["num_hidden_layers"]):
        attention, ours = f"encoder.layers.{layer}.attn", f"layers.{layer}.self_attn"
        published[f"{attention}.Wqkv.weight"] = torch.cat([weights[f"{ours}.{part}_proj.weight"] for part in "qkv"])
        published[f"{attention}.out_proj.weight"] = weights[f"{ours}.o_proj.weight"]
    save_file(published, folder / "model.safetensors", metadata={"format": "pt"})
    async with open_service(settings_of(folder)) as service:
        answer = await service.embed(EmbedRequest("m", TEXTS, truncate="end"))
    equals(folder, answer, prompt="")


async def test_a_transformer_in_a_folder_of_its_own_is_served(tmp_path: Path, open_service: Any) -> None:
    folder = tiny.tiny_bert(tmp_path / "model", dense=16, prompts={"query": "find: "})
    (folder / "0_Transformer").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name not in IN_THE_MODELS_FOLDER]:
        path.rename(folder / "0_Transformer" / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    async with open_service(settings_of(folder)) as service:
        answer = await service.embed(EmbedRequest("m", TEXTS, input_type="query", truncate="end"))
    equals(folder, answer, prompt="find: ")


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
async def test_vectors_of_a_model_made_for_the_dot_product_keep_their_length(
    similarity: str, tmp_path: Path, open_service: Any
) -> None:
    folder = tiny.tiny_mpnet(tmp_path / "model", pooling="cls", normalize=False)
    about = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(json.dumps(about | {"similarity_fn_name": similarity}))
    theirs = SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), batch_size=1)
    async with open_service(settings_of(folder)) as service:
        ours = await service.embed(EmbedRequest("m", TEXTS, truncate="end"))
    lengths = np.linalg.norm(theirs, axis=1, keepdims=True) if similarity == "cosine" else 1
    np.testing.assert_allclose(ours.vectors, theirs / lengths, atol=1e-5)
