"""A request's own limit of tokens: inputs are cut to it in every API, counted exactly, and reported."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from provider.settings import ModelSettings
from provider.testing.tiny.classifiers import tiny_classifier

MODEL, CROSS = "org/model", "reranker"
LONG = "word " * 400
# What is left of it where ten tokens stay: two are special.
KEPT = "word " * 8


@pytest.fixture
async def client(open_app: Any, model: ModelSettings, tmp_path: Path) -> AsyncIterator[Any]:
    folder = tiny_classifier(tmp_path / "m", "bert")
    cross = ModelSettings(name=CROSS, path=str(folder), lanes=1, max_context_length=64, tune=False)
    async with open_app(models=[cross]) as opened:
        yield opened


async def ask(client: Any, path: str, status: int = 200, **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    return response


@pytest.mark.parametrize(
    ("path", "field", "more"),
    [
        ("/v1/embeddings", "input", {"truncate_prompt_tokens": 10}),
        ("/v1/embeddings", "input", {"max_tokens": 10}),
        ("/v1/embeddings", "input", {"max_tokens": 10.0, "truncate": True}),
        ("/v1/embeddings", "input", {"truncate_input_tokens": 10, "encoding_format": "base64"}),
        ("/openai/deployments/org/model/embeddings", "input", {"truncate_prompt_tokens": 10}),
        ("/pooling", "input", {"truncate_prompt_tokens": 10, "task": "embed"}),
        ("/v2/embed", "texts", {"max_tokens": 10, "input_type": "search_document", "embedding_types": ["float"]}),
        ("/v2/embed", "texts", {"max_tokens": 10, "truncate": "END", "input_type": "search_document"}),
        ("/api/embed", "input", {"options": {"num_ctx": 10}}),
        ("/embed", "inputs", {"max_tokens": 10}),
        ("/embed", "inputs", {"truncate_prompt_tokens": 10, "truncation_direction": "Right"}),
    ],
)
async def test_inputs_are_cut_to_it(client: Any, path: str, field: str, more: dict[str, Any]) -> None:
    def vectors(answer: Any) -> Any:
        found = answer.json()
        if isinstance(found, list):
            return found
        return (
            found["embeddings"]
            if "embeddings" in found
            else [each.get("embedding") or each["data"] for each in found["data"]]
        )

    model = {"model": MODEL}
    cut = await ask(client, path, **model, **{field: ["a", LONG]}, **more)
    kept = await ask(client, path, **model, **{field: ["a", KEPT]}, **more)
    assert vectors(cut) == vectors(kept)
    assert (cut.headers["x-truncated-inputs"], kept.headers.get("x-truncated-inputs")) == ("1", None)
    if path == "/v1/embeddings":
        assert cut.json()["usage"]["prompt_tokens"] == 3 + 10
        assert cut.json()["truncated"] == [{"index": 1, "kept_tokens": 10, "original_tokens": 402}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rerank", {"query": "cat", "documents": ["dog", LONG]}),
        ("/v1/score", {"text_1": "cat", "text_2": ["dog", LONG]}),
        ("/v1/classify", {"input": ["dog", LONG]}),
        ("/predict", {"inputs": [["cat", "dog"], ["cat", LONG]]}),
        ("/rerank", {"query": "cat", "texts": ["dog", LONG]}),
    ],
)
@pytest.mark.parametrize("more", [{"truncate_prompt_tokens": 12}, {"max_tokens": 12}])
async def test_pairs_are_cut_to_it(client: Any, path: str, body: dict[str, Any], more: dict[str, Any]) -> None:
    answer = await ask(client, path, model=CROSS, **body, **more)
    assert answer.headers["x-truncated-inputs"] == "1"
    found = answer.json()
    if isinstance(found, dict):
        assert [(each["index"], each["kept_tokens"]) for each in found["truncated"]] == [(1, 12)]


async def test_start_and_prompt_stay_as_they_are_asked_for(client: Any) -> None:
    text = "one two three four five six seven"
    fields = {"model": MODEL, "truncate_prompt_tokens": 5}
    left = (await ask(client, "/v1/embeddings", input=text, **fields, truncation_side="left")).json()
    end = (await ask(client, "/v1/embeddings", input="five six seven", model=MODEL)).json()
    assert left["data"] == end["data"]
    assert left["usage"]["prompt_tokens"] == 5
    prompted = (await ask(client, "/v1/embeddings", input=text, prompt="four ", truncate="START", **fields)).json()
    kept = (await ask(client, "/v1/embeddings", input="six seven", prompt="four ", model=MODEL)).json()
    assert prompted["data"] == kept["data"]


async def test_more_than_the_model_takes_is_what_it_takes(client: Any) -> None:
    answer = (await ask(client, "/v1/embeddings", model=MODEL, input=LONG, truncate_prompt_tokens=1000)).json()
    assert answer["truncated"] == [{"index": 0, "kept_tokens": 256, "original_tokens": 402}]


async def test_it_is_an_error_where_nothing_may_be_cut_and_where_no_text_would_be_left(client: Any) -> None:
    for path, body in (
        ("/v1/embeddings", {"model": MODEL, "input": ["a", KEPT], "max_tokens": 5, "truncate": False}),
        ("/v1/score", {"model": CROSS, "text_1": "a", "text_2": ["b", KEPT], "max_tokens": 8, "truncate": False}),
    ):
        error = (await ask(client, path, 400, **body)).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert f"'max_tokens' allows {body['max_tokens']} tokens, however" in error["message"]
    error = (await ask(client, "/v1/embeddings", 400, model=MODEL, input="a", max_tokens=2)).json()["error"]
    assert error["param"] == "max_tokens"
    assert "2 leave no room for text, as this model adds 2. Send 3 or more." in error["message"]
