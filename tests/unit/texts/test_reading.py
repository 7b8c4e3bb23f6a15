"""Texts that are read again and again: from files, from standard input and from pipes, in little memory."""

import gzip
import io
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from waiting import join

from provider.errors import InvalidRequest
from provider.texts.reading import TextSource
from provider.texts.records import ReadOptions


def texts_of(source: TextSource) -> list[str]:
    return [record.text for record in source]


@pytest.mark.parametrize("is_packed", [False, True])
def test_standard_input_is_read_twice_from_two_places_at_a_time(
    is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "".join(f"line {i}\n" for i in range(50_000)).encode()
    raw = io.BytesIO(gzip.compress(content) if is_packed else content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="latin-1"))
    with TextSource.opened([], []) as source:
        first, second = iter(source), iter(source)
        ahead = [next(first).text for _ in range(30_000)]
        assert [next(second).text for _ in range(30_000)] == ahead
        assert texts_of(source) == content.decode().splitlines()


def test_a_pipe_is_read_twice(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"a\nb\n",))
    writer.start()
    with TextSource.opened([], [pipe]) as source:
        assert texts_of(source) == texts_of(source) == ["a", "b"]
    join(writer)


def test_a_guess_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in"
    path.write_text('"a"\n')
    with TextSource.opened([], [path], ReadOptions(input_format="auto")) as source, pytest.raises(InvalidRequest):
        texts_of(source)
    path.write_text('{"text": "a"}\n')
    with TextSource.opened([], [path]) as source:
        assert texts_of(source) == texts_of(source) == ["a"]
    assert capsys.readouterr().err.count("is read as JSON lines") == 1


def test_a_file_that_changes_meanwhile_is_found(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("a\nb\n")
    with TextSource.opened([], [path]) as source:
        source.check_unchanged()
        path.write_text("a\nb\nc\n")
        with pytest.raises(InvalidRequest, match=r"in\.txt was changed while it was read; .*--restart"):
            source.check_unchanged()


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.txt", "in.parquet"])
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path) -> None:
    rows = 40_000
    path = tmp_path / name
    if name == "in.parquet":
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table({"text": [f"text number {i} of many, and a few words more" for i in range(rows)]})
        parquet.write_table(table, path)
    else:
        line = {"in.jsonl": '{{"text": "text {} of many"}}', "in.csv": "text {},x", "in.txt": "text {} of many"}[name]
        head = "text,y\n" if name == "in.csv" else ""
        path.write_text(head + "".join(line.format(i) + "\n" for i in range(rows)))
    with TextSource.opened([], [path]) as source:
        next(iter(source))
        tracemalloc.start()
        try:
            assert sum(1 for _ in source) == rows
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # All records together would take ten times as much.
    assert peak < 4e6
