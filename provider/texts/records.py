"""Texts from arguments, files and standard input, each with the place it came from and what stands beside it."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import click
from attrs import define, field, frozen

from provider.errors import InvalidRequest
from provider.texts.lines import TextFile
from provider.texts.tables import parquet_rows, parquet_types, table_rows

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


@define
class Places:
    """Places of texts: how many there are, and the first few.

    Attributes:
        count: of all.
        first: as `Record.place` has them.
    """

    count: int = 0
    first: list[str] = field(factory=list)

    def add(self, place: str) -> None:
        """One more."""
        self.count += 1
        if self.count <= _NAMED_PLACES:
            self.first.append(place)

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        named = "; ".join(self.first)
        return named if self.count <= _NAMED_PLACES else f"{named}; and {self.count - _NAMED_PLACES} more"


class RecordFile:
    """A file of texts, whose records can be read again and again.

    Attributes:
        kind: one of `FORMATS`; None before it was first read.
    """

    def __init__(self, source: TextFile, options: ReadOptions) -> None:
        """Nothing is read yet."""
        self._source, self._options = source, options
        is_parquet = options.input_format == "auto" and _by_suffix(source.path) == "parquet"
        # The one format that is not text; its name alone tells.
        self.kind = "parquet" if is_parquet else None if options.input_format == "auto" else options.input_format
        self._state = source.state()

    @property
    def name(self) -> str:
        """Of the file, for messages."""
        return self._source.name

    def __iter__(self) -> Iterator[Record]:
        """All records, in order.

        Raises:
            InvalidRequest: a line cannot be read.
        """
        name, options = self._source.name, self._options
        column, field = options.column or DEFAULT_FIELD, options.field or DEFAULT_FIELD
        if self.kind == "parquet":
            for number, cell, cells in parquet_rows(self._source, column):
                yield Record(cell, name, number, "row", cells)
            return
        with self._source.lines() as lines:
            numbered: Iterator[tuple[int, str]] = enumerate(lines, 1)
            if self.kind is None:
                self.kind, numbered = self._recognised(numbered)
            if self.kind == "lines":
                for number, line in numbered:
                    yield Record(line.rstrip("\r\n"), name, number)
            elif self.kind == "jsonl":
                for number, line in numbered:
                    yield _from_json_line(line, name, number, field)
            elif self.kind == "json":
                yield from _from_document("".join(line for _, line in numbered), name, field)
            else:
                delimiter, rows = "\t" if self.kind == "tsv" else ",", (line for _, line in numbered)
                for number, text, fields in table_rows(rows, name, column, delimiter, has_header=options.has_header):
                    yield Record(text, name, number, fields=fields)

    def types(self) -> Mapping[str, Any] | None:
        """The Arrow types of a Parquet file's columns; None for other files."""
        return parquet_types(self._source) if self.kind == "parquet" else None

    def check_unchanged(self) -> None:
        """Be sure that what is read now is what was read before.

        Raises:
            InvalidRequest: the file was written to.
        """
        if self._source.state() != self._state:
            msg = f"{self._source.name} was changed while it was read; leave it as it is, and begin anew (--restart)"
            raise InvalidRequest(msg)

    def _recognised(self, numbered: Iterator[tuple[int, str]]) -> tuple[str, Iterator[tuple[int, str]]]:
        """The format, and the lines with those that were read to find out."""
        known = _by_suffix(self._source.path)
        if known is not None and known != "json":
            return known, numbered
        seen = []
        for each in numbered:
            seen.append(each)
            if each[1].strip():
                break
        first = seen[-1][1].strip() if seen else ""
        kind = _guess(first, self._source.name, self._options.field or DEFAULT_FIELD) if first else "lines"
        if known == "json":
            # Files of JSON lines are often called so, too.
            kind = "jsonl" if kind == "jsonl" else "json"
        elif kind != "lines":
            click.echo(
                f"emb-provider: {self._source.name} is read as {'JSON lines' if kind == 'jsonl' else 'JSON'} "
                "(--input-format lines for plain text)",
                err=True,
            )
        return kind, chain(seen, numbered)


def _by_suffix(path: Path) -> str | None:
    """The format that goes by a file's name."""
    return _BY_SUFFIX.get(Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower())


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
