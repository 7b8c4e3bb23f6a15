"""Cohere's embed over HTTP, both versions."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provider.settings import ModelSettings

MODEL = "org/model"
TEXTS = ["the cat", "the dog"]
LONG = "word " * 600


async def expected(client: Any, **body: Any) -> Any:
    answer = (await client.post("/v1/embeddings", json={"model": MODEL, "input": TEXTS} | body)).json()
    return [each["embedding"] for each in answer["data"]]


async def embed(client: Any, status: int = 200, path: str = "/v2/embed", **body: Any) -> Any:
    response = await client.post(path, json={"model": MODEL, "texts": TEXTS, "input_type": "search_document"} | body)
    assert response.status_code == status, response.text
    return response.json()


async def test_version_2_answers_by_type(client: Any) -> None:
    for types in (None, ["float"]):
        answer = await embed(client, embedding_types=types, output_dimension=5, truncate=None)
        assert answer["embeddings"] == {"float": await expected(client, dimensions=5)}
        assert (answer["response_type"], answer["texts"]) == ("embeddings_by_type", TEXTS)
        assert answer["meta"]["api_version"] == {"version": "2"}
        assert answer["meta"]["billed_units"] == {"input_tokens": 8}
        assert "warnings" not in answer["meta"]
        assert answer["id"]


async def test_version_1_answers_a_bare_list_unless_types_are_named(client: Any) -> None:
    vectors = await expected(client)
    for path in ("/v1/embed", "/embed"):
        bare = await embed(client, path=path)
        assert (bare["embeddings"], bare["response_type"]) == (vectors, "embeddings_floats")
        typed = await embed(client, path=path, embedding_types=["float"])
        assert (typed["embeddings"], typed["response_type"]) == ({"float": vectors}, "embeddings_by_type")
        assert typed["meta"]["api_version"] == {"version": "1"}


async def test_several_types_come_in_one_answer(client: Any) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary"]
    answer = await embed(client, embedding_types=[*types, "base64"])
    for each in types:
        assert answer["embeddings"][each] == await expected(client, output_dtype=each)
    decoded = [np.frombuffer(base64.b64decode(each), "<f4") for each in answer["embeddings"]["base64"]]
    np.testing.assert_array_equal(np.array(decoded), np.array(answer["embeddings"]["float"], np.float32))
    assert answer["quantization"]["name"]


async def test_inputs_with_one_text_each_are_texts(client: Any) -> None:
    inputs = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
    assert (await embed(client, texts=None, inputs=inputs))["embeddings"]["float"] == await expected(client)
    error = await embed(
        client, 400, texts=None, inputs=[*inputs, {"content": [{"type": "text", "text": LONG}]}], truncate="NONE"
    )
    assert error["message"].startswith("Invalid 'inputs[2]'")


async def test_what_is_too_long_is_cut_and_that_is_told(client: Any) -> None:
    for truncate in (None, "END", "START"):
        answer = await embed(client, texts=["a", LONG], truncate=truncate)
        assert answer["embeddings"]["float"][1:] == await expected(client, input=[LONG], truncate=truncate or "END")
        assert [each["index"] for each in answer["truncated"]] == [1]
        (warning,) = answer["meta"]["warnings"]
        assert warning.startswith("1 of 2 texts")


async def test_truncate_none_makes_it_an_error(client: Any) -> None:
    error = await embed(client, 400, texts=["a", LONG], truncate="NONE")
    assert sorted(error) == ["id", "message"]
    assert error["message"].startswith("Invalid 'texts[1]'")
    assert '"truncate": "END"' in error["message"]


async def test_what_cannot_be_honoured_is_refused(client: Any) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"texts": None}, "'texts'"),
        ({"texts": []}, "'texts'"),
        ({"texts": ["a", ""]}, "texts[1]"),
        ({"texts": "a"}, "'texts'"),
        ({"inputs": []}, "'inputs' contradicts 'texts'"),
        ({"texts": None, "inputs": [{"content": [{"type": "image_url"}]}]}, "inputs[0]"),
        ({"images": ["data:x"]}, "images"),
        ({"embedding_types": ["float", "fp4"]}, "'fp4'"),
        ({"truncate": "MIDDLE"}, "'MIDDLE'"),
        ({"output_dimension": 0}, "output_dimension"),
        ({"output_dimension": 10_000}, "output_dimension"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2}, "max_tokens"),
        ({"model": None}, "model"),
    ]
    for body, words in wrong:
        error = await embed(client, 400, **body)
        assert sorted(error) == ["id", "message"]
        assert words in error["message"]


@pytest.mark.parametrize("path", ["/v2/chat", "/v2/embed/more"])
async def test_what_is_not_served_below_version_2_is_told_in_its_shape(client: Any, path: str) -> None:
    response = await client.post(path, json={})
    assert response.status_code == 404
    assert {*response.json()} == {"id", "message"}


async def test_an_error_has_the_requests_id(client: Any) -> None:
    body = {"model": "nope", "texts": TEXTS}
    response = await client.post("/v2/embed", json=body, headers={"x-request-id": "my-trace-7"})
    assert (response.status_code, response.json()["id"]) == (404, "my-trace-7")


@pytest.fixture
async def prompted(open_app: Any, minilm: Path) -> AsyncIterator[Any]:
    prompts = {"query": "query: ", "passage": "passage: ", "classification": "class: "}
    model = ModelSettings(name=MODEL, path=str(minilm), backend="fake", lanes=1, prompts=prompts)
    async with open_app(model=model) as client:
        yield client


async def test_the_input_type_chooses_the_models_prompt(prompted: Any) -> None:
    prompts = {"search_query": "query: ", "search_document": "passage: ", "classification": "class: ", None: ""}
    for input_type, prompt in prompts.items():
        answer = await embed(prompted, input_type=input_type)
        assert answer["embeddings"]["float"] == await expected(prompted, input=[prompt + text for text in TEXTS])
    # It means nothing to a model with prompts, and would give other vectors than were asked for.
    assert "'clustering'" in (await embed(prompted, 400, input_type="clustering"))["message"]
