"""Prompts for clients that can send a model's name and no other field."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from provider.settings import ModelSettings
from provider.testing.tiny import tiny_bert
from provider.testing.tiny.classifiers import tiny_classifier

PROMPTS = {"query": "query: ", "passage": "passage: ", "STS": "same? "}


@pytest.fixture
async def client(tmp_path: Path, open_app: Any) -> AsyncIterator[httpx.AsyncClient]:
    def settings(name: str, folder: Path, **more: Any) -> ModelSettings:
        return ModelSettings(name=name, path=str(folder), backend="torch", tune=False, **more)

    plain = tiny_bert(tmp_path / "plain")
    models = [
        settings("plain", plain),
        settings("e5", plain, repo="intfloat/e5-small-v2"),
        settings("reranker", tiny_classifier(tmp_path / "reranker")),
    ]
    model = settings("org/m", tiny_bert(tmp_path / "m", prompts=PROMPTS), aliases=["alias"])
    async with open_app(model=model, models=models) as opened:
        yield opened


async def embed(client: httpx.AsyncClient, model: str, **fields: Any) -> Any:
    answer = await client.post("/v1/embeddings", json={"model": model, "input": "hello", **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    return answer.json()["data"][0]["embedding"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("org/m:query", {"prompt_name": "query"}),
        ("org/m:passage", {"prompt_name": "passage"}),
        ("org/m:document", {"prompt_name": "passage"}),
        ("org/m:search_query", {"prompt_name": "query"}),
        ("alias:STS", {"prompt_name": "STS"}),
    ],
)
async def test_the_name_asks_for_what_a_field_does(client: Any, name: str, fields: dict[str, str]) -> None:
    vector = await embed(client, name)
    assert vector == await embed(client, "org/m", **fields)
    assert vector != await embed(client, "org/m")
    found = (await client.get(f"/v1/models/{name}")).json()
    assert (found["id"], found["root"]) == (name, "org/m")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("org/m:nope", "org/m:STS, org/m:document, org/m:passage, org/m:query"),
        ("alias:", "alias:STS, alias:document, alias:passage, alias:query"),
        ("plain:query", "none"),
        ("reranker:query", "none"),
    ],
)
async def test_an_unknown_prompt_is_404_that_names_the_known_ones(client: Any, name: str, known: str) -> None:
    for answer in (
        await client.post("/v1/embeddings", json={"model": name, "input": "hello"}),
        await client.post("/v1/rerank", json={"model": name, "query": "a", "documents": ["b"]}),
        await client.get(f"/v1/models/{name}"),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert error["message"].endswith(f"Names with a prompt are: {known}.")


@pytest.mark.parametrize(
    "fields", [{"input_type": "document"}, {"prompt_name": "passage"}, {"prompt": "other: "}], ids=str
)
async def test_fields_that_contradict_the_name_are_an_error(client: Any, fields: dict[str, str]) -> None:
    (option,) = fields
    answer = await client.post("/v1/embeddings", json={"model": "org/m:query", "input": "hello", **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, option)
    await embed(client, "org/m:query", input_type="search_query")


async def test_a_model_whose_prompts_nobody_asks_for_says_so_once(client: Any) -> None:
    await embed(client, "org/m:query")
    before = (await client.get("/v1/models/org/m")).json()["notices"]
    for text in ("one", "two"):
        await embed(client, "org/m", input=text)
    after = (await client.get("/v1/models/org/m")).json()["notices"]
    (notice,) = set(after) - set(before)
    assert "none of the model's prompts (STS, passage, query)" in notice
    assert "org/m:query" in notice
    await embed(client, "plain")
    assert not any("prompts" in each for each in (await client.get("/v1/models/plain")).json()["notices"])


async def test_prompts_of_the_card_are_shown_and_asked_for_by_name(client: Any) -> None:
    found = (await client.get("/v1/models/e5")).json()
    assert (found["prompts"], found["recipe"]) == ([], {"query": "query: ", "document": "passage: "})
    assert await embed(client, "e5:query") == await embed(client, "e5", prompt="query: ")
    assert await embed(client, "intfloat/e5-small-v2:passage") == await embed(client, "e5", prompt="passage: ")
    assert await embed(client, "e5") == await embed(client, "plain")
    assert "model.prompts: recipe" in str((await client.get("/v1/models/e5")).json()["notices"])
    assert (await client.get("/v1/models/plain")).json()["recipe"] is None
