"""Texts from arguments, files and standard input: every format, every encoding, every slip told with its place."""

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from provider.errors import InvalidRequest
from provider.texts.reading import read_records
from provider.texts.records import ReadOptions


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(content: bytes, name: str = "-", **options: Any) -> list[Any]:
    """Texts, or text and fields where there are fields, of a file or of standard input."""
    read = read_records([], [put(content, name)], ReadOptions(**options))
    return [record.text if record.fields is None else (record.text, dict(record.fields)) for record in read.texts]


def put(content: bytes, name: str) -> Path:
    if name == "-":
        sys.stdin = io.TextIOWrapper(io.BytesIO(content), encoding="latin-1")
    else:
        Path(name).write_bytes(content)
    return Path(name)


@pytest.fixture(autouse=True)
def _own_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)


A, B = ("a", {"text": "a", "id": 1}), ("b", {"text": "b"})
LINES = b'{"text": "a", "id": 1}\n{"text": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("in.txt", b"a\nb", ["a", "b"]),
        ("in.txt", b"a\r\nb\r\n", ["a", "b"]),
        ("in.txt", "a\x0bb\u2028c\rd\n".encode(), ["a\x0bb\u2028c\rd"]),
        ("-", b"\xc3\xa9t\xc3\xa9\n", ["été"]),
        ("-", b"[1] A reference\n", ["[1] A reference"]),
        ("-", b"{name} is a template\n", ["{name} is a template"]),
        ("-", b"42\n", ["42"]),
        ("in.jsonl", LINES, [A, B]),
        ("in.NDJSON", LINES, [A, B]),
        ("in.jsonl", b'"a"\n"b"\n', ["a", "b"]),
        ("-", LINES, [A, B]),
        ("in", LINES, [A, B]),
        ("in.txt", LINES, [A, B]),
        ("in.json", LINES, [A, B]),
        ("in.json", b'[{"text": "a", "id": 1},\n {"text": "b"}]', [A, B]),
        ("in.json", b'{\n "text": "a",\n "id": 1}', [A]),
        ("-", b'["a", "b"]\n', ["a", "b"]),
        ("-", b'[\n  "a",\n  "b"\n]\n', ["a", "b"]),
        ("-", b'\n \n[{"text": "a", "id": 1}, {"text": "b"}]', [A, B]),
        ("in.csv", b"id,text\n7,a\n8,b\n", [("a", {"id": "7", "text": "a"}), ("b", {"id": "8", "text": "b"})]),
        ("in.csv", b'text,n\r\n"a, ""b""\r\nc",1\r\n', [('a, "b"\r\nc', {"text": 'a, "b"\r\nc', "n": "1"})]),
        ("in.tsv", b"text\tn\na, b\t1\n", [("a, b", {"text": "a, b", "n": "1"})]),
    ],
)
@pytest.mark.parametrize("dress", ["plain", "mark", "gzip"])
def test_a_format_is_known_by_its_name_or_its_first_line(name: str, content: bytes, expected: Any, dress: str) -> None:
    if dress == "mark":
        content = b"\xef\xbb\xbf" + content
    if dress == "gzip":
        name, content = name if name == "-" else f"{name}.gz", gzip.compress(content)
    assert read(content, name) == expected


@pytest.mark.parametrize(
    ("options", "content", "expected"),
    [
        ({"input_format": "lines"}, LINES, [line.decode() for line in LINES.splitlines()]),
        ({"input_format": "lines"}, b'"a"\n', ['"a"']),
        ({"input_format": "lines"}, b" \n\t\n", [" ", "\t"]),
        ({"input_format": "jsonl"}, b'" "\n{"text": "\\u3000"}\n', [" ", ("\u3000", {"text": "\u3000"})]),
        (
            {"input_format": "csv", "column": "2", "has_header": False},
            b"7,a\n",
            [("a", {"column_1": "7", "column_2": "a"})],
        ),
        ({"input_format": "csv", "column": "2"}, b"x,y\n7,a\n", [("a", {"x": "7", "y": "a"})]),
        ({"input_format": "csv", "column": "1"}, b"2,1\n7,a\n", [("a", {"2": "7", "1": "a"})]),
        ({"field": "body"}, b'{"body": "a"}\n', [("a", {"body": "a"})]),
        ({"empty": "skip"}, b"a\n\n  \nb\n\n", ["a", "  ", "b"]),
        ({"empty": "skip", "input_format": "jsonl"}, b'"a"\n\n""\n{"text": null}\n"b"\n', ["a", "b"]),
        ({"empty": "keep"}, b"a\n\nb\n", ["a", "", "b"]),
        ({"empty": "skip", "input_format": "csv"}, b"text\n\na\n", [("a", {"text": "a"})]),
    ],
)
def test_options_decide_how_standard_input_is_read(options: Any, content: bytes, expected: Any) -> None:
    assert read(content, "-", **options) == expected


@pytest.mark.parametrize(
    ("name", "content", "options", "says"),
    [
        ("in.txt", "a\n".encode("utf-16"), {}, "in.txt is UTF-16 text; convert it .* iconv -f UTF-16 -t UTF-8 in.txt"),
        ("-", "a cat\n".encode("utf-16-le"), {}, "standard input is UTF-16 text"),
        ("in.txt", b"a\n\xe9t\xe9\n", {}, r"in.txt, line 2 is not UTF-8 text \(byte 0xe9\); .*iconv"),
        ("in.txt.gz", gzip.compress(b"a\n" * 99)[:-4], {}, "in.txt.gz is damaged gzip"),
        ("in.txt", b"a\n\nb\n \n\n", {}, "in.txt, line 2; in.txt, line 5 are empty; .*--skip-empty"),
        ("in.txt", b"a\n" + b"\n" * 5, {}, "line 2; in.txt, line 3; in.txt, line 4; and 2 more are empty"),
        ("in.jsonl", b'"a"\n{"text": ""}\n', {}, "in.jsonl, line 2 is empty"),
        ("in.csv", b"text,n\na,1\n,2\n", {}, "in.csv, line 3 is empty"),
        ("-", b'"quoted"\n', {}, "line 1 is a JSON string; pass --input-format jsonl .* or --input-format lines"),
        ("-", b'{"body": "a", "id": 1}\n', {}, r"without the field 'text' \(it has: body, id\); pass --input-format"),
        ("-", b'{"text": "a"}\nplain\n', {}, "line 2 is no JSON: .*; --input-format lines reads plain text"),
        ("-", b'["a",\n', {}, "standard input is no JSON document"),
        ("in.jsonl", b'{"text": "a", "x": NaN}\n', {}, "line 1 is no JSON: NaN is not a JSON value"),
        ("in.jsonl", b'{"body": "a"}\n', {}, "line 1: expected a string, or .*'text'.* got an object with body"),
        ("in.jsonl", b'["a"]\n', {}, "got an array"),
        ("in.jsonl", b'{"text": 5}\n', {}, "line 1: expected a string"),
        ("in.json", b'["a", 5]', {}, "in.json, item 2: expected a string"),
        ("in.csv", b"id,body\n1,a\n", {}, "no column 'text'; its columns are id, body: name one with --column"),
        ("in.csv", b"id,body\n1,a\n", {"column": "3"}, "no column '3'"),
        ("in.csv", b"1,a\n", {"has_header": False}, "2 columns without names; give --column a number from 1 to 2"),
        ("in.csv", b"text,n\na\n", {}, "line 2 has 1 cells, the first row has 2"),
        ("in.csv", b"text,text\na,b\n", {}, "two columns of one name"),
        ("in.csv", b'text\n"a" b\n', {}, "line 2 is no valid table"),
        ("in.csv", b'text\n"a\nb\n', {}, "line 2 is no valid table"),
        ("in.txt", b"a\n", {"column": "x"}, "--column is for CSV or Parquet input, and there is none"),
        ("in.txt", b"a\n", {"field": "x"}, "--field is for JSON input, and there is none"),
        ("in.jsonl", b'"a"\n', {"has_header": False}, "--no-header is for CSV input"),
        ("-", b"", {}, "no texts in standard input: give some"),
        ("in.csv", b"text\n", {}, r"no texts in .*in\.csv: give some"),
        ("in.txt", b"\n", {"empty": "skip"}, r"no texts in .*in\.txt but empty ones \(.*line 1\)"),
        ("in.txt", b"PAR1\x15\x04", {}, r"in\.txt is a Parquet file; pass --input-format parquet"),
    ],
)
def test_a_slip_is_told_with_its_place_and_the_way_out(name: str, content: bytes, options: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        read(content, name, **options)


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view"])
def test_every_type_of_text_in_parquet_is_read(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    column = pa.array(["a", "b"], getattr(pa, kind)())
    parquet.write_table(pa.table({"text": column}), tmp_path / "in.parquet")
    assert [each.text for each in read_records([], [tmp_path / "in.parquet"]).texts] == ["a", "b"]


def test_a_value_of_parquet_that_python_does_not_have_is_told_with_its_column(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    # What PostgreSQL's `infinity` becomes.
    days = {"since": pa.array([0, 10**7], pa.date32()), "seen": pa.array([0, 10**18], pa.timestamp("us"))}
    for name, column in days.items():
        parquet.write_table(pa.table({"text": ["a", "b"], name: column}), tmp_path / "in.parquet")
        with pytest.raises(InvalidRequest, match=rf"in\.parquet: a value of the column '{name}' .*; cast it to text"):
            read_records([], [tmp_path / "in.parquet"])


def test_arguments_come_before_files_and_a_dash_is_standard_input_where_it_stands() -> None:
    put(b"from stdin\n", "-")
    put(b"from file\n", "in.txt")
    records = read_records(["one", "-", "two"], [Path("in.txt")]).texts
    assert [record.text for record in records] == ["one", "from stdin", "two", "from file"]
    places = [record.place for record in records]
    assert places == ["argument 1", "standard input, line 1", "argument 3", "in.txt, line 1"]


def test_standard_input_is_named_once() -> None:
    with pytest.raises(InvalidRequest, match="named twice"):
        read_records(["-"], [Path("-")])


def test_standard_input_that_is_closed_is_told() -> None:
    with pytest.raises(InvalidRequest, match="standard input is closed"):
        read_records([], [])


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot read .*: Is a directory"):
        read_records([], [tmp_path])


def test_a_guess_is_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    read(LINES)
    assert "standard input is read as JSON lines (--input-format lines for plain text)" in capsys.readouterr().err


def test_skipped_texts_are_reported_with_their_places() -> None:
    put(b"a\n\nb\n", "in.txt")
    records = read_records([], [Path("in.txt")], ReadOptions(empty="skip"))
    assert (records.skipped.count, str(records.skipped)) == (1, "in.txt, line 2")


def test_an_argument_in_a_locale_that_is_not_utf_8_keeps_its_letters() -> None:
    (record,) = read_records([b"\xc3\xa9t\xc3\xa9".decode("ascii", "surrogateescape")], []).texts
    assert record.text == "été"
