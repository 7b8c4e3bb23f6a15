"""Outputs from records and vectors: fields and their types survive, and what cannot be kept is told before."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provider.bulk.formats import JsonLines, Parquet, json_lines
from provider.errors import InvalidRequest
from provider.texts.records import Record


def records(*fields: dict[str, Any] | None) -> list[Record]:
    return [Record("t", "in.jsonl", number, fields=each) for number, each in enumerate(fields, 1)]


def columns(given: list[Record], folder: Path, form: Parquet | None = None) -> dict[str, list[Any]]:
    """What is read of a file that was written."""
    from pyarrow import parquet

    vectors = folder / "vectors.npy"
    np.save(vectors, np.arange(2 * len(given), dtype=np.float32).reshape(-1, 2))
    if form is None:
        form = Parquet()
        form.see(given)
    assert sum(form.write(vectors, folder / "out", iter(given))) == len(given)
    found: dict[str, list[Any]] = parquet.read_table(folder / "out").to_pydict()
    return found


def seen(given: list[Record]) -> Parquet:
    """The format after the records came one by one."""
    form = Parquet()
    for record in given:
        form.see([record])
    for record in given if not form.has_seen_enough else ():
        form.confirm([record])
    return form


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, None],
        ["x", "ü", None],
        [True, False, None],
        [1, 2.5, math.pi],
        [{"a": 1, "b": {"c": ["x"]}}, {"a": 2, "b": {"c": []}}, None],
        [[1, 2], [], [3]],
        [None, None, None],
    ],
)
def test_parquet_keeps_values_of_one_type_nested_ones_too(values: list[Any], tmp_path: Path) -> None:
    given = records(*({"text": "t", "x": value} for value in values))
    found = columns(given, tmp_path)
    assert found["x"] == values
    assert columns(given, tmp_path, seen(given)) == found
    assert found["embedding"] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    "values",
    [
        [1, "a"],
        [True, 1],
        [[1], {"a": 1}],
        [{"a": 1}, {"a": "x"}],
        [{}, {}],
        [2**70, 1],
        ["\ud800", "a"],
    ],
)
def test_parquet_gets_the_json_text_of_values_without_a_common_type_and_says_so(values: Any, tmp_path: Path) -> None:
    given = records(*({"text": "t", "x": value} for value in values))
    whole = Parquet()
    whole.see(given)
    for form in (whole, seen(given)):
        assert form.notices == ["the values of 'x' have no common type in Parquet: the column holds their JSON text"]
        assert [json.loads(text) for text in columns(given, tmp_path, form)["x"]] == values


def test_numbers_that_do_not_fit_a_wider_type_are_kept_as_json(tmp_path: Path) -> None:
    given = records(*({"text": "t", "x": value} for value in (2**60 + 1, 0.5)))
    assert [json.loads(text) for text in columns(given, tmp_path, seen(given))["x"]] == [2**60 + 1, 0.5]


def test_a_field_that_a_record_lacks_is_null(tmp_path: Path) -> None:
    found = columns(records({"text": "a", "x": 1}, {"text": "b", "y": 2}, None), tmp_path)
    assert (found["text"], found["x"], found["y"]) == (["a", "b", "t"], [1, None, None], [None, 2, None])


def test_json_lines_keep_fields_in_their_order() -> None:
    vectors = np.arange(4, dtype=np.float32).reshape(2, 2)
    lines = json_lines(records({"id": 7, "text": "a"}, None), {"dense": vectors}).decode().splitlines()
    assert lines == ['{"id":7,"text":"a","embedding":[0.0,1.0]}', '{"text":"t","embedding":[2.0,3.0]}']


@pytest.mark.parametrize("form", [JsonLines, Parquet])
def test_a_field_that_the_vector_would_replace_is_refused(form: type[JsonLines | Parquet]) -> None:
    with pytest.raises(InvalidRequest, match=r"in\.jsonl, line 2 has a field 'embedding' already"):
        form().see(records({"text": "a"}, {"text": "b", "embedding": [1]}))


def test_parquet_without_pyarrow_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider.bulk.formats.find_spec", lambda _: None)
    with pytest.raises(InvalidRequest, match=r"pip install pyarrow"):
        Parquet()
