"""Static models, Routers and the layers after pooling equal sentence-transformers, alone and in mixed batches."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from provider.domain import EmbedRequest
from provider.engine.hooks import ModelState
from provider.errors import InvalidInput, MissingInputType, UnknownInputType
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing.tiny import tiny_bert, tiny_router, tiny_static

TEXTS = (
    "the cat runs",
    "a",
    "an old man reads in the new part of the world, and writes it",
    "xyzzy 42! \u00e9\u4e2d",
    "the " * 70 + "end",
)
LEAST_COSINE = 0.9999

MODELS: dict[str, Callable[[Path], Path]] = {
    "static": tiny_static,
    "static that is not normalised": lambda path: tiny_static(path, normalize=False),
    "model2vec": lambda path: tiny_static(path, style="model2vec"),
    "model2vec in int8, tokens that share rows": lambda path: tiny_static(path, style="model2vec", quantised=True),
    "static with a limit": lambda path: tiny_static(path, limit=20),
    "a table for queries": tiny_router,
    "two transformers": lambda path: tiny_router(path, queries="transformer"),
    "queries by default": lambda path: tiny_router(path, queries="transformer", default_route="query"),
    "the first way by default": lambda path: tiny_router(path, default_route=None),
    "prompts by role": lambda path: tiny_router(path, prompts={"query": "find ", "document": "title "}),
    "routes by mapping": lambda path: tiny_router(
        path, route_mappings={"('query', 'text')": "document", "(None, 'text')": "query"}
    ),
    "LayerNorm": lambda path: tiny_bert(path, layer_norm=True),
    "LayerNorm and several Dense": lambda path: tiny_bert(path, layer_norm=True, dense=[48, 16], activation="SELU"),
    "Dense with a learned activation": lambda path: tiny_bert(path, dense=16, activation="PReLU"),
    "Dense beside its input": lambda path: tiny_bert(path, dense=[24, 24], residual=True, activation="Mish"),
}


def settings(folder: Path, **model: Any) -> Settings:
    return Settings(
        model=ModelSettings(name="m", path=str(folder), tune=False, **model), cache=CacheSettings(enabled=False)
    )


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", MODELS)
async def test_vectors_equal_those_of_sentence_transformers(open_service: Any, tmp_path: Path, name: str) -> None:
    folder = MODELS[name](tmp_path / "model")
    theirs = SentenceTransformer(str(folder), device="cpu")
    encode = {None: theirs.encode, "query": theirs.encode_query, "document": theirs.encode_document}
    async with open_service(settings(folder, truncate="end")) as service:
        assert service.runtimes["m"].state is ModelState.READY, service.runtimes["m"].failure
        single = []
        for role, call in encode.items():
            expected = unit(call(list(TEXTS)))
            answer = await service.embed(EmbedRequest("m", TEXTS, input_type=role))
            assert (unit(answer.vectors) * expected).sum(axis=1).min() >= LEAST_COSINE, role
            single += [
                (EmbedRequest("m", (text,), input_type=role), each) for text, each in zip(TEXTS, expected, strict=True)
            ]
        # At once, so that queries and documents share batches.
        answers = await asyncio.gather(*(service.embed(request) for request, _ in single))
        for answer, (request, expected) in zip(answers, single, strict=True):
            assert float(unit(answer.vectors[0]) @ expected) >= LEAST_COSINE, request
        alone = await service.embed(single[0][0])
        assert float(unit(alone.vectors[0]) @ single[0][1]) >= LEAST_COSINE


async def test_a_bare_model2vec_folder_is_read_as_from_model2vec_does(open_service: Any, tmp_path: Path) -> None:
    folder = tiny_static(tmp_path, style="bare", quantised=True)
    theirs = SentenceTransformer(modules=[StaticEmbedding.load(str(folder)), Normalize()], device="cpu")
    async with open_service(settings(folder)) as service:
        answer = await service.embed(EmbedRequest("m", TEXTS))
        assert (answer.vectors * theirs.encode(list(TEXTS))).sum(axis=1).min() >= LEAST_COSINE
        assert "which model2vec leaves out" in " ".join(service.runtimes["m"].notices)


async def test_a_folder_that_sentence_transformers_saved_is_served(open_service: Any, tmp_path: Path) -> None:
    table = StaticEmbedding.load(str(tiny_static(tmp_path / "table")))
    modules = [table, Dense(32, 8, activation_function=torch.nn.Softsign()), Normalize()]
    theirs = SentenceTransformer(modules=modules, device="cpu")
    theirs.save(str(tmp_path / "saved"), create_model_card=False)
    async with open_service(settings(tmp_path / "saved")) as service:
        answer = await service.embed(EmbedRequest("m", TEXTS))
        assert (answer.vectors * theirs.encode(list(TEXTS))).sum(axis=1).min() >= LEAST_COSINE


async def test_usage_counts_tokens_without_special_ones_and_a_text_without_tokens_is_refused(
    open_service: Any, tmp_path: Path
) -> None:
    async with open_service(settings(tiny_static(tmp_path))) as service:
        answer = await service.embed(EmbedRequest("m", ("the cat runs", "a")))
        assert answer.usage.tokens == 3 + 1
        for text in ("", " ", "\u0001"):
            with pytest.raises(InvalidInput, match=r"no tokens in it\. Leave it out") as raised:
                await service.embed(EmbedRequest("m", ("the cat runs", text)))
            assert raised.value.index == 1


async def test_without_a_default_the_role_has_to_be_said(open_service: Any, tmp_path: Path) -> None:
    folder = tiny_router(tmp_path, default_route=None, allow_empty_key=False)
    async with open_service(settings(folder)) as service:
        with pytest.raises(MissingInputType, match="say 'query' or 'document'"):
            await service.embed(EmbedRequest("m", ("a",)))
        with pytest.raises(UnknownInputType, match="known are: query"):
            await service.embed(EmbedRequest("m", ("a",), input_type="image"))
        await service.embed(EmbedRequest("m", ("a",), input_type="search_query"))


async def test_a_query_and_a_document_of_one_text_are_cached_apart(open_service: Any, tmp_path: Path) -> None:
    own = settings(tiny_router(tmp_path, queries="transformer"))
    async with open_service(Settings(model=own.model)) as service:
        query, document, again = [
            await service.embed(EmbedRequest("m", ("the cat",), input_type=role))
            for role in ("query", "document", "query")
        ]
        assert float(query.vectors[0] @ document.vectors[0]) < 0.99
        assert again.usage.cache_hits == 1
        assert np.array_equal(again.vectors, query.vectors)


async def test_a_backend_that_runs_no_tables_says_so(open_service: Any, tmp_path: Path) -> None:
    async with open_service(settings(tiny_static(tmp_path), backend="torch-compile")) as service:
        failure = service.runtimes["m"].failure
        assert failure is not None
        assert "runs no static models" in failure.message


async def test_a_table_that_tokens_point_out_of_is_refused(open_service: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tiny_static(tmp_path, style="model2vec", quantised=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["mapping"] = tensors["mapping"] + 1000
    save_file(tensors, folder / "model.safetensors")
    async with open_service(settings(folder)) as service:
        assert "cannot be loaded" in service.runtimes["m"].failure.message


async def test_queries_and_documents_of_different_widths_are_refused(open_service: Any, tmp_path: Path) -> None:
    folder = tiny_router(tmp_path, queries="transformer")
    tiny_static(tmp_path / "query_0_Transformer", dimension=16)
    routes = json.loads((folder / "router_config.json").read_text())
    routes["types"]["query_0_Transformer"] = "sentence_transformers.models.StaticEmbedding"
    routes["structure"]["query"] = ["query_0_Transformer"]
    (folder / "router_config.json").write_text(json.dumps(routes))
    async with open_service(settings(folder)) as service:
        assert "queries of 16 dimensions and documents of 32" in service.runtimes["m"].failure.message
