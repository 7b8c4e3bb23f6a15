"""Lines of an input file: checked all together before a job runs, then read again piece by piece."""

import hashlib
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
from attrs import frozen

from provider.dialects.malformed import UTF8_BOM
from provider.jobs.folder import FileLost
from provider.jobs.records import Problem

_METHOD = "POST"
_MOST_PROBLEMS = 100
_MOST_ID_CHARACTERS = 512
# Checking holds the interpreter; after so many lines others get a turn.
_LINES_A_TURN, _TURN_SECONDS = 200, 0.0005


class _Fields(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


_decoder = msgspec.json.Decoder(_Fields)
_any_decoder = msgspec.json.Decoder(dict[str, Any])


class Line(NamedTuple):
    """A request.

    Attributes:
        number: of the line, from 1 on.
        body: JSON.
        end: place of the next line, in bytes.
    """

    number: int
    custom_id: str
    body: bytes
    end: int


@frozen
class Checked:
    """What is in an input file.

    Attributes:
        total: requests.
        problems: what is wrong with it, in the order of the lines; the first hundred.
    """

    total: int
    problems: tuple[Problem, ...]


class InputFile:
    """An input file, read from a place on. For one thread at a time."""

    def __init__(self, file: BinaryIO, *, position: int = 0, lines: int = 0) -> None:
        """Take it over.

        Args:
            file: whose lines have been checked.
            position: where to begin, in bytes.
            lines: that stand before it.
        """
        self.position, self.lines = position, lines
        self._file = file
        self._file.seek(position)

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def next_lines(self, most: int, most_bytes: int) -> list[Line]:
        """The next requests, as many as have `most_bytes` together, one at least; none at the end.

        Raises:
            FileLost: they are not what was checked.
        """
        found: list[Line] = []
        size = 0
        while len(found) < most and size < most_bytes and (raw := self._file.readline()):
            self.position += len(raw)
            self.lines += 1
            if raw := _stripped(raw, self.lines):
                try:
                    fields = _decoder.decode(raw)
                except (msgspec.DecodeError, UnicodeDecodeError) as exc:
                    raise FileLost(Path(self._file.name).name) from exc
                found.append(Line(self.lines, fields.custom_id, bytes(fields.body), self.position))
                size += len(raw)
        return found


def check(
    path: Path, endpoint: str, *, max_line_bytes: int, max_requests: int, is_wanted: Callable[[], bool] = lambda: True
) -> Checked:
    """Look at every line.

    Args:
        path: of the input file.
        endpoint: that all requests have to be for.
        max_line_bytes: most bytes of a line.
        max_requests: most requests.
        is_wanted: asked now and then; the rest is left out once it is False.
    """
    problems: list[Problem] = []
    # A digest of eight bytes for each `custom_id`: a million of them take 8 MB.
    digests = array("Q")
    for number, raw in _raw_lines(path, max_line_bytes):
        if number % _LINES_A_TURN == 0:
            if not is_wanted():
                break
            time.sleep(_TURN_SECONDS)
        found = _found(raw, number, endpoint, max_line_bytes)
        if isinstance(found, Problem):
            problems.append(found)
        if found is not None:
            digests.append(found if isinstance(found, int) else number)
        if len(digests) > max_requests:
            msg = f"The file has more than {max_requests} requests (jobs.max_requests). Split it."
            problems.append(Problem("too_many_requests", msg))
            break
        if len(problems) >= _MOST_PROBLEMS:
            msg = f"Further lines were not read after {_MOST_PROBLEMS} errors."
            return Checked(len(digests), (*problems, Problem("too_many_errors", msg)))
    if not digests and not problems:
        problems.append(Problem("empty_file", "The file has no requests. Write one a line, as JSON."))
    if not problems:
        problems += _duplicates(path, digests, max_line_bytes)
    return Checked(len(digests), tuple(problems))


def _found(raw: bytes, number: int, endpoint: str, max_line_bytes: int) -> Problem | int | None:
    """The digest of a line's `custom_id`, or what is wrong with the line; None for an empty line."""
    if len(raw) > max_line_bytes:
        msg = f"This line has more than {max_line_bytes} bytes (server.max_body_bytes). Send fewer inputs a line."
        return Problem("line_too_long", msg, number)
    line = _stripped(raw, number)
    if not line:
        return None
    found = _problem(line, endpoint, number)
    return found if isinstance(found, Problem) else _digest(found)


def _raw_lines(path: Path, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line; of one that is too long, only its beginning."""
    number = 0
    with path.open("rb") as file:
        while raw := file.readline(max_line_bytes + 2):
            number += 1
            yield number, raw
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(max_line_bytes + 2)


def _stripped(raw: bytes, number: int) -> bytes:
    return (raw.removeprefix(UTF8_BOM) if number == 1 else raw).strip(b" \t\r\n")


def _problem(line: bytes, endpoint: str, number: int) -> Problem | str:
    """What is wrong with a line, else its `custom_id`."""
    try:
        fields = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _shape_problem(line, number)
    if not 0 < len(fields.custom_id) <= _MOST_ID_CHARACTERS:
        msg = (
            f"Invalid 'custom_id': it has {len(fields.custom_id)} characters, and may have 1 to {_MOST_ID_CHARACTERS}."
        )
        return Problem("invalid_value", msg, number, "custom_id")
    if fields.method != _METHOD:
        msg = f"Invalid value: {fields.method[:100]!r}. Supported values are: {_METHOD!r}."
        return Problem("invalid_method", msg, number, "method")
    if fields.url != endpoint:
        msg = f"The URL {fields.url[:100]!r} is not the endpoint of the batch, which is {endpoint!r}."
        return Problem("invalid_url", msg, number, "url")
    if not bytes(fields.body).startswith(b"{"):
        return Problem("invalid_type", "Invalid 'body': expected an object.", number, "body")
    return fields.custom_id


def _shape_problem(line: bytes, number: int) -> Problem:
    try:
        fields = _any_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        reason = str(exc).removeprefix("JSON is malformed: ")[:200]
        return Problem("invalid_json_line", f"This line is not parseable as a JSON object: {reason}.", number)
    for name in ("custom_id", "method", "url", "body"):
        if name not in fields:
            return Problem("missing_required_parameter", f"Missing required parameter: '{name}'.", number, name)
        if name != "body" and not isinstance(fields[name], str):
            msg = f"Invalid type for '{name}': expected a string."
            return Problem("invalid_type", msg, number, name)
    return Problem("invalid_json_line", "This line is not parseable as JSON.", number)


def _digest(custom_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _duplicates(path: Path, digests: "array[int]", max_line_bytes: int) -> list[Problem]:
    """Lines whose `custom_id` is that of an earlier one: the file is read again where digests are equal."""
    values, counts = np.unique(np.frombuffer(digests, np.uint64), return_counts=True)
    repeated = {int(each) for each in values[counts > 1]}
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, raw in _raw_lines(path, max_line_bytes) if repeated else ():
        line = _stripped(raw, number)
        if not line or _digest(custom_id := _decoder.decode(line).custom_id) not in repeated:
            continue
        if custom_id in seen:
            msg = (
                f"The custom_id {custom_id[:100]!r} is that of an earlier line. It has to be unique for each request "
                "of a batch."
            )
            problems.append(Problem("duplicate_custom_id", msg, number, "custom_id"))
        seen.add(custom_id)
        if len(problems) >= _MOST_PROBLEMS:
            break
    return problems
