"""Sparse and multi-vector models equal sentence-transformers' SparseEncoder and MultiVectorEncoder, text to output."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from waiting import PATIENCE_SECONDS

from provider.domain import EmbedRequest, SparseVector
from provider.engine.engine import Engine
from provider.engine.hooks import ModelState
from provider.errors import ProviderError
from provider.models.resolve import resolve
from provider.models.spec import read_spec
from provider.settings import CacheSettings, HubSettings, ModelSettings, Settings
from provider.testing.tiny import (
    EXPANSION,
    tiny_bge_m3,
    tiny_masked_lm,
    tiny_multi_vector,
    tiny_opensearch,
    tiny_pylate,
    tiny_splade,
    tiny_stanford_colbert,
)

ROLES = ("query", "document")
TEXTS = ("the cat runs", "a", "An old man, reads (in) the new part: of it!", "xyzzy 42! \u00e9", "of cat " * 5)


def cased_queries(path: Path) -> Path:
    where = tiny_opensearch(path) / "query_0_SparseStaticEmbedding" / "tokenizer_config.json"
    where.write_text(json.dumps(json.loads(where.read_bytes()) | {"do_lower_case": False}), encoding="utf-8")
    return path


def with_most_entries(path: Path, count: int) -> Path:
    where = tiny_splade(path) / "config_sentence_transformers.json"
    where.write_text(json.dumps({**json.loads(where.read_bytes()), "max_active_dims": count}), encoding="utf-8")
    return path


SPARSE: dict[str, Callable[[Path], Path]] = {
    "BERT": tiny_splade,
    "RoBERTa": lambda path: tiny_splade(path, "roberta"),
    "XLM-RoBERTa": lambda path: tiny_splade(path, "xlm-roberta"),
    "DistilBERT": lambda path: tiny_splade(path, "distilbert"),
    "ModernBERT": lambda path: tiny_splade(path, "modernbert"),
    "sum": lambda path: tiny_splade(path, over_tokens="sum"),
    "sum, log twice": lambda path: tiny_splade(path, "distilbert", "sum", "log1p_relu"),
    "as older releases saved it": lambda path: tiny_splade(path, log="log1p_relu", legacy=True),
    "prompts": lambda path: tiny_splade(path, prompts={"query": "find ", "document": "title "}),
    "the largest weights only": lambda path: with_most_entries(path, 12),
    "queries without a model": tiny_opensearch,
    "queries without a model, with another tokenizer": cased_queries,
    "queries without a model, by default": lambda path: tiny_opensearch(path, "bert", default_route="query"),
}
LATE: dict[str, Callable[[Path], Path]] = {
    "BERT": tiny_multi_vector,
    "ModernBERT": lambda path: tiny_multi_vector(path, "modernbert"),
    "XLM-RoBERTa": lambda path: tiny_multi_vector(path, "xlm-roberta"),
    "several Dense": lambda path: tiny_multi_vector(path, widths=(48, 24, 16), activation="GELU", residual=True),
    "seen expansion": lambda path: tiny_multi_vector(path, expansion={**EXPANSION, "attend": True}),
    "expansion to at least": lambda path: tiny_multi_vector(
        path, expansion={**EXPANSION, "strategy": "min", "length": 9}
    ),
    "no expansion": lambda path: tiny_multi_vector(path, expansion=None, query_length=40, document_length=50),
    "nothing skipped": lambda path: tiny_multi_vector(path, skiplist=()),
    "skipped in both": lambda path: tiny_multi_vector(path, skiplist_tasks=("query", "document")),
    "own length": lambda path: tiny_multi_vector(path, normalize=False),
    "PyLate": lambda path: tiny_pylate(path, widths=(24, 16), residual=True),
    "PyLate on BERT": lambda path: tiny_pylate(path, "bert"),
    "PyLate, markers that are no tokens": lambda path: tiny_pylate(path, "bert", added=False),
    "PyLate without expansion": lambda path: tiny_pylate(path, about={"do_query_expansion": False, "query_length": 30}),
    "Stanford": tiny_stanford_colbert,
}


def settings(folder: Path, **model: Any) -> Settings:
    return Settings(
        model=ModelSettings(name="m", path=str(folder), tune=False, **model), cache=CacheSettings(enabled=False)
    )


async def answers(folder: Path, requests: list[EmbedRequest], *, at_once: bool = False, **model: Any) -> list[Any]:
    engine = Engine(settings(folder, **model), lambda _event: None).start()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while engine.runtimes["m"].state is not ModelState.READY:
                assert engine.runtimes["m"].state is not ModelState.FAILED, engine.problems
                await asyncio.sleep(0.02)
            if at_once:
                return await asyncio.gather(*(engine.embed(request) for request in requests))
            return [await engine.embed(request) for request in requests]
    finally:
        await engine.close()


def requests(output: str, role: str | None, **more: Any) -> list[EmbedRequest]:
    """Each text alone, and all in one request."""
    inputs = [(text,) for text in TEXTS] + [TEXTS]
    return [EmbedRequest("m", each, input_type=role, outputs=(output,), **more) for each in inputs]


def ask(model: Any, role: str | None) -> Any:
    encode = {None: model.encode, "query": model.encode_query, "document": model.encode_document}[role]
    return encode(list(TEXTS))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("make", SPARSE.values(), ids=list(SPARSE))
async def test_sparse_vectors_equal_sparse_encoders(make: Callable[[Path], Path], packed: bool, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    reference = SparseEncoder(str(folder), device="cpu", local_files_only=True)
    for role in (None, "query", "document"):
        wanted = ask(reference, role).to_dense().numpy()
        *alone, together = await answers(folder, requests("sparse", role), options={"packed": packed})
        for found in ([each.sparse[0] for each in alone], together.sparse):
            for vector, row in zip(found, wanted, strict=True):
                same(vector, row)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
async def test_a_masked_language_model_alone_is_sparse_where_the_setting_says_so(family: str, tmp_path: Path) -> None:
    folder = tiny_masked_lm(tmp_path / "model", family)
    wanted = SparseEncoder(str(folder), device="cpu", local_files_only=True).encode(list(TEXTS)).to_dense().numpy()
    (together,) = await answers(folder, [EmbedRequest("m", TEXTS, outputs=("sparse",))], task="sparse")
    for vector, row in zip(together.sparse, wanted, strict=True):
        same(vector, row)
    (dense,) = await answers(folder, [EmbedRequest("m", TEXTS)])
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    np.testing.assert_allclose(dense.vectors, reference.encode(list(TEXTS), normalize_embeddings=True), atol=1e-5)
    _, notices = read_spec(folder, name="m", max_context_length=None, default_prompt=None)
    assert any("model.task: sparse" in notice for notice in notices)


def same(vector: SparseVector, row: Any) -> None:
    assert vector.ids.tolist() == np.flatnonzero(row).tolist()
    np.testing.assert_allclose(vector.weights, row[vector.ids], rtol=0, atol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("make", LATE.values(), ids=list(LATE))
async def test_token_vectors_equal_multi_vector_encoders(
    make: Callable[[Path], Path], packed: bool, tmp_path: Path
) -> None:
    folder = make(tmp_path / "model")
    reference = MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)
    for role in (None, "query", "document"):
        wanted = [each.numpy() for each in ask(reference, role)]
        *alone, together = await answers(folder, requests("multi_vector", role), options={"packed": packed})
        for found in ([each.multi_vector[0] for each in alone], together.multi_vector):
            assert [each.shape for each in found] == [each.shape for each in wanted]
            for vectors, rows in zip(found, wanted, strict=True):
                lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(rows, axis=1)
                assert (np.sum(vectors * rows, axis=1) / lengths).min() >= 0.9999
                np.testing.assert_allclose(vectors, rows, rtol=0, atol=1e-3)


async def test_lengths_of_queries_and_documents_hold_for_these_alone(tmp_path: Path) -> None:
    folder = tiny_multi_vector(tmp_path / "model", expansion=None, query_length=6, document_length=9)
    reference = MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)
    text = "the cat runs of old man " * 6
    found = await answers(
        folder,
        [
            EmbedRequest("m", (text,), input_type=role, truncate="end", outputs=("multi_vector",))
            for role in (None, *ROLES)
        ],
    )
    wanted = [encode([text])[0] for encode in (reference.encode, reference.encode_query, reference.encode_document)]
    for each, rows in zip(found, wanted, strict=True):
        np.testing.assert_allclose(each.multi_vector[0], rows, rtol=0, atol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
async def test_bge_m3_gives_three_outputs_in_one_pass(packed: bool, tmp_path: Path) -> None:
    folder = tiny_bge_m3(tmp_path / "model", pickled=False)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    sparse_head, late_head = (load_file(folder / f"{name}_linear.safetensors") for name in ("sparse", "colbert"))
    every = EmbedRequest("m", TEXTS, outputs=("dense", "sparse", "multi_vector"))
    alone = [EmbedRequest("m", TEXTS, outputs=(output,)) for output in every.outputs]
    found, dense, sparse, late = await answers(folder, [every, *alone], options={"packed": packed})
    np.testing.assert_allclose(found.vectors, model.encode(list(TEXTS)), atol=1e-5)
    np.testing.assert_allclose(found.vectors, dense.vectors, atol=1e-6)
    special = {0, 1, 2, 3}
    for i, text in enumerate(TEXTS):
        features = model.preprocess([text])
        with torch.inference_mode():
            hidden = model[0](features)["token_embeddings"][0]
        weights = torch.relu(hidden @ sparse_head["weight"].T + sparse_head["bias"]).squeeze(-1)
        wanted: dict[int, float] = {}
        for token, weight in zip(features["input_ids"][0].tolist(), weights.tolist(), strict=True):
            if token not in special and weight > wanted.get(token, 0.0):
                wanted[token] = weight
        for vector in (found.sparse[i], sparse.sparse[i]):
            assert vector.ids.tolist() == sorted(wanted)
            np.testing.assert_allclose(vector.weights, [wanted[token] for token in sorted(wanted)], atol=1e-4)
        vectors = torch.nn.functional.normalize(hidden[1:] @ late_head["weight"].T + late_head["bias"], dim=-1)
        for token_vectors in (found.multi_vector[i], late.multi_vector[i]):
            np.testing.assert_allclose(token_vectors, vectors, atol=1e-4)


@pytest.mark.parametrize("make", [tiny_opensearch, tiny_multi_vector])
async def test_queries_and_documents_share_batches(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    output = "sparse" if make is tiny_opensearch else "multi_vector"
    asked = [EmbedRequest("m", (text,), input_type=role, outputs=(output,)) for text in TEXTS for role in ROLES]
    alone = await answers(folder, asked)
    together = await answers(folder, asked, at_once=True)
    for one, other in zip(alone, together, strict=True):
        (a,), (b,) = one.outputs[output], other.outputs[output]
        if isinstance(a, SparseVector):
            assert a.ids.tolist() == b.ids.tolist()
            a, b = a.weights, b.weights
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


async def test_an_output_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    folder = tiny_splade(tmp_path / "model")
    with pytest.raises(ProviderError, match="sparse"):
        await answers(folder, [EmbedRequest("m", ("the cat",))])
    with pytest.raises(ProviderError, match="dimensions"):
        await answers(folder, [EmbedRequest("m", ("the cat",), dimensions=8, outputs=("sparse",))])


@pytest.mark.parametrize("pickled_weights", [True, False])
def test_pickled_heads_of_bge_m3_are_converted_where_that_is_allowed(pickled_weights: bool, tmp_path: Path) -> None:
    folder = tiny_bge_m3(tmp_path / "model")
    if pickled_weights:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    hub = HubSettings(cache_folder=str(tmp_path / "store"))
    converted = resolve(ModelSettings(path=str(folder), convert_weights=True), hub).folder
    spec, notices = read_spec(converted, name="m", max_context_length=None, default_prompt=None)
    assert spec.outputs == ("dense", "sparse", "multi_vector")
    assert not notices
    heads = {name: load_file(converted / f"{name}.safetensors") for name in ("sparse_linear", "colbert_linear")}
    for name, tensors in heads.items():
        original = torch.load(folder / f"{name}.pt", weights_only=True)
        assert all(torch.equal(tensors[key], original[key]) for key in original)


def test_pickled_heads_that_may_not_be_converted_are_told(tmp_path: Path) -> None:
    folder = tiny_bge_m3(tmp_path / "model")
    found = resolve(ModelSettings(path=str(folder)), HubSettings(cache_folder=str(tmp_path / "store"))).folder
    spec, notices = read_spec(found, name="m", max_context_length=None, default_prompt=None)
    assert spec.outputs == ("dense",)
    assert any("convert_weights" in notice for notice in notices)
