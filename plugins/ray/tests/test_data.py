"""Vectors of a dataset: all of them, each once, whatever is lost on the way or has to be waited for."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from emb_provider_ray import embed_dataset
from nodes import OBJECT_BYTES, embedding_actors, is_alive
from pyarrow import parquet
from ray.cluster_utils import Cluster
from ray.data import DataContext, Dataset
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayTaskError
from stub_server import Answer, error, running_stub
from waiting import PATIENCE_SECONDS, free_port, wait_until

from provider import EmbedRequest, SyncEngine
from provider.bulk.formats import read_metadata
from provider.errors import InvalidDimensions, InvalidRequest, ProviderError, ServerFailed
from provider.settings import ModelSettings, Settings
from provider.testing.tiny import tiny_bert

ROWS, BLOCKS = 400, 20


def text(number: int) -> str:
    return f"text {number} " + "and so on " * (number % 7)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tiny_bert(tmp_path_factory.mktemp("tiny"))
    return Settings(model=ModelSettings(name="tiny", path=str(folder), tune=False))


@pytest.fixture(scope="module")
def expected(settings: Settings) -> np.ndarray[Any, Any]:
    with SyncEngine.open(settings) as engine:
        return engine.embed(EmbedRequest("tiny", tuple(map(text, range(ROWS))))).vectors


def texts() -> Dataset:
    """`ROWS` texts in `BLOCKS` blocks, which tasks make."""
    return ray.data.range(ROWS, override_num_blocks=BLOCKS).map(lambda row: {**row, "text": text(row["id"])})


def check(folder: Path, expected: np.ndarray[Any, Any]) -> None:
    """Every row is in the shards once, with the vector of its text, and every shard says what made it."""
    assert len({str(read_metadata(path)) for path in folder.glob("*.parquet")}) == 1
    table = parquet.read_table(folder).sort_by("id")
    assert table["id"].to_pylist() == [*range(ROWS)]
    assert table["text"].to_pylist() == [text(i) for i in range(ROWS)]
    vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(ROWS, -1)
    assert np.allclose(vectors, expected, atol=1e-5)


def test_no_row_is_lost_or_doubled_with_a_node(
    cluster: Cluster, settings: Settings, expected: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    output, gate = tmp_path / "vectors", tmp_path / "go"

    def hold_the_second_half(table: pa.Table) -> pa.Table:
        if table["id"][0].as_py() >= ROWS // 2:
            wait_until(gate.exists)
        return table

    third = cluster.add_node(num_cpus=4, object_store_memory=OBJECT_BYTES)
    held = texts().map_batches(hold_the_second_half, batch_format="pyarrow", num_cpus=0.1)
    vectors = embed_dataset(held, "text", settings, actors=3, rows_per_call=ROWS // BLOCKS)
    with ThreadPoolExecutor(1) as thread:
        written = thread.submit(vectors.write_parquet, str(output))
        try:
            wait_until(lambda: written.done() or (embedding_actors(third.node_id) and any(output.glob("*.parquet"))))
            assert not written.done()
        finally:
            cluster.remove_node(third, allow_graceful=False)
            gate.touch()
        written.result(PATIENCE_SECONDS)
    wait_until(lambda: not is_alive(third.node_id))
    check(output, expected)


def test_a_job_that_failed_goes_on_by_ids(
    cluster: Cluster, settings: Settings, expected: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    output, is_mended = tmp_path / "vectors", tmp_path / "mended"

    def fail_in_the_second_half(table: pa.Table) -> pa.Table:
        if not is_mended.exists() and table["id"][0].as_py() >= ROWS // 2:
            wait_until(lambda: len([*output.glob("*.parquet")]) >= 3)
            msg = "an outage"
            raise OSError(msg)
        return table

    def embed() -> None:
        read = ray.data.read_parquet(str(tmp_path / "texts.parquet")).repartition(
            target_num_rows_per_block=ROWS // BLOCKS
        )
        failing = read.map_batches(fail_in_the_second_half, batch_format="pyarrow")
        vectors = embed_dataset(failing, "text", settings, rows_per_call=ROWS // BLOCKS)
        vectors.write_parquet(str(output))

    parquet.write_table(
        pa.table({"id": range(ROWS), "text": [text(i) for i in range(ROWS)]}), tmp_path / "texts.parquet"
    )
    context = DataContext.get_current()
    context.checkpoint_config = CheckpointConfig("id", str(tmp_path / "checkpoint"))
    try:
        with pytest.raises(RayTaskError, match="an outage"):
            embed()
        kept = {path.name: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
        is_mended.touch()
        embed()
    finally:
        context.checkpoint_config = None
    now = {path.name: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    assert len(kept.items() & now.items()) >= 2
    check(output, expected)


def test_servers_are_left_alone_for_as_long_as_they_want(
    cluster: Cluster, settings: Settings, expected: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    # By number of the request: the first of the driver's process and of the actor's, and one on the way.
    refused, seconds = {0: 429, 2: 503, 7: 429}, 2
    rows = ROWS // BLOCKS
    with running_stub() as stub, SyncEngine.open(settings) as engine:

        def answered(body: dict[str, Any]) -> Answer:
            if status := refused.get(len(stub.asked) - 1):
                return error(status, "busy", headers={"retry-after": str(seconds)})
            embedded = engine.embed(EmbedRequest("tiny", tuple(body["input"])))
            data = [{"index": i, "embedding": row} for i, row in enumerate(embedded.vectors.tolist())]
            headers = {"x-model-fingerprint": embedded.fingerprint}
            return 200, headers, {"data": data, "usage": {"total_tokens": embedded.usage.tokens}}

        stub.respond = answered
        # One request at a time, so that none is under way when another is refused.
        vectors = embed_dataset(texts(), "text", urls=[stub.url], batch_size=rows, rows_per_call=rows)
        vectors.write_parquet(str(tmp_path / "vectors"))
    check(tmp_path / "vectors", expected)
    assert len(stub.times) == BLOCKS + 2 + len(refused)
    assert all(stub.times[number + 1] - stub.times[number] >= seconds for number in refused)


def test_a_text_that_a_server_refuses_is_named_and_a_server_that_is_down_is_left_out(cluster: Cluster) -> None:
    rows = ray.data.from_items([{"text": text(i)} for i in range(40)])
    with running_stub() as stub:
        urls = [stub.url, f"http://127.0.0.1:{free_port()}/v1"]
        assert embed_dataset(rows, urls=urls, batch_size=10).count() == 40

        def refusing(body: dict[str, Any]) -> Answer:
            texts = body["input"]
            return error(400, "a bad text", param=f"input[{texts.index(bad)}]") if bad in texts else stub.right(body)

        bad, stub.respond = text(17), refusing
        with pytest.raises(RayTaskError, match="a batch, column 'text', row 18: a bad text"):
            embed_dataset(rows, urls=[stub.url], batch_size=10).materialize()


def test_what_is_wrong_is_known_before_anything_runs(cluster: Cluster, settings: Settings) -> None:
    hello = ray.data.from_items([{"text": "hello"}])
    with pytest.raises(InvalidDimensions):
        embed_dataset(hello, "text", settings, dimensions=7000)
    with pytest.raises(ServerFailed, match="does not answer"):
        embed_dataset(hello, "text", urls=[f"http://127.0.0.1:{free_port()}/v1"])
    for given in ({}, {"settings": settings, "urls": ["http://localhost/v1"]}):
        with pytest.raises(InvalidRequest, match="give settings with a model, or urls"):
            embed_dataset(hello, "text", **given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"column": "x"}, "no column 'x'; it has: text, n"),
        ({"to": "n"}, "has a column 'n' already"),
        ({"column": "n"}, "column 'n': expected texts, got int64"),
        ({"column": ""}, "column: got ''"),
        ({"actors": 0}, "actors: got 0"),
        ({"actors": (3, 1)}, r"actors: got \(3, 1\)"),
        ({"actors": (1, 2, 3)}, "actors: got"),
        ({"actors": None}, "actors: got None"),
        ({"rows_per_call": 1.5}, "rows_per_call: got 1.5"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"truncate": "middle"}, "truncate: got 'middle'"),
        ({"settings": None, "urls": "http://localhost/v1"}, "urls: got 'http://localhost/v1'; give a list"),
        ({"num_cpus": -1}, "num_cpus: got -1"),
        ({"num_gpus": 1.5}, "num_gpus: got 1.5"),
        ({"resources": {"CPU": 1}}, "set num_cpus instead"),
        ({"num_gpus": 1}, "no node has num_gpus 1; nodes have: num_cpus 4, num_gpus 0 | num_cpus 8, num_gpus 0"),
        ({"num_cpus": 16}, "no node has num_cpus 16"),
        ({"num_cpus": 8, "resources": {"second": 1}}, "together"),
    ],
)
def test_a_call_that_cannot_work_is_refused_at_once(
    cluster: Cluster, settings: Settings, given: dict[str, Any], says: str
) -> None:
    hello = ray.data.from_items([{"text": "hello", "n": 1}])
    with pytest.raises(ProviderError, match=says):
        embed_dataset(hello, **{"settings": settings, **given})


def test_a_dataset_without_rows_stays_one(cluster: Cluster, settings: Settings) -> None:
    empty = ray.data.from_arrow(pa.table({"text": pa.array([], pa.string())}))
    assert embed_dataset(empty, settings=settings).count() == 0


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"title": "hello"}, "the dataset has no column 'text'; it has: title"),
        ({"text": "hello", "embedding": 1}, "has a column 'embedding' already"),
        ({"text": 1}, "a batch, column 'text', row 1: expected a text, got int"),
        ({"text": None}, "a batch, column 'text', row 1: expected a text, got NoneType"),
        ({"text": "word " * 600}, "a batch, column 'text', row 1: "),
    ],
)
def test_a_row_at_fault_is_named(cluster: Cluster, settings: Settings, row: dict[str, Any], says: str) -> None:
    # What a function gives is not known before it has run.
    made = ray.data.range(1).map(lambda _: row)
    with pytest.raises(RayTaskError, match=says):
        embed_dataset(made, "text", settings).materialize()
