"""What a run leaves on disk: taken up by the same command, refused to another, gone when it is of no use."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provider.bulk.checkpoint import Checkpoint
from provider.bulk.formats import Format, JsonLines, Npy, Parquet
from provider.bulk.layout import Layout
from provider.domain import SparseVector
from provider.errors import InvalidRequest
from provider.texts.records import Record

RECORDS = [Record(f"text {i}", "in.txt", i) for i in range(10)]
VECTORS = np.arange(30, dtype=np.float32).reshape(10, 3)
SUFFIX = {JsonLines: "jsonl", Npy: "npy", Parquet: "parquet"}


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def checkpoint(output: Path, form: Format | None = None, **other: Any) -> Iterator[Checkpoint]:
    form = form or Npy()
    form.see(RECORDS)
    layout = Layout(output, other.pop("shard_rows", None))
    made_from = {"inputs": other.pop("inputs", "ten")}
    restart = other.pop("restart", False)
    with Checkpoint.opened(layout, form, RECORDS, len(RECORDS), made_from, restart=restart) as opened:
        opened.begin({"fingerprint": "f", **other}, 3)
        yield opened


def embed(opened: Checkpoint, until: int = 10) -> None:
    while opened.done < until:
        here = slice(opened.done, min(opened.done + min(2, opened.room), until))
        opened.append(RECORDS[here], {"dense": VECTORS[here]})
        if opened.is_full and opened.done < len(RECORDS):
            list(opened.finish())


def finish(opened: Checkpoint) -> None:
    embed(opened)
    if opened.is_full:
        list(opened.finish())


def interrupted(output: Path, until: int, form: Format | None = None, **other: Any) -> None:
    with suppress(Killed), checkpoint(output, form, **other) as opened:
        embed(opened, until)
        raise Killed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("form", [JsonLines, Npy, Parquet])
@pytest.mark.parametrize("until", [2, 7, 10])
def test_a_continued_run_writes_the_bytes_of_an_uninterrupted_one(
    form: type[Format], until: int, tmp_path: Path
) -> None:
    whole, parts = (tmp_path / f"{name}.{SUFFIX[form]}" for name in ("whole", "parts"))
    with checkpoint(whole, form()) as opened:
        embed(opened)
        assert sum(opened.finish()) == (10 if form is Parquet else 0)
    interrupted(parts, until, form())
    assert not parts.exists()
    with checkpoint(parts, form()) as opened:
        assert opened.done == until
        finish(opened)
    assert parts.read_bytes() == whole.read_bytes()
    beside = [] if form is Parquet else [f"{each.name}.meta.json" for each in (whole, parts)]
    assert names(tmp_path) == sorted([whole.name, parts.name, *beside])


def test_a_numpy_file_is_what_numpy_itself_would_write(tmp_path: Path) -> None:
    with checkpoint(tmp_path / "x.npy") as opened:
        finish(opened)
    array = np.load(tmp_path / "x.npy")
    assert (array.dtype, array.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(array, VECTORS)


def test_half_a_row_at_the_end_is_embedded_again(tmp_path: Path) -> None:
    interrupted(tmp_path / "x.npy", 4)
    with (tmp_path / ".x.npy.part" / "rows-00000.npy").open("ab") as file:
        file.write(b"\xff" * 7)
    with checkpoint(tmp_path / "x.npy") as opened:
        assert opened.done == 4
        finish(opened)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), VECTORS)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"inputs": "eleven"}, 'inputs was "ten", is "eleven"'),
        ({"fingerprint": "g"}, 'fingerprint was "f", is "g"'),
        ({"prompt": "query: "}, 'prompt was null, is "query: "'),
    ],
)
def test_a_run_of_another_kind_is_refused_and_the_work_is_kept(other: Any, says: str, tmp_path: Path) -> None:
    interrupted(tmp_path / "x.npy", 4)
    with (
        pytest.raises(
            InvalidRequest, match=f"an interrupted run of 4 texts differs from this one: {says}. .*--restart"
        ),
        checkpoint(tmp_path / "x.npy", **other),
    ):
        pass
    with checkpoint(tmp_path / "x.npy") as opened:
        assert opened.done == 4


def test_restart_begins_anew_with_whatever_model(tmp_path: Path) -> None:
    interrupted(tmp_path / "x.npy", 4)
    with checkpoint(tmp_path / "x.npy", restart=True, fingerprint="g") as opened:
        assert opened.done == 0
        finish(opened)
    assert names(tmp_path) == ["x.npy", "x.npy.meta.json"]


def test_a_run_without_a_vector_leaves_nothing_and_hinders_nobody(tmp_path: Path) -> None:
    interrupted(tmp_path / "x.npy", 0)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("damaged", "content"),
    [
        ("state.json", b"{"),
        ("state.json", b'{"version": 2}'),
        ("state.json", b'{"version": 2, "made": 5}'),
        ("rows-00000.npy", b"{"),
    ],
)
def test_a_damaged_state_is_begun_anew(damaged: str, content: bytes, tmp_path: Path) -> None:
    interrupted(tmp_path / "x.npy", 4)
    (tmp_path / ".x.npy.part" / damaged).write_bytes(content)
    with checkpoint(tmp_path / "x.npy", inputs="others") as opened:
        assert opened.done == 0
        finish(opened)
    assert names(tmp_path) == ["x.npy", "x.npy.meta.json"]


def test_two_runs_at_once_on_one_output_are_refused(tmp_path: Path) -> None:
    with checkpoint(tmp_path / "x.npy") as first:
        embed(first, 4)
        with (
            pytest.raises(InvalidRequest, match=r"another process is writing .*x\.npy"),
            checkpoint(tmp_path / "x.npy"),
        ):
            pass
        with checkpoint(tmp_path / "y.npy"):
            pass
        embed(first)
        list(first.finish())
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), VECTORS)


def test_the_old_output_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("old")
    interrupted(tmp_path / "x.jsonl", 10, JsonLines())
    assert (tmp_path / "x.jsonl").read_text() == "old"


@contextmanager
def full_disk(file_bytes: int) -> Iterator[None]:
    """No file may grow beyond that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_vectors_that_find_no_room_are_one_line_and_those_before_are_kept(tmp_path: Path) -> None:
    # A header of 128 bytes, and 12 bytes a row.
    with pytest.raises(InvalidRequest) as raised, checkpoint(tmp_path / "x.npy") as opened, full_disk(128 + 5 * 12 + 3):
        embed(opened)
    assert raised.value.message == f"cannot write {tmp_path / 'x.npy'}: File too large"
    assert opened.done == 5
    with checkpoint(tmp_path / "x.npy") as opened:
        assert opened.done == 5
        finish(opened)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), VECTORS)


def test_an_output_that_finds_no_room_is_one_line_and_the_vectors_are_kept(tmp_path: Path) -> None:
    output = tmp_path / "x.parquet"
    with pytest.raises(InvalidRequest) as raised, checkpoint(output, Parquet()) as opened, full_disk(300):
        finish(opened)
    assert raised.value.message == f"cannot write {output}: File too large"
    assert names(tmp_path) == [".x.parquet.part"]
    assert names(tmp_path / ".x.parquet.part") == ["lock", "rows-00000.npy", "state.json"]
    with checkpoint(output, Parquet()) as opened:
        assert opened.done == 10
        assert opened.is_full
        list(opened.finish())
    assert names(tmp_path) == ["x.parquet"]


SPARSE = [SparseVector(np.arange(i, dtype=np.int32), np.full(i, 0.5, np.float32)) for i in range(10)]


@contextmanager
def lines(output: Path) -> Iterator[Checkpoint]:
    made_from = {"inputs": "ten"}
    with Checkpoint.opened(Layout(output), JsonLines(("sparse",)), RECORDS, 10, made_from) as opened:
        opened.begin({"fingerprint": "f"}, 0)
        yield opened


def test_outputs_that_are_no_array_are_continued_after_the_last_whole_line(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with suppress(Killed), lines(output) as opened:
        opened.append(RECORDS[:4], {"sparse": SPARSE[:4]})
        raise Killed
    with (tmp_path / ".out.jsonl.part" / "rows-00000.jsonl").open("ab") as file:
        file.write(b'{"text": "half')
    assert not output.exists()
    with lines(output) as opened:
        assert opened.done == 4
        opened.append(RECORDS[4:], {"sparse": SPARSE[4:]})
        list(opened.finish())
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [each["sparse"]["indices"] for each in written] == [each.ids.tolist() for each in SPARSE]
    assert [each["text"] for each in written] == [record.text for record in RECORDS]
    assert names(tmp_path) == ["out.jsonl", "out.jsonl.meta.json"]


@pytest.mark.parametrize("form", [JsonLines, Npy, Parquet])
def test_the_output_says_what_made_it(form: type[Format], tmp_path: Path) -> None:
    from pyarrow import parquet

    output = tmp_path / f"x.{SUFFIX[form]}"
    chosen = form()
    chosen.see(RECORDS)
    with Checkpoint.opened(Layout(output), chosen, RECORDS, 10, {"inputs": "ten"}) as opened:
        opened.begin({"fingerprint": "f"}, 3, {"model": "mine", "backend": "torch", "dtype": "int8"})
        finish(opened)
    if form is Parquet:
        about = json.loads(parquet.read_schema(output).metadata[b"emb_provider"])
    else:
        about = json.loads((tmp_path / f"{output.name}.meta.json").read_text())
    assert about.pop("emb_provider")
    assert about == {
        "model": "mine",
        "backend": "torch",
        "dtype": "int8",
        "texts": 10,
        "inputs": "ten",
        "fingerprint": "f",
        "dimension": 3,
    }


def shards(folder: Path, **other: Any) -> Any:
    return checkpoint(folder, Parquet(), shard_rows=4, **other)


def rows(folder: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.parquet")):
        found += parquet.read_table(path).to_pylist()
    return found


ROWS = [{"text": record.text, "embedding": vector.tolist()} for record, vector in zip(RECORDS, VECTORS, strict=True)]
SHARDS = ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]


@pytest.mark.parametrize("until", [0, 1, 4, 5, 9, 10])
def test_shards_are_continued_where_a_run_ended_with_the_bytes_of_an_uninterrupted_one(
    until: int, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        if folder == parts:
            interrupted(folder, until, Parquet(), shard_rows=4)
            assert names(folder) == [".part", *SHARDS[: until // 4]] if until % 4 else True
        with shards(folder) as opened:
            assert opened.done == (until if folder == parts else 0)
            finish(opened)
        assert names(folder) == SHARDS
    assert rows(parts) == ROWS
    assert [(parts / name).read_bytes() for name in SHARDS] == [(whole / name).read_bytes() for name in SHARDS]


def test_complete_shards_are_kept(tmp_path: Path) -> None:
    with shards(tmp_path / "out") as opened:
        finish(opened)
    before = (tmp_path / "out" / SHARDS[1]).stat().st_mtime_ns
    with shards(tmp_path / "out") as opened:
        assert (opened.done, opened.is_full) == (10, False)
    assert (tmp_path / "out" / SHARDS[1]).stat().st_mtime_ns == before
    assert names(tmp_path / "out") == SHARDS


def test_a_missing_shard_is_made_again_with_those_behind_it(tmp_path: Path) -> None:
    with shards(tmp_path / "out") as opened:
        finish(opened)
    (tmp_path / "out" / SHARDS[1]).unlink()
    with shards(tmp_path / "out") as opened:
        assert opened.done == 4
        finish(opened)
    assert rows(tmp_path / "out") == ROWS


def test_a_process_that_is_killed_between_a_shard_and_the_next_repeats_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    interrupted(folder, 3, Parquet(), shard_rows=4)
    shutil.copytree(folder / ".part", tmp_path / "kept")
    interrupted(folder, 4, Parquet(), shard_rows=4)
    # The shard is there, and its rows are too.
    shutil.copytree(tmp_path / "kept", folder / ".part")
    with shards(folder) as opened:
        assert opened.done == 4
        finish(opened)
    assert rows(folder) == ROWS
    assert names(folder) == SHARDS


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"inputs": "eleven"}, 'inputs was "ten", is "eleven"'),
        ({"fingerprint": "g"}, 'fingerprint was "f", is "g"'),
        ({"shard_rows": 5}, "rows_per_shard was 4, is 5"),
    ],
)
def test_shards_of_another_run_are_refused_and_kept(other: Any, says: str, tmp_path: Path) -> None:
    with shards(tmp_path / "out") as opened:
        finish(opened)
    told = f"the shard {SHARDS[0]} differs from this one: {says}. .*--restart"
    with (
        pytest.raises(InvalidRequest, match=told),
        checkpoint(tmp_path / "out", Parquet(), **({"shard_rows": 4} | other)),
    ):
        pass
    assert rows(tmp_path / "out") == ROWS


def test_a_new_run_removes_the_shards_of_the_old_one_when_its_model_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with shards(folder) as opened:
        finish(opened)
    with Checkpoint.opened(Layout(folder, 5), Parquet(), RECORDS, 10, {"inputs": "x"}, restart=True):
        assert names(folder) == [".part", *SHARDS]
    assert names(folder) == SHARDS
    with checkpoint(folder, Parquet(), shard_rows=5, restart=True) as opened:
        finish(opened)
    assert names(folder) == SHARDS[:2]
    assert rows(folder) == ROWS


def test_foreign_files_in_the_folder_of_shards_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for name, says in (("corpus.parquet", "holds corpus.parquet, which is no shard"), (SHARDS[0], "is no shard that")):
        folder = tmp_path / name[:4]
        folder.mkdir()
        parquet.write_table(pa.table({"text": ["a"]}), folder / name)
        (folder / "_SUCCESS").touch()
        with pytest.raises(InvalidRequest, match=says), shards(folder):
            pass
        assert names(folder) == sorted([name, "_SUCCESS"])
    (tmp_path / "folder" / SHARDS[0]).mkdir(parents=True)
    with pytest.raises(InvalidRequest, match="is no shard that"), shards(tmp_path / "folder"):
        pass


def test_a_shard_says_what_made_it_and_which_it_is(tmp_path: Path) -> None:
    from pyarrow import parquet

    with shards(tmp_path / "out") as opened:
        finish(opened)
    about = json.loads(parquet.read_schema(tmp_path / "out" / SHARDS[1]).metadata[b"emb_provider"])
    expected = {"fingerprint": "f", "inputs": "ten", "texts": 10, "rows_per_shard": 4, "shard": 1, "shards": 3}
    assert expected.items() <= about.items()


def test_a_shard_that_finds_no_room_leaves_those_before_it_whole(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with shards(folder) as opened:
        embed(opened, 7)
        # The vectors have room, the shard has none.
        with pytest.raises(InvalidRequest, match=r"cannot write .*: File too large"), full_disk(300):
            finish(opened)
    assert names(folder) == [".part", SHARDS[0]]
    assert names(folder / ".part") == ["lock", "rows-00001.npy", "state.json"]
    with shards(folder) as opened:
        assert opened.done == 8
        finish(opened)
    assert rows(folder) == ROWS
