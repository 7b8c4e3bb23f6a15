"""`POST /v1/multi-vector`, and what Jina's clients send to the other routes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from provider.settings import ModelSettings
from provider.testing.tiny import tiny_multi_vector

TEXTS = ["the cat", "the dog sits"]


@pytest.fixture(scope="session")
def colbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_multi_vector(tmp_path_factory.mktemp("models") / "colbert")


@pytest.fixture
async def client(open_app: Any, colbert: Path) -> AsyncIterator[Any]:
    async with open_app(model=ModelSettings(name="colbert", path=str(colbert), backend="fake", lanes=1)) as opened:
        yield opened


async def post(client: Any, path: str, status: int = 200, **body: Any) -> Any:
    response = await client.post(path, json={"model": "colbert", "input": TEXTS} | body)
    assert response.status_code == status, response.text
    return response.json()


async def test_multi_vectors_are_those_of_v1_embeddings(client: Any) -> None:
    for body in ({}, {"input_type": "query"}, {"embedding_type": "ubinary"}, {"embedding_type": "base64"}):
        found = await post(client, "/v1/multi-vector", **body)
        expected = await post(client, "/v1/embeddings", output_types=["multi_vector"], **body)
        assert [each["embeddings"] for each in found["data"]] == [each["multi_vector"] for each in expected["data"]]
        assert [each["index"] for each in found["data"]] == [0, 1]
        assert found["usage"] == expected["usage"]


async def test_errors_have_the_key_that_jinas_clients_read(client: Any) -> None:
    for body in ({"input": []}, {"dimensions": 3}, {"output_types": "sparse"}, {"late_chunking": True}):
        error = await post(client, "/v1/multi-vector", 400, **body)
        assert error["detail"] == error["error"]["message"]
