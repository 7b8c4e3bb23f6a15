"""Azure OpenAI's API over HTTP."""

from typing import Any

import pytest

from provider.settings import AuthSettings

MODEL = "org/model"
TEXTS = ["the cat", "the dog"]


@pytest.mark.parametrize("name", [MODEL, "org%2Fmodel", "text-embedding-3-small"])
@pytest.mark.parametrize("base", ["/openai/deployments", "/openai/v1/deployments", "/v1/engines", "/v1/deployments"])
async def test_the_deployment_is_the_model_whatever_the_body_says(client: Any, base: str, name: str) -> None:
    expected = (await client.post("/v1/embeddings", json={"model": MODEL, "input": TEXTS})).json()
    for body in ({"input": TEXTS}, {"input": TEXTS, "model": "another"}):
        response = await client.post(f"{base}/{name}/embeddings?api-version=2024-10-21", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["data"] == expected["data"]
        assert response.json()["usage"] == expected["usage"]
        assert response.json()["model"] == name.replace("%2F", "/")


async def test_the_bodies_of_two_deployments_are_not_taken_for_each_other(client: Any) -> None:
    for _ in range(3):
        known = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
        assert known.status_code == 200
    response = await client.post("/openai/deployments/nope/embeddings", json={"model": MODEL, "input": "a"})
    assert response.status_code == 404


async def test_the_body_names_the_model_below_v1(client: Any) -> None:
    body = {"model": MODEL, "input": TEXTS, "dimensions": 8}
    expected = (await client.post("/v1/embeddings", json=body)).json()
    assert (await client.post("/openai/v1/embeddings", json=body)).json() == expected
    missing = await client.post("/openai/v1/embeddings", json={"input": TEXTS})
    assert (missing.status_code, missing.json()["error"]["message"]) == (400, "you must provide a model parameter")


async def test_an_unknown_deployment_has_azures_code(client: Any) -> None:
    response = await client.post("/openai/deployments/nope/embeddings", json={"input": TEXTS})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "DeploymentNotFound", "model")
    assert error["message"].startswith("The API deployment for this resource does not exist.")
    assert MODEL in error["message"]


@pytest.mark.parametrize("path", ["org/model/chat/completions", "org/model", "embeddings"])
async def test_what_is_no_deployment_of_embeddings_is_unknown(client: Any, path: str) -> None:
    response = await client.post(f"/openai/deployments/{path}", json={"input": TEXTS})
    assert response.status_code == 404


async def test_models_are_those_of_v1(client: Any) -> None:
    expected = (await client.get("/v1/models")).json()
    for path in ("/openai/models?api-version=1", "/openai/v1/models"):
        assert (await client.get(path)).json() == expected
    one = (await client.get(f"/openai/models/{MODEL}")).json()
    assert one == (await client.get(f"/v1/models/{MODEL}")).json()


async def test_azures_header_has_the_key(open_app: Any) -> None:
    async with open_app(auth=AuthSettings(keys=["secret"])) as client:
        path, body = f"/openai/deployments/{MODEL}/embeddings", {"input": TEXTS}
        assert (await client.post(path, json=body, headers={"api-key": "secret"})).status_code == 200
        assert (await client.post(path, json=body, headers={"api-key": "wrong"})).status_code == 401
