"""What a run leaves on disk: taken up by the same command, refused to another, gone when it is of no use."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provider.bulk.checkpoint import Checkpoint, LinesCheckpoint
from provider.bulk.formats import Format, JsonLines, Npy, Parquet
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
    form.check(RECORDS)
    made_from = {"inputs": other.pop("inputs", "ten")}
    with Checkpoint.opened(output, form, RECORDS, made_from, restart=other.pop("restart", False)) as opened:
        opened.begin({"fingerprint": "f", **other}, 3)
        yield opened


def embed(opened: Checkpoint, until: int = 10) -> None:
    while opened.done < until:
        here = slice(opened.done, min(opened.done + 2, until))
        opened.append(RECORDS[here], {"dense": VECTORS[here]})


def finish(opened: Checkpoint) -> None:
    embed(opened)
    list(opened.finish())


def interrupted(output: Path, until: int, form: Format | None = None) -> None:
    with suppress(Killed), checkpoint(output, form) as opened:
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
        assert sum(opened.finish()) in (0, 10)
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
    with (tmp_path / ".x.npy.part" / "vectors.npy").open("ab") as file:
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


@pytest.mark.parametrize("damage", ["state.json", "vectors.npy"])
def test_a_damaged_state_is_begun_anew(damage: str, tmp_path: Path) -> None:
    interrupted(tmp_path / "x.npy", 4)
    (tmp_path / ".x.npy.part" / damage).write_bytes(b"{")
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


@pytest.mark.parametrize("form", [JsonLines, Parquet])
def test_an_output_that_finds_no_room_is_one_line_and_the_vectors_are_kept(form: type[Format], tmp_path: Path) -> None:
    output = tmp_path / f"x.{SUFFIX[form]}"
    with pytest.raises(InvalidRequest) as raised, checkpoint(output, form()) as opened, full_disk(300):
        finish(opened)
    assert raised.value.message == f"cannot write {output}: File too large"
    assert names(tmp_path) == [f".{output.name}.part"]
    assert names(tmp_path / f".{output.name}.part") == ["lock", "state.json", "vectors.npy"]
    with checkpoint(output, form()) as opened:
        assert opened.done == 10
        list(opened.finish())
    beside = [] if form is Parquet else [f"{output.name}.meta.json"]
    assert names(tmp_path) == sorted([output.name, *beside])


SPARSE = [SparseVector(np.arange(i, dtype=np.int32), np.full(i, 0.5, np.float32)) for i in range(10)]


@contextmanager
def lines(output: Path) -> Iterator[LinesCheckpoint]:
    made_from = {"inputs": "ten"}
    with LinesCheckpoint.opened(output, JsonLines(("sparse",)), RECORDS, made_from) as opened:
        opened.begin({"fingerprint": "f"}, 0)
        yield opened


def test_outputs_that_are_no_array_are_continued_after_the_last_whole_line(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with suppress(Killed), lines(output) as opened:
        opened.append(RECORDS[:4], {"sparse": SPARSE[:4]})
        raise Killed
    with (tmp_path / ".out.jsonl.part" / "lines.jsonl").open("ab") as file:
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
    chosen.check(RECORDS)
    with Checkpoint.opened(output, chosen, RECORDS, {"inputs": "ten"}) as opened:
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
