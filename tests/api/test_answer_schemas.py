"""Answers are what the OpenAPI document says of them: every route's examples, through the whole application."""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from json_schema import is_valid

from provider.settings import JobSettings, ModelSettings
from provider.testing.tiny.classifiers import tiny_classifier
from provider.testing.tiny.multi_vector import tiny_multi_vector
from provider.testing.tiny.sparse import tiny_splade

Body = dict[str, Any]

# Where the usual model, which gives dense vectors, is not the right one.
MODELS: Mapping[str, str] = {
    "/v1/multi-vector": "colbert",
    "/v1/rerank": "reranker",
    "/v1/score": "reranker",
    "/v1/classify": "classifier",
    "/predict": "classifier",
}
# Beside the document's examples: every other kind of answer.
MORE: list[tuple[str, Body]] = [
    ("/v1/embeddings", {"model": "dense", "input": ["a", "b"], "encoding_format": "base64"}),
    ("/v1/embeddings", {"model": "dense", "input": "a", "output_dtype": "binary"}),
    ("/v1/embeddings", {"model": "splade", "input": "a", "output_types": "sparse"}),
    ("/v1/embeddings", {"model": "colbert", "input": "a", "output_types": "multi_vector", "encoding_format": "base64"}),
    ("/v1/embeddings", {"model": "dense", "input": "a " * 100, "truncate": True}),
    ("/v1/multi-vector", {"model": "colbert", "input": "a", "embedding_type": "base64"}),
    ("/v1/rerank", {"model": "reranker", "query": "a", "documents": ["a", {"text": "b"}], "return_documents": True}),
    ("/v1/rerank", {"query": "a", "texts": ["a", "b"], "return_text": True}),
    ("/v1/classify", {"model": "classifier", "input": [["a", ""]]}),
    ("/v2/embed", {"model": "dense", "texts": ["a"], "embedding_types": ["float", "base64", "binary"]}),
    ("/v1/embed", {"model": "dense", "texts": ["a " * 100]}),
    ("/embed", {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}}),
    ("/predict", {"inputs": [["a"], ["b"]], "model": "classifier"}),
    ("/", {"inputs": "a"}),
    ("/", {"query": "a", "documents": ["a", "b"]}),
    ("/tokenize", {"model": "dense", "prompt": "a", "return_token_strs": True}),
    ("/tokenize", {"inputs": ["a", ""], "add_special_tokens": False, "model": "dense"}),
    ("/pooling", {"model": "dense", "input": "a"}),
    ("/pooling", {"model": "dense", "input": "a", "encoding_format": "base64"}),
    ("/pooling", {"model": "colbert", "input": "a", "task": "token_embed"}),
    ("/pooling", {"model": "classifier", "input": "a", "task": "classify"}),
    ("/api/embed", {"model": "dense"}),
    ("/api/embeddings", {"model": "dense"}),
    ("/api/show", {"name": "dense"}),
    ("/vectors", {"texts": ["a", "b"]}),
]


@pytest.fixture(scope="module")
def models(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ModelSettings]:
    folder = tmp_path_factory.mktemp("models")
    folders = {
        "dense": minilm,
        "splade": tiny_splade(folder / "splade"),
        "colbert": tiny_multi_vector(folder / "colbert"),
        "reranker": tiny_classifier(folder / "reranker", "bert"),
        "classifier": tiny_classifier(folder / "classifier", "bert", labels=3),
    }
    return [
        ModelSettings(name=name, path=str(path), backend="fake", lanes=1, max_context_length=32)
        for name, path in folders.items()
    ]


@pytest.fixture
async def client(open_app: Any, models: list[ModelSettings], tmp_path: Path) -> AsyncIterator[Any]:
    async with open_app(model=models[0], models=models[1:], jobs=JobSettings(folder=str(tmp_path))) as opened:
        yield opened


@pytest.fixture
async def document(client: Any) -> Any:
    return (await client.get("/openapi.json")).json()


def problem(document: Any, method: str, path: str, response: Any, status: int) -> list[str]:
    """What of a response is not as the document says; `status` is the one that is expected."""
    where = f"{method} {path}: {response.status_code} {response.text[:300]}"
    documented = document["paths"][path][method.lower()]["responses"].get(str(response.status_code))
    if response.status_code != status or documented is None:
        return [f"status, expected {status}, {where}"]
    content = documented.get("content", {})
    if not content:
        return [] if not response.content else [f"body, {where}"]
    kind = response.headers.get("content-type", "").partition(";")[0]
    if kind not in content:
        return [f"{kind} is not of {[*content]}, {where}"]
    is_right = kind != "application/json" or is_valid(
        response.json(), content[kind]["schema"], document.get("components", {}).get("schemas")
    )
    return [] if is_right else [f"schema, {where}"]


def bodies(document: Any) -> list[tuple[str, Body]]:
    """Every route's examples, for the models of this service."""
    found: list[tuple[str, Body]] = []
    for path, item in document["paths"].items():
        media = item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in media.get("examples", {}).values():
            body = dict(example["value"])
            if path == "/v1/batches" or len(body.get("output_types", [])) > 1:
                continue
            if "model" in body or path in {"/predict", "/tokenize", "/decode"}:
                body["model"] = MODELS.get(path, "dense")
            found.append((path, body))
    return found


def asked(path: str) -> str:
    return path.format(deployment="dense", model_id="dense")


async def test_answers_are_as_documented(client: Any, document: Any) -> None:
    wrong: list[str] = []
    every = [*bodies(document), *MORE]
    for path, body in every:
        media = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        if not is_valid(body, media["schema"]):
            wrong.append(f"request of {path}: {body}")
        wrong += problem(document, "POST", path, await client.post(asked(path), json=body), 200)
    assert not wrong, "\n".join(wrong)
    taking = {path for path, item in document["paths"].items() if "requestBody" in item.get("post", {})}
    assert taking - {path for path, _ in every} == {"/v1/files", "/v1/batches"}


async def test_errors_are_as_documented(client: Any, document: Any) -> None:
    wrong: list[str] = []
    for path, body in [*bodies(document), *MORE]:
        response = await client.post(asked(path), content=b"[")
        wrong += problem(document, "POST", path, response, 400)
        if "model" in body and "{" not in path:
            response = await client.post(asked(path), json=body | {"model": "nope"})
            wrong += problem(document, "POST", path, response, 400 if path == "/api/pull" else 404)
    assert not wrong, "\n".join(wrong)


async def test_what_is_read_without_a_body_is_as_documented(client: Any, document: Any) -> None:
    wrong: list[str] = []
    statuses = {"/.well-known/live": 204, "/.well-known/ready": 204}
    for path, item in document["paths"].items():
        if "get" in item and "_id}" not in path.replace("{model_id}", ""):
            address = asked(path) + ("?model=dense" if path == "/info" else "")
            wrong += problem(document, "GET", path, await client.get(address), statuses.get(path, 200))
    assert not wrong, "\n".join(wrong)


async def test_files_and_batches_are_as_documented(client: Any, document: Any) -> None:
    wrong: list[str] = []
    gate = client.app.state.service.runtimes["dense"].loaded.backend.gate
    # No batch ends before it is cancelled.
    gate.clear()
    line = b'{"custom_id":"1","method":"POST","url":"/v1/embeddings","body":{"model":"dense","input":"a"}}\n'
    response = await client.post("/v1/files", files={"file": ("a.jsonl", line)}, data={"purpose": "batch"})
    wrong += problem(document, "POST", "/v1/files", response, 200)
    file_id = response.json()["id"]
    body = document["paths"]["/v1/batches"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    batches = {}
    for endpoint in body["properties"]["endpoint"]["enum"]:
        response = await client.post("/v1/batches", json={"input_file_id": file_id, "endpoint": endpoint})
        wrong += problem(document, "POST", "/v1/batches", response, 200)
        batches[endpoint] = response.json()["id"]
    ids = {"file_id": file_id, "batch_id": batches["/v1/embeddings"]}
    for method, path in [
        ("GET", "/v1/files/{file_id}"),
        ("GET", "/v1/files/{file_id}/content"),
        ("GET", "/v1/batches/{batch_id}"),
        ("POST", "/v1/batches/{batch_id}/cancel"),
    ]:
        wrong += problem(document, method, path, await client.request(method, path.format(**ids)), 200)
        unknown = re.sub(r"\{.*?\}", "nope", path)
        wrong += problem(document, method, path, await client.request(method, unknown), 404)
    gate.set()
    assert not wrong, "\n".join(wrong)


async def test_options_tells_every_method_of_a_path(client: Any, document: Any) -> None:
    for path, item in document["paths"].items():
        address = re.sub(r"\{.*?\}", "nope", path)
        allowed = {each.strip() for each in (await client.options(address)).headers["allow"].split(",")}
        heads = {"HEAD"} if "get" in item else set()
        assert allowed == {"OPTIONS", *(each.upper() for each in item), *heads}, path
        refused = await client.request("PATCH", address)
        assert {each.strip() for each in refused.headers["allow"].split(",")} == allowed, path
