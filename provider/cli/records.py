"""Texts from arguments, files and standard input, each with the place it came from."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import field, frozen

from provider.errors import InvalidRequest


@frozen
class Record:
    """One text.

    Attributes:
        text: what is embedded.
        place: where it stands, for error messages.
        fields: what else its JSON object holds; it is written out again beside the vector.
    """

    text: str
    place: str
    fields: dict[str, Any] = field(factory=dict)


def read_records(texts: Sequence[str], files: Sequence[Path], *, input_format: str, field: str) -> list[Record]:
    """All texts, in order: arguments, then files; standard input if there is neither.

    Args:
        texts: arguments.
        files: `-` is standard input.
        input_format: `lines`, `jsonl`, or `auto` to go by each file's name.
        field: the field of a JSON object that holds the text.

    Raises:
        InvalidRequest: an empty text, a line that is no JSON, or no text at all; the message names the line.
    """
    records = [Record(text, f"argument {i + 1}") for i, text in enumerate(texts)]
    for path in files or ([] if texts else [Path("-")]):
        is_jsonl = input_format == "jsonl" or (input_format == "auto" and path.suffix in (".jsonl", ".ndjson"))
        name = "standard input" if str(path) == "-" else str(path)
        try:
            with _opened(path) as lines:
                records += _read_lines(lines, name, field if is_jsonl else None)
        except UnicodeDecodeError as exc:
            msg = f"{name} is not UTF-8 text: {exc.reason} at byte {exc.start}"
            raise InvalidRequest(msg) from exc
    for record in records:
        if not record.text:
            msg = f"{record.place} is empty; an empty text has no embedding. Remove it"
            raise InvalidRequest(msg)
    if not records:
        msg = "no texts: give some as arguments, with --file, or on standard input"
        raise InvalidRequest(msg)
    return records


@contextmanager
def _opened(path: Path) -> Iterator[Iterable[str]]:
    """A file, or standard input, which stays open."""
    if str(path) == "-":
        yield sys.stdin
    else:
        # With or without the byte order mark that Windows' editors put first.
        with path.open(encoding="utf-8-sig") as file:
            yield file


def _read_lines(lines: Iterable[str], name: str, field: str | None) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        place = f"{name}, line {number}"
        text = line.rstrip("\r\n")
        yield Record(text, place) if field is None else _from_json(text, place, field)


def _from_json(line: str, place: str, field: str) -> Record:
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as exc:
        msg = f"{place} is no JSON: {exc}"
        raise InvalidRequest(msg) from exc
    if isinstance(value, str):
        return Record(value, place)
    if not isinstance(value, dict) or not isinstance(value.get(field), str):
        msg = f"{place}: expected a string, or an object with the text in its field {field!r} (see --field)"
        raise InvalidRequest(msg)
    return Record(value[field], place, value)


def _refuse_constant(name: str) -> None:
    """Python reads NaN and Infinity, which are no JSON and could not be written out again."""
    msg = f"{name} is not a JSON value"
    raise ValueError(msg)
