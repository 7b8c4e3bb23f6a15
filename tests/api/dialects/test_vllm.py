"""vLLM's pooling over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from provider.settings import AuthSettings, ModelSettings
from provider.testing.tiny import tiny_classifier, tiny_multi_vector

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
