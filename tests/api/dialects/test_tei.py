"""The API of text-embeddings-inference over HTTP, by tiny models, against `/v1` of the same service."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provider import errors
from provider.settings import AuthSettings, DialectSettings, LimitSettings, LogSettings, ModelSettings
from provider.telemetry.logs import configure_logging
from provider.testing.tiny.bert import tiny_bert
from provider.testing.tiny.classifiers import tiny_classifier
from provider.testing.tiny.multi_vector import tiny_multi_vector
from provider.testing.tiny.sparse import tiny_splade

TEXTS = ["the cat sits on the mat", "a dog"]
SIDES = ("Left", "right")
LONG = "the cat sits " * 100

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"inputs": []}, "'inputs': the array is empty"),
    ({"inputs": ["a", ""]}, "'inputs[1]'"),
    ({"inputs": ["a", 1]}, "'inputs'"),
    ({}, "'inputs'"),
    ({"input": "a"}, '"inputs"'),
    ({"inputs": "a", "normalize": "yes"}, "'normalize'"),
    ({"inputs": "a", "dimensions": 10_000}, "'dimensions'"),
    ({"inputs": "a", "prompt_name": "nope"}, "query"),
    ({"inputs": "a", "truncate": "perhaps"}, "'NONE'"),
    ({"inputs": "a", "truncation_direction": "up"}, "'Left' and 'Right'"),
    ({"inputs": "a", "parameters": {"normalize": 3}}, "'parameters.normalize'"),
    ({"inputs": "a", "parameters": {"wait": True}}, "'parameters'"),
    ({"inputs": "a", "options": {"use_cache": True, "truncate": True}}, "'options.truncate'"),
    ({"inputs": "a", "normalize": True, "parameters": {"normalize": False}}, "contradicts"),
    ({"inputs": "a", "encoding_format": "base64"}, "encoding_format"),
    ({"inputs": {"source_sentence": "a"}}, "inputs.sentences"),
    ({"inputs": {"source_sentence": "a", "sentences": []}}, "inputs.sentences"),
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "bert": tiny_bert(folder / "bert"),
        "splade": tiny_splade(folder / "splade"),
        "colbert": tiny_multi_vector(folder / "colbert"),
        "reranker": tiny_classifier(folder / "reranker", "bert"),
        "classifier": tiny_classifier(folder / "classifier", "bert", labels=3, activation_fn="Softmax"),
    }


def settings_of(folders: dict[str, Path], *names: str, **more: Any) -> list[ModelSettings]:
    common = {"lanes": 1, "tune": False, "max_context_length": 32} | more
    return [ModelSettings(name=name, path=str(folders[name]), **common) for name in names]


@pytest.fixture
async def client(open_app: Any, folders: dict[str, Path]) -> AsyncIterator[Any]:
    """With one model of dense vectors."""
    (model,) = settings_of(folders, "bert", prompts={"query": "the query "})
    async with open_app(model=model) as opened:
        yield opened


@pytest.fixture
async def every(open_app: Any, folders: dict[str, Path]) -> AsyncIterator[Any]:
    """With a model of each kind."""
    model, *models = settings_of(folders, *folders)
    async with open_app(model=model, models=models) as opened:
        yield opened


async def ask(client: Any, path: str, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def vectors(client: Any, **body: Any) -> Any:
    answer = await ask(client, "/v1/embeddings", **{"model": "bert", "input": TEXTS} | body)
    return [each["embedding"] for each in answer["data"]]


async def refusal(client: Any, path: str, status: int = 400, **body: Any) -> tuple[str, str]:
    response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    answer = response.json()
    assert set(answer) == {"error", "error_type"}
    return answer["error_type"], answer["error"]


@pytest.mark.parametrize("path", ["/embed", "/"])
async def test_vectors_are_those_of_v1_and_always_nested(client: Any, path: str) -> None:
    assert await ask(client, path, inputs=TEXTS) == await vectors(client)
    assert await ask(client, path, inputs=TEXTS[0]) == (await vectors(client))[:1]
    assert await ask(client, path, inputs=TEXTS, dimensions=8) == await vectors(client, dimensions=8)
    assert await ask(client, path, inputs=TEXTS, normalize=False) == await vectors(client, normalize=False)
    assert await ask(client, path, inputs=TEXTS, prompt_name="query") == await vectors(client, prompt_name="query")
    assert await ask(client, path, inputs=TEXTS, parameters={"normalize": False}) == await vectors(
        client, normalize=False
    )


@pytest.mark.parametrize(("direction", "side"), [(None, "END"), ("Right", "END"), ("right", "END"), ("Left", "START")])
async def test_what_is_too_long_is_cut_where_asked_and_counted_in_a_header(
    client: Any, direction: str | None, side: str
) -> None:
    body = {"inputs": ["a", f"dog {LONG} mat"], "truncate": True, "truncation_direction": direction}
    response = await client.post("/embed", json=body)
    assert response.headers["x-truncated-inputs"] == "1"
    assert response.json() == await vectors(client, input=body["inputs"], truncate=side)
    assert (await refusal(client, "/embed", inputs=LONG))[0] == "Validation"
    assert "'inputs[1]'" in (await refusal(client, "/embed", inputs=["a", LONG], truncate=False))[1]


async def test_the_models_own_way_to_truncate_holds_and_a_direction_turns_it(
    open_app: Any, folders: dict[str, Path]
) -> None:
    (model,) = settings_of(folders, "bert", truncate="end")
    async with open_app(model=model) as client:
        text = f"dog {LONG} mat"
        for direction, side in ((None, "END"), ("Left", "START")):
            answer = await ask(client, "/embed", inputs=text, truncation_direction=direction)
            assert answer == await vectors(client, input=[text], truncate=side)
        assert (await client.get("/info")).json()["auto_truncate"] is True
        assert (await refusal(client, "/embed", inputs=text, truncate=False))[0] == "Validation"


async def test_token_ids_are_read_as_the_model_is_configured(open_app: Any, folders: dict[str, Path]) -> None:
    (model,) = settings_of(folders, "bert", token_input="native")
    async with open_app(model=model, limits=LimitSettings(max_request_tokens=8)) as client:
        assert "max 8 tokens" in (await refusal(client, "/tokenize", inputs=TEXTS * 2))[1]
        for ids in ([2, 5, 6, 3], [[2, 5, 6, 3], [2, 7, 3]]):
            assert await ask(client, "/embed", inputs=ids) == await vectors(client, input=ids)


async def test_options_of_a_hosted_model_change_nothing(client: Any) -> None:
    """As Weaviate's text2vec-huggingface and LangChain's class for Hugging Face's API send them."""
    options = {"use_cache": True, "wait_for_model": True, "use_gpu": False}
    for given in (options, {}, None):
        assert await ask(client, "/", inputs=TEXTS, options=given) == await ask(client, "/", inputs=TEXTS)


async def test_similarities_are_cosines(client: Any) -> None:
    source, *others = np.array(await vectors(client, input=["a cat", *TEXTS]))
    body = {"inputs": {"source_sentence": "a cat", "sentences": TEXTS}}
    for path in ("/similarity", "/embed", "/"):
        np.testing.assert_allclose(await ask(client, path, **body), np.array(others) @ source, atol=1e-6)
    wrong = {"source_sentence": "a", "sentences": ["a", ""]}
    assert "'inputs.sentences[1]'" in (await refusal(client, "/similarity", inputs=wrong))[1]
    long = {"source_sentence": "a", "sentences": ["a", LONG]}
    assert "'inputs.sentences[1]'" in (await refusal(client, "/similarity", inputs=long))[1]
    response = await client.post("/similarity", json={"inputs": long, "parameters": {"truncate": True}})
    assert (response.status_code, response.headers["x-truncated-inputs"]) == (200, "1")
    assert (await refusal(client, "/similarity", inputs=TEXTS))[0] == "Validation"


async def test_sparse_and_token_vectors_are_those_of_v1(every: Any) -> None:
    expected = await ask(every, "/v1/embeddings", model="splade", input=TEXTS, output_types=["sparse"])
    for found, entry in zip(await ask(every, "/embed_sparse", inputs=TEXTS), expected["data"], strict=True):
        assert [each["index"] for each in found] == entry["sparse"]["indices"]
        assert [each["value"] for each in found] == entry["sparse"]["values"]
    expected = await ask(every, "/v1/embeddings", model="colbert", input=TEXTS, output_types=["multi_vector"])
    assert await ask(every, "/embed_all", inputs=TEXTS) == [each["multi_vector"] for each in expected["data"]]


async def test_documents_are_ranked_by_texts(every: Any) -> None:
    expected = await ask(every, "/v1/rerank", model="reranker", query="a cat", documents=TEXTS)
    for path in ("/rerank", "/"):
        found = await ask(every, path, query="a cat", texts=TEXTS, return_text=True, truncate=True)
        assert [(each["index"], each["score"]) for each in found] == [
            (each["index"], each["relevance_score"]) for each in expected["results"]
        ]
        assert [each["text"] for each in found] == [TEXTS[each["index"]] for each in found]
        assert "'texts[0]'" in (await refusal(every, path, query="a", texts=[LONG]))[1]
    # Elasticsearch's words, at the URL that it is given.
    found = await ask(every, "/", documents=TEXTS, query="a cat", return_documents=True, top_n=1, max_chunks_per_doc=1)
    (best,) = [(each["index"], each["relevance_score"]) for each in expected["results"]][:1]
    assert found == [{"index": best[0], "score": best[1], "text": TEXTS[best[0]]}]
    assert "'documents[0]'" in (await refusal(every, "/", query="a", documents=[LONG]))[1]


async def test_the_end_that_ranking_cuts_may_be_said_alone(open_app: Any, folders: dict[str, Path]) -> None:
    body = {"query": "a", "texts": [f"cat {LONG} dog", f"dog {LONG} cat"]}
    (model,) = settings_of(folders, "reranker")
    async with open_app(model=model) as client:
        cut = {side: await ask(client, "/rerank", **body, truncate=True, truncation_direction=side) for side in SIDES}
        short = {"query": "a", "texts": TEXTS}
        for side in SIDES:
            assert await ask(client, "/rerank", **short, truncation_direction=side) == await ask(
                client, "/rerank", **short
            )
    assert cut["Left"] != cut["right"]
    (model,) = settings_of(folders, "reranker", truncate="end")
    async with open_app(model=model) as client:
        for side in SIDES:
            found = await ask(client, "/rerank", **body, truncation_direction=side)
            # Each load measures which library multiplies fastest, and they round differently.
            assert [each["index"] for each in found] == [each["index"] for each in cut[side]]
            assert [each["score"] for each in found] == pytest.approx([each["score"] for each in cut[side]], abs=1e-6)


async def test_labels_come_with_their_scores_the_highest_first(every: Any) -> None:
    expected = (await ask(every, "/v1/classify", model="classifier", input=TEXTS))["data"]
    several = await ask(every, "/predict", model="classifier", inputs=[[each] for each in TEXTS])
    for found, entry in zip(several, expected, strict=True):
        assert sorted((each["score"] for each in found), reverse=True) == [each["score"] for each in found]
        assert found[0]["label"] == entry["label"]
        assert sorted(each["score"] for each in found) == sorted(entry["probs"])
    one = await ask(every, "/predict", model="classifier", inputs=TEXTS[0])
    assert one == several[0] == await ask(every, "/predict", model="classifier", inputs=TEXTS[:1])
    pair = await ask(every, "/v1/classify", model="classifier", input=[TEXTS])
    found = await ask(every, "/predict", model="classifier", inputs=TEXTS)
    assert sorted(each["score"] for each in found) == sorted(pair["data"][0]["probs"])
    logits = await ask(every, "/v1/classify", model="classifier", input=TEXTS[:1], raw_scores=True)
    found = await ask(every, "/predict", model="classifier", inputs=TEXTS[0], raw_scores=True)
    assert sorted(each["score"] for each in found) == sorted(logits["data"][0]["probs"])


async def test_predict_says_what_it_reads(client: Any) -> None:
    for inputs in (None, [["a"], ["a", "b"]], ["a", "b", "c"], [[]], [["a", "b", "c"]], ["a", ["b"]]):
        error_type, message = await refusal(client, "/predict", inputs=inputs)
        assert (error_type, "'inputs'" in message) == ("Validation", True)


async def test_the_root_answers_as_the_path_of_the_models_kind(open_app: Any, folders: dict[str, Path]) -> None:
    for name, path in (("splade", "/embed_sparse"), ("classifier", "/predict"), ("reranker", "/predict")):
        (model,) = settings_of(folders, name)
        async with open_app(model=model) as client:
            assert await ask(client, "/", inputs=TEXTS[0]) == await ask(client, path, inputs=TEXTS[0])


async def test_tokens_have_places_in_their_text_and_ids_are_decoded(client: Any) -> None:
    first, second = await ask(client, "/tokenize", inputs=TEXTS)
    for row, text in ((first, TEXTS[0]), (second, TEXTS[1])):
        assert [each["special"] for each in row] == [True, *[False] * (len(row) - 2), True]
        for each in row[1:-1]:
            assert each["text"] == text[each["start"] : each["stop"]]
        assert (row[0]["start"], row[0]["stop"]) == (None, None)
    without = await ask(client, "/tokenize", inputs=TEXTS[0], add_special_tokens=False)
    assert [each["id"] for each in without[0]] == [each["id"] for each in first[1:-1]]
    prompted = await ask(client, "/tokenize", inputs=TEXTS[0], prompt_name="query")
    assert len(prompted[0]) > len(first)
    ids = [each["id"] for each in first]
    assert await ask(client, "/decode", ids=ids) == [TEXTS[0]]
    assert await ask(client, "/decode", ids=[ids, ids[1:2]]) == [TEXTS[0], first[1]["text"]]
    assert first[0]["text"] in (await ask(client, "/decode", ids=ids, skip_special_tokens=False))[0]
    assert "'ids'" in (await refusal(client, "/decode", ids=[]))[1]
    error_type, message = await refusal(client, "/decode", ids=[ids, [10**6]])
    assert error_type == "Tokenizer"
    assert "'ids[1]'" in message
    assert "'inputs[1]'" in (await refusal(client, "/tokenize", inputs=["a", "a" * 1_000_001]))[1]


async def test_info_says_model_and_limits(every: Any) -> None:
    info = (await every.get("/info")).json()
    assert (info["model_id"], info["max_input_length"], info["max_client_batch_size"]) == ("bert", 32, 2048)
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (info["auto_truncate"], info["model_dtype"]) == (False, "float32")
    kinds = {
        name: (await every.get(f"/info?model={name}")).json()["model_type"]
        for name in ("splade", "reranker", "classifier")
    }
    assert kinds["splade"] == {"embedding": {"pooling": "splade"}}
    assert set(kinds["reranker"]) == {"reranker"}
    assert list(kinds["classifier"]["classifier"]["id2label"]) == ["0", "1", "2"]
    assert (await every.get("/info?model=nope")).json()["error_type"] == "Validation"


async def test_of_several_models_that_could_answer_one_must_be_named(open_app: Any, folders: dict[str, Path]) -> None:
    (model,) = settings_of(folders, "bert")
    async with open_app(model=model, models=[ModelSettings(name="other", path=model.path, lanes=1)]) as client:
        assert "which one is meant is not clear" in (await refusal(client, "/embed", inputs="a"))[1]
        assert await ask(client, "/embed", inputs=TEXTS, model="other") == await vectors(client)
        assert (await refusal(client, "/embed", 404, inputs="a", model="nope"))[0] == "Validation"


async def test_wrong_bodies_are_told_in_teis_shape(client: Any) -> None:
    for body, says in WRONG:
        error_type, message = await refusal(client, "/embed", **body)
        assert says in message, body
        is_empty = body.get("inputs") == [] or "'inputs.sentences': the array is empty" in message
        assert error_type == ("Empty" if is_empty else "Validation")


async def test_unknown_paths_and_methods_are_told_in_teis_shape(client: Any) -> None:
    for method, path, status in (("GET", "/embed", 405), ("POST", "/embed/more", 404), ("DELETE", "/", 405)):
        response = await client.request(method, path)
        assert (response.status_code, set(response.json())) == (status, {"error", "error_type"})


async def test_what_the_service_cannot_do_now_is_told_in_teis_shape(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging(LogSettings(format="json"))
    raised: list[Exception] = []

    async def fails(*_: Any, **__: Any) -> None:
        raise raised[-1]

    monkeypatch.setattr(client.app.state.service, "embed", fails)
    for exc, status, error_type in (
        (errors.Overloaded("it is full", retry_after_seconds=7), 429, "Overloaded"),
        (errors.ModelLoading("it loads", retry_after_seconds=7), 503, "Unhealthy"),
        (errors.EmbeddingFailed("it failed"), 500, "Backend"),
        (RuntimeError("secret"), 500, "Backend"),
    ):
        raised.append(exc)
        response = await client.post("/embed", json={"inputs": "a"})
        assert (response.status_code, response.json()["error_type"]) == (status, error_type)
        assert response.headers.get("retry-after") == ("7" if status in {429, 503} else None)
        assert "secret" not in response.text


async def test_its_bodies_at_shared_paths_are_refused_where_it_is_off(open_app: Any) -> None:
    async with open_app(dialects=DialectSettings(tei=False), wait=False) as client:
        for path, body in (("/rerank", {"query": "a", "texts": ["b"]}), ("/embed", {"inputs": "a"})):
            assert "dialects: {tei: true}" in (await refusal(client, path, 404, **body))[1]
        assert "texts" in (await client.post("/embed", json={})).json()["message"]
    async with open_app(dialects=DialectSettings(cohere=False), wait=False) as client:
        response = await client.post("/embed", json={"texts": ["a"]})
        assert (response.status_code, "dialects: {cohere: true}" in response.json()["message"]) == (404, True)


async def test_a_key_may_do_no_more_here_than_on_v1(open_app: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    model, *models = settings_of(folders, "bert", "reranker")
    file = tmp_path / "keys"
    file.write_text("embedder-key name=embedder tasks=embed\nreranker-key name=reranker tasks=rerank\n")
    file.chmod(0o600)
    async with open_app(model=model, models=models, auth=AuthSettings(keys_file=str(file))) as client:
        headers = {"authorization": "Bearer embedder-key"}
        assert (await client.post("/embed", json={"inputs": "a"})).status_code == 401
        assert (await client.get("/info")).status_code == 401
        assert (await client.post("/embed", json={"inputs": "a"}, headers=headers)).status_code == 200
        for path in ("/rerank", "/"):
            response = await client.post(path, json={"query": "a", "texts": ["b"]}, headers=headers)
            assert (response.status_code, "scopes: rerank" in response.text) == (403, True)
            allowed = await client.post(
                path, json={"query": "a", "texts": ["b"]}, headers={"authorization": "Bearer reranker-key"}
            )
            assert allowed.status_code == 200, allowed.text


async def test_a_key_for_classifying_is_enough_where_the_model_decides(open_app: Any, folders: dict[str, Path]) -> None:
    (model,) = settings_of(folders, "classifier")
    async with open_app(model=model, auth=AuthSettings(keys=["a tasks=classify", "b tasks=embed"])) as client:
        for key, status in (("a", 200), ("b", 403)):
            response = await client.post("/", json={"inputs": "a"}, headers={"authorization": f"Bearer {key}"})
            assert response.status_code == status, response.text
