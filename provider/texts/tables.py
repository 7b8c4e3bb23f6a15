"""Tables of CSV, TSV and Parquet files, one of whose columns holds texts."""

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from provider.errors import InvalidRequest
from provider.texts.lines import TextFile

# Rows of a Parquet file that are read at a time.
_ROWS = 4096
# Without it all of a row group's column is read at once.
_BUFFER_BYTES = 2**20


def table_rows(
    lines: Iterable[str], name: str, column: str, delimiter: str, *, has_header: bool
) -> Iterator[tuple[int, str, Mapping[str, str] | None]]:
    """Rows of CSV as RFC 4180 has it: cells may be quoted and hold line ends. All values stay texts.

    Args:
        lines: of the file.
        name: of the file, for messages.
        column: that holds the text, by name or by number from 1.
        delimiter: between cells.
        has_header: whether the first row names the columns.

    Yields:
        The row's first line, its text, and its cells by column; an empty text and no cells for an empty line.

    Raises:
        InvalidRequest: a row cannot be read, or there is no such column.
    """
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] = []
    position = 0
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as exc:
            msg = f"{name}, line {line} is no valid table: {exc}; quote the cell and double the quotes in it"
            raise InvalidRequest(msg) from exc
        if row is None:
            return
        if not row:
            if names:
                yield line, "", None
            continue
        if not names:
            names, position = _columns(row, name, column, has_header=has_header)
            if has_header:
                continue
        if len(row) != len(names):
            msg = f"{name}, line {line} has {len(row)} cells, the first row has {len(names)}"
            raise InvalidRequest(msg)
        yield line, row[position], dict(zip(names, row, strict=True))


def parquet_rows(source: TextFile, column: str) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Rows of a Parquet file, with values as pyarrow gives them.

    Args:
        source: the file.
        column: that holds the text, by name or by number from 1.

    Yields:
        The row's number from 1, its text (empty for null), and its cells by column.

    Raises:
        InvalidRequest: pyarrow is missing, the file is damaged, there is no such column, or it holds no text.
    """
    with _parquet_file(source) as file:
        import pyarrow as pa  # noqa: PLC0415 - an extra

        schema = file.schema_arrow
        _, position = _columns(schema.names, source.name, column, has_header=True)
        kind, chosen = schema.field(position).type, schema.names[position]
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        kinds_of_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        if not any(is_text(value) for is_text in kinds_of_text):
            msg = f"{source.name}: the column {chosen!r} holds {kind}, expected text; name another with --column"
            raise InvalidRequest(msg)
        number = 0
        for batch in file.iter_batches(_ROWS):
            for cells in _rows(batch, source.name):
                number += 1
                yield number, cells[chosen] or "", cells


def _rows(batch: Any, name: str) -> Sequence[Mapping[str, Any]]:  # noqa: ANN401 - pyarrow has no types
    """The rows of a batch of the file `name`, by column.

    Raises:
        InvalidRequest: a value is none of Python's, such as a day behind the year 9999.
    """
    columns: dict[str, Sequence[Any]] = {}
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[column] = values.to_pylist()
        except (ArithmeticError, ValueError) as exc:
            msg = f"{name}: a value of the column {column!r} ({values.type}) cannot be read: {exc}; cast it to text"
            raise InvalidRequest(msg) from exc
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def parquet_types(source: TextFile) -> Mapping[str, Any]:
    """The Arrow type of each column of a Parquet file.

    Raises:
        InvalidRequest: pyarrow is missing, or the file is damaged.
    """
    with _parquet_file(source) as file:
        return {each.name: each.type for each in file.schema_arrow}


@contextmanager
def _parquet_file(source: TextFile) -> Iterator[Any]:
    if find_spec("pyarrow") is None:
        msg = f"{source.name}: reading Parquet needs pyarrow: pip install pyarrow"
        raise InvalidRequest(msg)
    import pyarrow as pa  # noqa: PLC0415 - an extra
    from pyarrow import parquet  # noqa: PLC0415

    with source.content() as stream:
        try:
            whole = stream if stream.seekable() else io.BytesIO(stream.read())
            yield parquet.ParquetFile(whole, buffer_size=_BUFFER_BYTES)
        except pa.ArrowException as exc:
            msg = f"{source.name} is no readable Parquet file: {' '.join(str(exc).split())}"
            raise InvalidRequest(msg) from exc


def _columns(first: Sequence[str], name: str, wanted: str, *, has_header: bool) -> tuple[list[str], int]:
    """The names of a table's columns, and which one holds the texts."""
    names = list(first) if has_header else [f"column_{number}" for number in range(1, len(first) + 1)]
    if len(set(names)) < len(names):
        msg = f"{name} has two columns of one name: {', '.join(names)}; rename one"
        raise InvalidRequest(msg)
    if has_header and wanted in names:
        return names, names.index(wanted)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return names, int(wanted) - 1
    if has_header:
        msg = f"{name} has no column {wanted!r}; its columns are {', '.join(names)}: name one with --column"
    else:
        msg = f"{name} has {len(names)} columns without names; give --column a number from 1 to {len(names)}"
    raise InvalidRequest(msg)
