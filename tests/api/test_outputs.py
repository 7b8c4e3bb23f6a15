"""What an answer holds beside dense float vectors: other outputs, and numbers of fewer bits."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from sentence_transformers.util.quantization import quantize_embeddings

from provider.errors import SettingsError
from provider.settings import ModelSettings, ServerSettings, Settings
from provider.verification.corpus import Corpus

MODEL = "org/model"
WIDTH = 384
CALIBRATION = [each.text for each in Corpus.bundled().texts if each.kind != "odd"]


async def ask(client: Any, **body: Any) -> Any:
    return (await client.post("/v1/embeddings", json={"model": MODEL, "input": ["a cat", "a dog"]} | body)).json()


async def floats(client: Any, **body: Any) -> np.ndarray:
    answer = await ask(client, **body)
    return np.array([each["embedding"] for each in answer["data"]], np.float32)


@pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("dimensions", [None, 5])
async def test_integers_are_those_of_sentence_transformers(client: Any, kind: Any, dimensions: int | None) -> None:
    vectors = await floats(client, dimensions=dimensions)
    calibration = await floats(client, dimensions=dimensions, input=CALIBRATION, truncate="END")
    expected = quantize_embeddings(vectors, kind, calibration_embeddings=calibration)
    answer = await ask(client, dimensions=dimensions, output_dtype=kind)
    assert [each["embedding"] for each in answer["data"]] == expected.tolist()
    packed = await ask(client, dimensions=dimensions, output_dtype=kind, encoding_format="base64")
    rows = [np.frombuffer(base64.b64decode(each["embedding"]), expected.dtype) for each in packed["data"]]
    np.testing.assert_array_equal(rows, expected)
    assert answer["quantization"]["output_dtype"] == kind
    assert answer["usage"] == (await ask(client, dimensions=dimensions))["usage"]


async def test_ranges_belong_to_the_model_and_have_a_name_for_each_width(client: Any) -> None:
    alone = await ask(client, output_dtype="int8", input="a dog")
    among, other = await ask(client, output_dtype="int8"), await ask(client, output_dtype="int8", dimensions=5)
    assert alone["data"][0]["embedding"] == among["data"][1]["embedding"]
    ranges = among["quantization"]["ranges"]["dense"]
    assert alone["quantization"]["ranges"]["dense"] == ranges
    assert ranges["source"] == f"the {len(CALIBRATION)} sentences and passages that ship with the service"
    assert other["quantization"]["ranges"]["dense"]["name"] != ranges["name"]


async def test_ranges_are_measured_once_for_all_who_wait(client: Any) -> None:
    backend = client.app.state.service.runtimes[MODEL].loaded.backend
    await ask(client)
    before = sum(batch.rows for batch in backend.batches)
    answers = await asyncio.gather(*(ask(client, output_dtype="int8") for _ in range(8)))
    assert len({str(each) for each in answers}) == 1
    assert sum(batch.rows for batch in backend.batches) - before == len(CALIBRATION)


async def test_ranges_may_be_configured(open_app: Any, model: ModelSettings, tmp_path: Path) -> None:
    values = np.array([[-2.0] * WIDTH, [2.0] * WIDTH], np.float32)
    np.save(tmp_path / "ranges.npy", values)
    configured = attrs.evolve(model, int8_ranges_file=str(tmp_path / "ranges.npy"))
    async with open_app(model=configured) as client:
        answer = await ask(client, output_dtype="uint8")
        expected = quantize_embeddings(await floats(client), "uint8", ranges=values)
        assert [each["embedding"] for each in answer["data"]] == expected.tolist()
        assert answer["quantization"]["ranges"]["dense"]["source"] == "model.int8_ranges_file"
        refused = await ask(client, output_dtype="uint8", dimensions=4)
        assert refused["error"]["param"] == "dimensions"
        assert f"have {WIDTH} dimensions, these vectors 4" in refused["error"]["message"]


@pytest.mark.parametrize("content", [np.zeros((3, 8), np.float32), np.array([[1.0], [0.0]]), np.zeros((2, 8), np.int8)])
async def test_a_wrong_file_of_ranges_ends_the_start(
    open_app: Any, model: ModelSettings, tmp_path: Path, content: np.ndarray
) -> None:
    np.save(tmp_path / "ranges.npy", content)
    with pytest.raises(SettingsError, match=r"model\.int8_ranges_file"):
        async with open_app(model=attrs.evolve(model, int8_ranges_file=str(tmp_path / "ranges.npy"))):
            pass


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is no NumPy array"), (b'{"a": 1}', "is no NumPy array"), (None, "cannot be read: No such file")],
)
async def test_what_is_no_file_of_ranges_is_told_as_such(
    open_app: Any, model: ModelSettings, tmp_path: Path, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "ranges.npy").write_bytes(content)
    with pytest.raises(SettingsError, match=says):
        async with open_app(model=attrs.evolve(model, int8_ranges_file=str(tmp_path / "ranges.npy"))):
            pass


async def test_an_output_that_the_model_does_not_give_is_refused_with_what_it_gives(client: Any) -> None:
    response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a", "output_types": ["sparse"]})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "output_not_supported")
    assert "its task is embed, and it gives dense. Send texts to POST /v1/embeddings" in error["message"]


async def test_a_model_says_its_task_and_its_outputs(client: Any) -> None:
    entry = (await client.get("/v1/models")).json()["data"][0]
    assert (entry["task"], entry["outputs"], entry["labels"], entry["scores"]) == ("embed", ["dense"], None, None)


async def test_the_only_model_may_answer_requests_that_name_none(
    open_app: Any, model: ModelSettings, minilm: Path
) -> None:
    only = ServerSettings(default_model="only")
    async with open_app(server=only) as client:
        answer = (await client.post("/v1/embeddings", json={"input": "a"})).json()
        assert answer["model"] == MODEL
        named = (await client.post("/v1/embeddings", json={"model": "nope", "input": "a"})).json()
        assert named["error"]["code"] == "model_not_found"
    other = ModelSettings(name="other", path=str(minilm), backend="fake")
    async with open_app(server=only, models=[other]) as client:
        response = await client.post("/v1/embeddings", json={"input": "a"})
        assert response.status_code == 400
        assert "2 models give dense: org/model, other" in response.json()["error"]["message"]
    async with open_app(server=only, models=[other], wait=False) as client:
        response = await client.post("/v1/embeddings", json={"input": "a"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_loading")
    async with open_app(server=only, models=[attrs.evolve(other, lazy=True)], wait=False) as client:
        await client.app.state.service.runtimes[MODEL].start_loading()
        response = await client.post("/v1/embeddings", json={"input": "a"})
        assert "not all models are loaded (other)" in response.json()["error"]["message"]


async def test_without_that_setting_a_model_must_be_named(client: Any) -> None:
    response = await client.post("/v1/embeddings", json={"input": "a"})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "you must provide a model parameter"
    assert Settings().server.default_model == "none"
