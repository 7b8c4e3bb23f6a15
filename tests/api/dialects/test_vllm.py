"""vLLM's pooling and its tokenizer over HTTP."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from provider.settings import AuthSettings, ModelSettings
from provider.testing.tiny import tiny_bert, tiny_classifier, tiny_multi_vector

TEXTS = ["the cat", "the dog sits"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ModelSettings]:
    folder = tmp_path_factory.mktemp("models")
    folders = [tiny_multi_vector(folder / "colbert"), tiny_classifier(folder / "labels", "bert", labels=3)]
    return [ModelSettings(name=path.name, path=str(path), backend="fake", lanes=1, tune=False) for path in folders]


@pytest.fixture
async def client(open_app: Any, models: list[ModelSettings]) -> AsyncIterator[Any]:
    async with open_app(models=models) as opened:
        yield opened


async def post(client: Any, path: str, status: int = 200, **body: Any) -> Any:
    response = await client.post(path, json={"model": "org/model", "input": TEXTS} | body)
    assert response.status_code == status, response.text
    return response.json()


async def pool(client: Any, **body: Any) -> list[Any]:
    answer = await post(client, "/pooling", **body)
    assert [each["index"] for each in answer["data"]] == [0, 1]
    assert {each["object"] for each in answer["data"]} == {"pooling"}
    assert answer["usage"]["prompt_tokens"] > 0
    assert answer["id"].startswith("pool-")
    return [each["data"] for each in answer["data"]]


async def test_each_task_has_the_numbers_of_its_own_route(client: Any) -> None:
    answer = await post(client, "/v1/embeddings")
    for task in (None, "embed"):
        assert await pool(client, task=task) == [each["embedding"] for each in answer["data"]]
    answer = await post(client, "/v1/embeddings", model="colbert", output_types="multi_vector")
    for task in (None, "token_embed"):
        assert await pool(client, model="colbert", task=task) == [each["multi_vector"] for each in answer["data"]]
    answer = await post(client, "/v1/classify", model="labels")
    for task in (None, "classify"):
        assert await pool(client, model="labels", task=task) == [each["probs"] for each in answer["data"]]


async def test_fields_are_those_of_v1_embeddings(client: Any) -> None:
    for body in ({"dimensions": 4}, {"encoding_format": "base64"}, {"embed_dtype": "int8"}, {"use_activation": False}):
        answer = await post(client, "/v1/embeddings", **body)
        assert await pool(client, **body) == [each["embedding"] for each in answer["data"]]


async def test_what_is_not_served_is_refused(client: Any) -> None:
    wrong: list[tuple[dict[str, Any], str | None]] = [
        ({"task": "token_classify"}, "task"),
        ({"task": "token_embed"}, "model"),
        ({"task": "token_embed", "encoding_format": "base64"}, "encoding_format"),
        ({"task": "classify"}, "model"),
        ({"task": "embed", "model": "labels"}, "model"),
        ({"input": [], "task": "embed"}, "input"),
        ({"task": "embed", "output_types": "sparse"}, "output_types"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"model": ""}, None),
    ]
    for body, param in wrong:
        error = (await post(client, "/pooling", 400, **body))["error"]
        assert error["param"] == param


async def test_a_key_may_do_no_more_here_than_on_v1(open_app: Any, models: list[ModelSettings]) -> None:
    async with open_app(models=models, auth=AuthSettings(keys=["a tasks=embed", "b tasks=classify"])) as client:
        for key, model, status in (
            ("a", "org/model", 200),
            ("a", "labels", 403),
            ("b", "org/model", 403),
            ("b", "labels", 200),
        ):
            headers = {"authorization": f"Bearer {key}"}
            response = await client.post("/pooling", json={"model": model, "input": "a"}, headers=headers)
            assert response.status_code == status, response.text


async def test_a_text_becomes_the_tokens_that_usage_counts_and_a_text_again(client: Any) -> None:
    usage = (await post(client, "/v1/embeddings", input=TEXTS[1]))["usage"]
    shown = await post(client, "/tokenize", input=None, prompt=TEXTS[1])
    assert (shown["count"], shown["token_strs"]) == (usage["prompt_tokens"], None)
    assert shown["max_model_len"] == (await client.get("/info?model=org/model")).json()["max_input_length"]
    bare = await post(
        client, "/tokenize", input=None, prompt=TEXTS[1], add_special_tokens=False, return_token_strs=True
    )
    assert (bare["tokens"], bare["token_strs"]) == (shown["tokens"][1:-1], TEXTS[1].split())
    of_tei = await post(client, "/tokenize", input=None, inputs=TEXTS[1])
    assert [each["id"] for each in of_tei[0]] == shown["tokens"]
    assert await post(client, "/detokenize", input=None, tokens=bare["tokens"]) == {"prompt": TEXTS[1]}
    whole = (await post(client, "/detokenize", input=None, tokens=shown["tokens"]))["prompt"]
    assert whole.startswith(of_tei[0][0]["text"])
    assert TEXTS[1] in whole
    assert await post(client, "/detokenize", input=None, tokens=[]) == {"prompt": ""}


async def test_a_prompt_behind_the_models_name_is_among_the_tokens(open_app: Any, tmp_path: Path) -> None:
    path = str(tiny_bert(tmp_path / "e5", prompts={"query": "the cat "}))
    async with open_app(models=[ModelSettings(name="e5", path=path, backend="fake", lanes=1, tune=False)]) as client:
        plain = await post(client, "/tokenize", input=None, model="e5", prompt="the cat sits")
        assert await post(client, "/tokenize", input=None, model="e5:query", prompt="sits") == plain
        of_tei = await post(client, "/tokenize", input=None, model="e5:query", inputs="sits")
        assert [each["id"] for each in of_tei[0]] == plain["tokens"]
        await post(client, "/tokenize", 404, input=None, model="e5:nope", prompt="sits")


async def test_what_the_tokenizer_cannot_do_is_refused_in_the_shape_of_the_body(client: Any) -> None:
    wrong: list[tuple[str, dict[str, Any], str | None]] = [
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ("/tokenize", {"prompt": "a" * 1_000_001}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": ""}, None),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [[5]]}, "tokens[0]"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
    ]
    for path, body, param in wrong:
        error = (await post(client, path, 400, input=None, **body))["error"]
        assert error["param"] == param
    assert "error_type" in await post(client, "/tokenize", 400, input="a")
