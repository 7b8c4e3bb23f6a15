"""Texts from arguments, files and standard input, each with the place it came from and what stands beside it."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import click
from attrs import frozen

from provider.errors import InvalidRequest
from provider.texts.lines import STANDARD_INPUT, shown_name, text_lines
from provider.texts.tables import parquet_rows, table_rows

FORMATS = ("lines", "jsonl", "json", "csv", "tsv", "parquet")
DEFAULT_FIELD = "text"

_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
# So many places are named in a message.
_NAMED_PLACES = 3


@frozen
class Record:
    """One text.

    Attributes:
        text: what is embedded or scored; for an empty one see `ReadOptions.empty`.
        source: the file, for messages.
        number: its line, row, item or argument, from 1.
        unit: which of the four.
        fields: its JSON object or row, written out again beside the vector; None for a bare text.
    """

    text: str
    source: str
    number: int
    unit: str = "line"
    fields: Mapping[str, Any] | None = None

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.source}, {self.unit} {self.number}" if self.source else f"{self.unit} {self.number}"


@frozen
class ReadOptions:
    """How texts are found in files.

    Attributes:
        input_format: one of `FORMATS`, or `auto`: by the file's name, else by its first line.
        field: the field of a JSON object that holds the text; None for `text`.
        column: the column of a CSV or Parquet file that holds the text, by name or by number from 1; None for `text`.
        has_header: whether the first row of a CSV file names its columns.
        empty: what becomes of empty texts: an error, left out, or texts like any other.
    """

    input_format: str = "auto"
    field: str | None = None
    column: str | None = None
    has_header: bool = True
    empty: Literal["refuse", "skip", "keep"] = "refuse"


@frozen
class Records:
    """What was read. `skipped` are the places of empty texts that were left out; the others keep their order."""

    texts: list[Record]
    skipped: list[str]


_DEFAULT = ReadOptions()


def read_records(texts: Sequence[str], files: Sequence[Path], options: ReadOptions = _DEFAULT) -> Records:
    """All texts, in order: arguments, then files; standard input if there is neither.

    Args:
        texts: arguments; `-` stands for standard input.
        files: `-` is standard input.
        options: how to read files.

    Raises:
        InvalidRequest: an empty text that is refused (one of spaces is none), a line that cannot be read, an option
            that has no effect, or no text at all.
    """
    paths = [*files, *([] if files or texts else [STANDARD_INPUT])]
    if [*texts, *map(str, paths)].count("-") > 1:
        msg = "standard input (-) is named twice, and can be read once"
        raise InvalidRequest(msg)
    formats: set[str] = set()
    found: list[Iterable[Record]] = [
        _from_file(STANDARD_INPUT, options, formats)
        if text == "-"
        else [Record(_argument(text), "", number, "argument")]
        for number, text in enumerate(texts, 1)
    ]
    records: list[Record] = []
    empty: list[str] = []
    for record in chain(*found, *(_from_file(path, options, formats) for path in paths)):
        if record.text or options.empty == "keep":
            records.append(record)
        else:
            empty.append(record.place)
    _check_used(options, formats)
    if empty and options.empty == "refuse":
        are = "is" if len(empty) == 1 else "are"
        msg = f"{places(empty)} {are} empty; remove empty texts (`embed --skip-empty` leaves them out)"
        raise InvalidRequest(msg)
    if not records:
        msg = "no texts: give some as arguments, with --file, or on standard input"
        raise InvalidRequest(msg)
    return Records(records, empty)


def _argument(text: str) -> str:
    """Arguments are UTF-8 in a locale that is not, where Python keeps their bytes as unpaired surrogates."""
    try:
        return text.encode(errors="surrogateescape").decode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text  # other surrogates, which the tokenizer refuses


def places(all_places: Sequence[str]) -> str:
    """The first few places, and how many there are."""
    named = "; ".join(all_places[:_NAMED_PLACES])
    return named if len(all_places) <= _NAMED_PLACES else f"{named}; and {len(all_places) - _NAMED_PLACES} more"


def _check_used(options: ReadOptions, formats: set[str]) -> None:
    is_csv = bool(formats & {"csv", "tsv"})
    for flag, is_given, is_used, kind in (
        ("--field", options.field is not None, bool(formats & {"jsonl", "json"}), "JSON"),
        ("--column", options.column is not None, is_csv or "parquet" in formats, "CSV or Parquet"),
        ("--no-header", not options.has_header, is_csv, "CSV"),
    ):
        if is_given and not is_used:
            msg = f"{flag} is for {kind} input, and there is none; remove it, or set --input-format"
            raise InvalidRequest(msg)


def _from_file(path: Path, options: ReadOptions, formats: set[str]) -> Iterator[Record]:
    name = shown_name(path)
    column = options.column or DEFAULT_FIELD
    # The one format that is not text; its name alone tells.
    if options.input_format == "parquet" or (options.input_format == "auto" and _by_suffix(path) == "parquet"):
        formats.add("parquet")
        for number, cell, cells in parquet_rows(path, column):
            yield Record(cell, name, number, "row", cells)
        return
    with text_lines(path) as lines:
        kind, numbered = _format(path, enumerate(lines, 1), options)
        formats.add(kind)
        field = options.field or DEFAULT_FIELD
        if kind == "lines":
            for number, line in numbered:
                yield Record(line.rstrip("\r\n"), name, number)
        elif kind == "jsonl":
            for number, line in numbered:
                yield _from_json_line(line, name, number, field)
        elif kind == "json":
            yield from _from_document("".join(line for _, line in numbered), name, field)
        else:
            delimiter = "\t" if kind == "tsv" else ","
            table = table_rows((line for _, line in numbered), name, column, delimiter, has_header=options.has_header)
            for number, text, fields in table:
                yield Record(text, name, number, fields=fields)


def _by_suffix(path: Path) -> str | None:
    """The format that goes by a file's name."""
    return _BY_SUFFIX.get(Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower())


def _format(
    path: Path, numbered: Iterator[tuple[int, str]], options: ReadOptions
) -> tuple[str, Iterator[tuple[int, str]]]:
    """The format of a file, and its lines with those that were read to find out."""
    if options.input_format != "auto":
        return options.input_format, numbered
    known = _by_suffix(path)
    if known is not None and known != "json":
        return known, numbered
    seen = []
    for each in numbered:
        seen.append(each)
        if each[1].strip():
            break
    first = seen[-1][1].strip() if seen else ""
    kind = _guess(first, shown_name(path), options.field or DEFAULT_FIELD) if first else "lines"
    if known == "json":
        # Files of JSON lines are often called so, too.
        kind = "jsonl" if kind == "jsonl" else "json"
    elif kind != "lines":
        click.echo(
            f"emb-provider: {shown_name(path)} is read as {'JSON lines' if kind == 'jsonl' else 'JSON'} "
            "(--input-format lines for plain text)",
            err=True,
        )
    return kind, chain(seen, numbered)


def _guess(line: str, name: str, field: str) -> str:
    """What the first line looks like: `lines`, `jsonl` or `json`.

    Raises:
        InvalidRequest: it may be meant as JSON or as text.
    """
    try:
        value = json.loads(line)
    except ValueError:
        # The first line of a document that goes on; text that only begins with a bracket is text.
        return "json" if re.match(r'(\{|\[)\s*($|")|\[\s*\{', line) else "lines"
    if isinstance(value, dict) and isinstance(value.get(field), str):
        return "jsonl"
    if isinstance(value, list) and value and all(isinstance(each, str | dict) for each in value):
        return "json"
    if isinstance(value, str | dict):
        keys = f" without the field {field!r} (it has: {', '.join(value)})" if isinstance(value, dict) else ""
        what = "a JSON object" if isinstance(value, dict) else "a JSON string"
        msg = (
            f"{name}, line 1 is {what}{keys}; pass --input-format jsonl (and --field NAME for objects) to read it "
            "as JSON, or --input-format lines to embed it as it stands"
        )
        raise InvalidRequest(msg)
    return "lines"


def _from_json_line(line: str, name: str, number: int, field: str) -> Record:
    if not line.strip():
        return Record("", name, number)
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        msg = f"{name}, line {number} is no JSON: {exc}; --input-format lines reads plain text"
        raise InvalidRequest(msg) from exc
    return _from_value(value, Record("", name, number), field)


def _from_document(text: str, name: str, field: str) -> Iterator[Record]:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        msg = f"{name} is no JSON document: {exc}; --input-format jsonl reads JSON lines, lines reads plain text"
        raise InvalidRequest(msg) from exc
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        yield _from_value(item, Record("", name, number, "item"), field)


def _from_value(value: Any, at: Record, field: str) -> Record:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        return Record(value, at.source, at.number, at.unit)
    if isinstance(value, dict) and field in value:
        text = "" if value[field] is None else value[field]
        if isinstance(text, str):
            return Record(text, at.source, at.number, at.unit, value)
    has = f"an object with {', '.join(value) or 'no fields'}" if isinstance(value, dict) else _JSON_NAMES[type(value)]
    msg = f"{at.place}: expected a string, or an object with the text in its field {field!r} (--field), got {has}"
    raise InvalidRequest(msg)


_JSON_NAMES = {list: "an array", int: "a number", float: "a number", bool: "a boolean", type(None): "null"}


def _refuse_constant(name: str) -> None:
    """Python reads NaN and Infinity, which are no JSON and could not be written out again."""
    msg = f"{name} is not a JSON value"
    raise ValueError(msg)
