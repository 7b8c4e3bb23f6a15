"""Scored pairs from a file: CSV or TSV (first, second, score), or JSON lines."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from provider.errors import InvalidRequest
from provider.texts.lines import TextFile
from provider.verification.corpus import ScoredPair

# How data sets call the two sentences and their score.
_FIRST = ("a", "sentence1", "text1", "first")
_SECOND = ("b", "sentence2", "text2", "second")
_SCORE = ("score", "label", "similarity_score")


def read_pairs(path: Path) -> list[tuple[ScoredPair, int]]:
    """All pairs, each with its line. A first line without a number in its third column is a heading.

    Args:
        path: `.jsonl` and `.ndjson` hold JSON objects, `.tsv` is separated by tabs, all others by commas.

    Raises:
        InvalidRequest: a line is no pair, or there is none; the message names the line.
    """
    try:
        with TextFile(path).lines() as lines:
            if path.suffix in (".jsonl", ".ndjson"):
                numbered = ((line, i) for i, line in enumerate(lines, 1) if line.strip())
                pairs = [(_from_object(line, f"{path}, line {i}"), i) for line, i in numbered]
            elif path.suffix == ".tsv":
                pairs = list(_from_rows(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), path))
            else:
                pairs = list(_from_rows(csv.reader(lines), path))
    except csv.Error as exc:
        msg = f"{path} cannot be read: {exc}"
        raise InvalidRequest(msg) from exc
    if len(pairs) < 3:
        msg = f"{path} has {len(pairs)} scored pairs; a rank correlation needs at least 3"
        raise InvalidRequest(msg)
    return pairs


def _from_rows(rows: Any, path: Path) -> Iterator[tuple[ScoredPair, int]]:  # noqa: ANN401 - a csv reader has no public type
    is_first = True
    for row in rows:
        if not row:
            continue
        may_be_heading, is_first = is_first, False
        place = f"{path}, line {rows.line_num}"
        if len(row) < 3:
            msg = f"{place}: expected first text, second text and score, got {len(row)} columns"
            raise InvalidRequest(msg)
        if may_be_heading and not _is_number(row[2]):
            continue
        yield _pair(row[0], row[1], row[2], place), rows.line_num


def _from_object(line: str, place: str) -> ScoredPair:
    try:
        value = json.loads(line)
    except ValueError as exc:
        msg = f"{place} is no JSON: {exc}"
        raise InvalidRequest(msg) from exc
    if not isinstance(value, dict):
        msg = f"{place}: expected a JSON object with two texts and a score"
        raise InvalidRequest(msg)
    first, second, score = (_field(value, names, place) for names in (_FIRST, _SECOND, _SCORE))
    return _pair(first, second, score, place)


def _field(value: dict[str, Any], names: Sequence[str], place: str) -> Any:  # noqa: ANN401 - whatever the file holds
    for name in names:
        if name in value:
            return value[name]
    msg = f"{place}: expected a field called {' or '.join(names)}, got {', '.join(value) or 'none'}"
    raise InvalidRequest(msg)


def _pair(first: Any, second: Any, score: Any, place: str) -> ScoredPair:  # noqa: ANN401
    if not isinstance(first, str) or not isinstance(second, str) or not first or not second:
        msg = f"{place}: both texts must be there, neither empty"
        raise InvalidRequest(msg)
    if not _is_number(score):
        msg = f"{place}: expected a number as score, got {score!r}"
        raise InvalidRequest(msg)
    return ScoredPair(first, second, float(score))


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False
