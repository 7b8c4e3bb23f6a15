"""Rerank, score and classify over HTTP, by tiny models, against sentence-transformers' CrossEncoder."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from provider.errors import Overloaded
from provider.settings import AuthSettings, LimitSettings, LogSettings, ModelSettings, ServerSettings
from provider.telemetry.logs import configure_logging
from provider.testing.tiny.classifiers import tiny_classifier

QUERY = "where does the cat sit"
DOCUMENTS = ["the cat sits on the mat", "a dog", "", "the year 1998 was long", "the cat sits on the mat"]
LIMIT = 64


@pytest.fixture(scope="session")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("models") / "reranker", "bert")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("models") / "classifier", "bert", labels=3, activation_fn="Softmax")


@pytest.fixture
def models(reranker: Path, classifier: Path) -> list[ModelSettings]:
    return [
        ModelSettings(name=path.name, path=str(path), lanes=1, max_context_length=LIMIT, tune=False)
        for path in (reranker, classifier)
    ]


@pytest.fixture
async def client(open_app: Any, models: list[ModelSettings]) -> AsyncIterator[Any]:
    async with open_app(models=models) as opened:
        yield opened


def cross_encoder(folder: Path) -> CrossEncoder:
    return CrossEncoder(str(folder), device="cpu", local_files_only=True, max_length=LIMIT)


async def post(client: Any, path: str, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def rerank(client: Any, **body: Any) -> Any:
    return await post(client, "/v1/rerank", **{"model": "reranker", "query": QUERY, "documents": DOCUMENTS} | body)


async def refusal(client: Any, path: str, **body: Any) -> dict[str, Any]:
    response = await client.post(path, json=body)
    assert response.status_code == 400, response.text
    answer: dict[str, Any] = response.json()
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["detail"] == answer["error"]["message"]
    assert ("message" in answer) is ("rank" in path)
    assert answer.get("message", answer["detail"]) == answer["detail"]
    return dict(answer["error"])


async def test_documents_come_in_the_order_of_cross_encoders_scores(client: Any, reranker: Path) -> None:
    expected = cross_encoder(reranker).rank(QUERY, DOCUMENTS)
    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        answer = await post(client, path, model="reranker", query=QUERY, documents=DOCUMENTS)
        assert answer["results"] == answer["data"]
        assert [each["index"] for each in answer["results"]] == [each["corpus_id"] for each in expected]
        found = [each["relevance_score"] for each in answer["results"]]
        np.testing.assert_allclose(found, [each["score"] for each in expected], atol=1e-5)


async def test_a_queue_that_is_full_refuses_new_documents_and_scores_cached_ones(client: Any) -> None:
    runtime = client.app.state.service.runtimes["reranker"]
    scored = await rerank(client)

    def no_room(*_: object, **__: object) -> None:
        msg = "it is full"
        raise Overloaded(msg)

    runtime.check_room = no_room
    assert (await rerank(client))["results"] == scored["results"]
    for changed in ({"documents": [*DOCUMENTS, "a new one"]}, {"query": "another"}):
        body = {"model": "reranker", "query": QUERY, "documents": DOCUMENTS} | changed
        assert (await client.post("/v1/rerank", json=body)).status_code == 429


async def test_documents_come_back_as_the_path_has_them(client: Any) -> None:
    body = {"model": "reranker", "query": QUERY, "documents": ["a cat"], "return_documents": True}
    assert (await post(client, "/rerank", **body))["results"][0]["document"] == {"text": "a cat"}
    assert (await post(client, "/infinity/rerank", **body))["results"][0]["document"] == "a cat"


async def test_raw_scores_are_logits(client: Any, reranker: Path) -> None:
    expected = cross_encoder(reranker).predict([(QUERY, each) for each in DOCUMENTS], activation_fn=torch.nn.Identity())
    results = (await rerank(client, raw_scores=True))["results"]
    found = np.array([each["relevance_score"] for each in sorted(results, key=lambda each: each["index"])])
    np.testing.assert_allclose(found, expected, atol=1e-4)


async def test_usage_counts_the_tokens_of_all_pairs_and_the_request_has_its_id(client: Any, reranker: Path) -> None:
    tokenizer = cross_encoder(reranker).tokenizer
    tokens = sum(map(len, tokenizer([(QUERY, each) for each in DOCUMENTS])["input_ids"]))
    response = await client.post(
        "/v1/rerank",
        json={"model": "reranker", "query": QUERY, "documents": DOCUMENTS},
        headers={"x-request-id": "my-trace-7"},
    )
    answer = response.json()
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert answer["meta"]["tokens"] == {"input_tokens": tokens}
    assert (answer["id"], answer["model"]) == ("my-trace-7", "reranker")
    models = (await client.get("/v1/models")).json()["data"]
    (fingerprint,) = {each["fingerprint"] for each in models if each["id"] == "reranker"}
    assert response.headers["x-model-fingerprint"] == fingerprint


async def test_a_document_that_is_too_long_is_an_error_that_names_it(client: Any) -> None:
    long = ["a cat", "word " * 200]
    error = await refusal(client, "/v1/rerank", model="reranker", query=QUERY, documents=long)
    assert (error["param"], error["code"]) == ("documents[1]", "context_length_exceeded")
    assert f"maximum input length is {LIMIT} tokens" in error["message"]
    of_tei = await client.post("/rerank", json={"model": "reranker", "query": QUERY, "texts": long})
    assert of_tei.json()["error"].startswith("Invalid 'texts[1]': maximum input length is")
    error = await refusal(client, "/v1/score", model="reranker", text_1=QUERY, text_2=long)
    assert error["param"] == "text_2[1]"
    error = await refusal(client, "/v1/classify", model="classifier", input=long)
    assert error["param"] == "input[1]"


async def test_documents_are_cut_when_asked_and_that_is_reported(client: Any, reranker: Path) -> None:
    long = ["a cat", "word " * 200]
    expected = cross_encoder(reranker).predict([(QUERY, each) for each in long])
    response = await client.post(
        "/v1/rerank", json={"model": "reranker", "query": QUERY, "documents": long, "truncate": True}
    )
    answer = response.json()
    found = {each["index"]: each["relevance_score"] for each in answer["results"]}
    np.testing.assert_allclose([found[0], found[1]], expected, atol=1e-5)
    (cut,) = answer["truncated"]
    assert (cut["index"], cut["kept_tokens"]) == (1, LIMIT)
    assert answer["meta"]["warnings"]
    assert response.headers["x-truncated-inputs"] == "1"


async def test_every_document_is_cut_to_its_own_limit_first(client: Any) -> None:
    answer = await rerank(client, documents=["a cat", "word " * 200], max_tokens_per_doc=8)
    assert [each["index"] for each in answer["truncated"]] == [1]
    assert answer["truncated"][0]["kept_tokens"] < LIMIT


async def test_pairs_are_scored_in_their_order(client: Any, reranker: Path) -> None:
    queries = ["cat", "dog", "year"]
    expected = cross_encoder(reranker).predict(list(zip(queries, DOCUMENTS[:3], strict=True)))
    answer = await post(client, "/v1/score", model="reranker", text_1=queries, text_2=DOCUMENTS[:3])
    np.testing.assert_allclose([each["score"] for each in answer["data"]], expected, atol=1e-5)
    one = await post(client, "/score", model="reranker", queries="cat", documents=DOCUMENTS[:1])
    np.testing.assert_allclose(one["data"][0]["score"], expected[0], atol=1e-5)


@pytest.mark.parametrize("pairs", [False, True])
async def test_texts_and_pairs_are_classified(client: Any, classifier: Path, pairs: bool) -> None:
    texts: list[Any] = [[QUERY, each] for each in DOCUMENTS] if pairs else [each for each in DOCUMENTS if each]
    reference = cross_encoder(classifier)
    softmax = torch.nn.Softmax(dim=1)
    expected = reference.predict([tuple(each) for each in texts], activation_fn=softmax) if pairs else None
    answer = await post(client, "/v1/classify", model="classifier", input=texts)
    found = np.array([each["probs"] for each in answer["data"]])
    assert found.shape == (len(texts), 3)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    if expected is not None:
        np.testing.assert_allclose(found, expected, atol=1e-5)
    labels = reference.config.id2label
    assert [each["label"] for each in answer["data"]] == [labels[int(i)] for i in found.argmax(axis=1)]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/rerank", {"model": "org/model", "query": "q", "documents": ["a"]}, "POST /v1/embeddings"),
        ("/v1/score", {"model": "org/model", "text_1": "q", "text_2": "a"}, "POST /v1/embeddings"),
        ("/v1/classify", {"model": "org/model", "input": "a"}, "POST /v1/embeddings"),
        ("/v1/embeddings", {"model": "reranker", "input": "a"}, "query and documents to POST /v1/rerank"),
        ("/v1/embeddings", {"model": "classifier", "input": "a"}, "POST /v1/classify"),
        ("/v1/rerank", {"model": "classifier", "query": "q", "documents": ["a"]}, "POST /v1/classify"),
        ("/v1/score", {"model": "classifier", "text_1": "q", "text_2": "a"}, "classifier: it gives 3 scores"),
    ],
)
async def test_a_model_of_another_task_says_where_to_send_the_request(
    client: Any, path: str, body: dict[str, Any], says: str
) -> None:
    error = await refusal(client, path, **body)
    assert says in error["message"]
    assert (error["param"], error["code"]) == ("model", "output_not_supported")


async def test_models_say_their_task_their_labels_and_what_their_scores_are(client: Any) -> None:
    entries = {each["id"]: each for each in (await client.get("/v1/models")).json()["data"]}
    assert (entries["reranker"]["task"], entries["reranker"]["scores"]) == ("rerank", "probabilities")
    assert entries["classifier"]["task"] == "classify"
    assert len(entries["classifier"]["labels"]) == 3
    assert entries["reranker"]["dimensions"] is None
    assert entries["org/model"]["scores"] is None
    assert (entries["org/model"]["similarity"], entries["reranker"]["similarity"]) == ("cosine", None)


async def test_the_only_reranker_answers_without_a_name(
    open_app: Any, models: list[ModelSettings], reranker: Path
) -> None:
    server = ServerSettings(default_model="only")
    async with open_app(server=server, models=models[:1]) as client:
        assert await post(client, "/rerank", query=QUERY, texts=["a", "b"])
        answer = await post(client, "/rerank", query=QUERY, documents=["a", "b"])
        assert answer["model"] == "reranker"
        assert (await post(client, "/v1/embeddings", input="a"))["model"] == "org/model"
    async with open_app(server=server, models=models) as client:
        # A classifier with several labels does not rerank.
        assert (await post(client, "/rerank", query=QUERY, documents=["a"]))["model"] == "reranker"
        assert (await post(client, "/v1/score", text_1=QUERY, text_2=["a"]))["model"] == "reranker"
        response = await client.post("/v1/classify", json={"input": ["a"]})
        assert "2 models give scores: reranker, classifier" in response.json()["detail"]


async def test_teis_body_which_never_names_a_model_is_answered_by_the_only_reranker(
    open_app: Any, models: list[ModelSettings]
) -> None:
    body = {"query": QUERY, "texts": DOCUMENTS}
    async with open_app(models=models) as client:
        assert await post(client, "/rerank", **body) == await post(client, "/rerank", **body, model="reranker")
        response = await client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS})
        assert (response.status_code, response.json()["detail"]) == (400, "you must provide a model parameter")
    second = attrs.evolve(models[0], name="second")
    async with open_app(models=[*models, second]) as client:
        response = await client.post("/rerank", json=body)
        assert (response.status_code, response.json()["error_type"]) == (400, "Validation")
        assert "2 models rerank: reranker, second" in response.json()["error"]
    async with open_app() as client:
        response = await client.post("/rerank", json=body)
        assert response.status_code == 400
        assert "does not give scores" in response.json()["error"]


async def test_limits_keys_and_the_log_are_those_of_embeddings(open_app: Any, models: list[ModelSettings]) -> None:
    async with open_app(models=models, limits=LimitSettings(max_inputs=2, max_request_tokens=9)) as client:
        body = {"model": "reranker", "query": QUERY, "documents": ["a", "b", "c"]}
        assert (await refusal(client, "/v1/rerank", **body))["code"] == "array_above_max_length"
        body["documents"] = ["a", "b"]
        assert (await refusal(client, "/v1/rerank", **body))["code"] == "max_tokens_per_request"
    async with open_app(models=models, auth=AuthSettings(keys=["key"])) as client:
        for path in ("/v1/rerank", "/v2/rerank", "/v1/score", "/classify"):
            assert (await client.post(path, json={})).status_code == 401


async def test_a_request_for_scores_is_counted_and_logged_like_any_other(
    client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogSettings(format="json"))
    await rerank(client)
    await post(client, "/score", model="reranker", text_1=QUERY, text_2="a")
    await post(client, "/v1/classify", model="classifier", input="a")
    await post(client, "/v1/embeddings", model="org/model", input="a")
    await client.post("/v2/rerank", content=b"{")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = [(each["task"], each.get("outputs"), each["status"]) for each in lines if each["event"] == "request"]
    assert told == [
        ("rerank", ["scores"], 200),
        ("score", ["scores"], 200),
        ("classify", ["scores"], 200),
        ("embed", ["dense"], 200),
        ("rerank", None, 400),
    ]
    text = (await client.get("/metrics")).text
    assert 'emb_provider_inputs_total{model="reranker"} 6.0' in text
    counted = 'emb_provider_requests_total{method="POST",model="reranker",route="%s",status="200",task="%s"} 1.0'
    assert counted % ("/v1/rerank", "rerank") in text
    assert counted % ("/score", "score") in text
    assert 'emb_provider_request_seconds_count{model="classifier",route="/v1/classify",task="classify"} 1.0' in text


async def test_a_score_that_is_nan_is_an_error_that_names_its_document(
    open_app: Any, models: list[ModelSettings]
) -> None:
    async with open_app(models=[attrs.evolve(models[0], backend="fake")]) as client:
        model = client.app.state.service.runtimes["reranker"].loaded
        model.backend.nan = int(model.tokenizer.encode(["dog"])[0].ids[1])
        response = await client.post(
            "/v1/rerank", json={"model": "reranker", "query": "cat", "documents": ["the mat", "a dog"]}
        )
        assert (response.status_code, response.json()["error"]["code"]) == (500, "non_finite_vector")
        assert response.json()["message"].startswith("documents[1]: the model answered a score that is NaN")
        assert (await rerank(client, query="cat", documents=["the mat"]))["results"]


async def test_a_body_that_is_no_json_and_an_unknown_model_are_answered_as_everywhere(client: Any) -> None:
    response = await client.post("/v1/rerank", content=b"{'query'")
    assert response.status_code == 400
    assert json.loads(response.content)["message"].startswith("We could not parse the JSON body")
    response = await client.post("/v1/rerank", json={"model": "nope", "query": "q", "documents": ["a"]})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
