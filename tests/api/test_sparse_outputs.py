"""Sparse and token vectors over HTTP, against sentence-transformers' classes."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import MultiVectorEncoder, SparseEncoder

from provider.settings import ModelSettings
from provider.testing.tiny.multi_vector import tiny_multi_vector
from provider.testing.tiny.sparse import tiny_bge_m3, tiny_splade

TEXTS = ["the cat sits on the mat", "a dog"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "splade": tiny_splade(folder / "splade"),
        "colbert": tiny_multi_vector(folder / "colbert"),
        "m3": tiny_bge_m3(folder / "m3", pickled=False),
    }


@pytest.fixture
async def client(open_app: Any, folders: dict[str, Path]) -> AsyncIterator[Any]:
    models = [ModelSettings(name=name, path=str(path), lanes=1, tune=False) for name, path in folders.items()]
    async with open_app(models=models) as opened:
        yield opened


async def ask(client: Any, model: str, *output_types: str, **body: Any) -> list[dict[str, Any]]:
    request = {"model": model, "input": TEXTS, "output_types": list(output_types)} | body
    response = await client.post("/v1/embeddings", json=request)
    assert response.status_code == 200, response.text
    data: list[dict[str, Any]] = response.json()["data"]
    return data


async def test_sparse_vectors_are_those_of_sparse_encoder(client: Any, folders: dict[str, Path]) -> None:
    reference = SparseEncoder(str(folders["splade"]), device="cpu", local_files_only=True)
    expected = reference.encode_document(TEXTS, convert_to_tensor=True).to_dense().numpy()
    data = await ask(client, "splade", "sparse", input_type="document")
    for entry, row in zip(data, expected, strict=True):
        assert set(entry) == {"object", "index", "sparse"}
        assert entry["sparse"]["indices"] == np.flatnonzero(row).tolist()
        np.testing.assert_allclose(entry["sparse"]["values"], row[row != 0], atol=1e-4)


async def test_token_vectors_are_those_of_multi_vector_encoder(client: Any, folders: dict[str, Path]) -> None:
    reference = MultiVectorEncoder(str(folders["colbert"]), device="cpu", local_files_only=True)
    for role, expected in (
        ("query", reference.encode_query(TEXTS)),
        ("document", reference.encode_document(TEXTS)),
    ):
        data = await ask(client, "colbert", "multi_vector", input_type=role)
        packed = await ask(client, "colbert", "multi_vector", input_type=role, encoding_format="base64")
        for entry, coded, tokens in zip(data, packed, expected, strict=True):
            found = np.array(entry["multi_vector"], np.float32)
            np.testing.assert_allclose(found, np.asarray(tokens), atol=1e-4)
            rows = [np.frombuffer(base64.b64decode(each), "<f4") for each in coded["multi_vector"]]
            np.testing.assert_array_equal(rows, found)


async def test_several_outputs_come_in_one_pass_and_are_those_of_each_alone(client: Any) -> None:
    together = await ask(client, "m3", "dense", "sparse", "multi_vector")
    dense, sparse, tokens = [await ask(client, "m3", output) for output in ("dense", "sparse", "multi_vector")]
    for i, entry in enumerate(together):
        assert set(entry) == {"object", "index", "embedding", "sparse", "multi_vector"}
        np.testing.assert_allclose(entry["embedding"], dense[i]["embedding"], atol=1e-5)
        np.testing.assert_allclose(entry["multi_vector"], tokens[i]["multi_vector"], atol=1e-5)
        assert entry["sparse"]["indices"] == sparse[i]["sparse"]["indices"]
        np.testing.assert_allclose(entry["sparse"]["values"], sparse[i]["sparse"]["values"], atol=1e-5)


async def test_token_vectors_are_quantised_with_ranges_of_their_own(client: Any) -> None:
    response = await client.post(
        "/v1/embeddings",
        json={"model": "m3", "input": TEXTS, "output_types": ["dense", "multi_vector"], "output_dtype": "int8"},
    )
    ranges = response.json()["quantization"]["ranges"]
    assert set(ranges) == {"dense", "multi_vector"}
    assert ranges["dense"]["name"] != ranges["multi_vector"]["name"]
    assert all(-128 <= each <= 127 for row in response.json()["data"][0]["multi_vector"] for each in row)


async def test_dense_vectors_of_a_sparse_model_are_refused_with_what_to_ask_for(client: Any) -> None:
    response = await client.post("/v1/embeddings", json={"model": "splade", "input": "a"})
    assert response.status_code == 400
    assert '"output_types": ["sparse"]' in response.json()["error"]["message"]
