"""The formats of an output: what each can hold, and how it is written from records and their vectors."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO
from uuid import UUID

import numpy as np
import orjson

from provider.domain import DENSE, SparseVector, Vectors
from provider.errors import InvalidRequest
from provider.texts.records import DEFAULT_FIELD, Record

VECTOR_FIELD = "embedding"
NO_METADATA: Mapping[str, object] = MappingProxyType({})

_METADATA_KEY, _METADATA_SUFFIX = "emb_provider", ".meta.json"
# Rows that are written at a time; a row group of a Parquet file.
_ROWS = 8192


class JsonLines:
    """Each record's fields and its outputs, one object a line.

    Attributes:
        has_metadata: whether the file itself says what made it; elsewhere that is a file of its own beside it.
    """

    has_metadata = False

    def __init__(self, outputs: Sequence[str] = (DENSE,)) -> None:
        """Hold these outputs; files of others than dense vectors are written as they come."""
        self.outputs = tuple(outputs)

    def check(self, records: Sequence[Record]) -> Sequence[str]:
        """Find out before a model is loaded what cannot be written.

        Returns:
            Sentences about what is written in another way than it was read.

        Raises:
            InvalidRequest: a field has the name of an output's.
        """
        _check_no_vector_field(records, self.outputs)
        return ()

    def write(
        self,
        vectors: Path,
        target: Path,
        records: Sequence[Record],
        about: Mapping[str, object] = NO_METADATA,  # noqa: ARG002 - it stands beside the file
    ) -> Iterator[int]:
        """Write the whole file, and yield the number of rows of each part.

        Args:
            vectors: a `.npy` file, (records, dimension) float32.
            target: written anew.
            records: one a row.
            about: JSON values by name, kept in the file where it has a place for them; see `has_metadata`.

        Raises:
            OSError: it cannot be written.
        """
        with target.open("wb") as file:
            for chunk, rows in _parts(vectors, records):
                write_json_lines(file, chunk, {DENSE: rows})
                yield len(chunk)


class Npy:
    """The vectors only, (records, dimension) float32: the file in which they are collected anyway."""

    has_metadata = False

    def check(self, records: Sequence[Record]) -> Sequence[str]:  # noqa: ARG002 - any will do
        """As `JsonLines.check`."""
        return ()


class Parquet:
    """A column for each field and one for the vector, a list of fixed size. Types are inferred, nested ones too."""

    has_metadata = True

    def __init__(self) -> None:
        """Raises InvalidRequest where pyarrow is missing."""
        if find_spec("pyarrow") is None:
            msg = "Parquet needs pyarrow: pip install pyarrow"
            raise InvalidRequest(msg)
        # The Arrow type of each field; None where its JSON text is written.
        self._columns: dict[str, Any] = {}

    def check(self, records: Sequence[Record]) -> Sequence[str]:
        """As `JsonLines.check`."""
        _check_no_vector_field(records)
        names = dict.fromkeys(name for record in records for name in _fields(record))
        self._columns = {name: _arrow_type([_fields(record).get(name) for record in records]) for name in names}
        return [
            f"the values of {name!r} have no common type in Parquet: the column holds their JSON text"
            for name, kind in self._columns.items()
            if kind is None
        ]

    def write(
        self, vectors: Path, target: Path, records: Sequence[Record], about: Mapping[str, object] = NO_METADATA
    ) -> Iterator[int]:
        """As `JsonLines.write`; `about` is a JSON text in the schema's metadata, under `emb_provider`."""
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415

        dimension = np.load(vectors, mmap_mode="r").shape[1]
        types = [(name, pa.string() if kind is None else kind) for name, kind in self._columns.items()]
        metadata = {_METADATA_KEY: json.dumps(dict(about), ensure_ascii=False)}
        schema = pa.schema([*types, (VECTOR_FIELD, pa.list_(pa.float32(), dimension))], metadata=metadata)
        with parquet.ParquetWriter(target, schema) as file:
            for chunk, rows in _parts(vectors, records):
                columns = [
                    pa.array(_cells(chunk, name, as_json=kind is None), schema.field(name).type)
                    for name, kind in self._columns.items()
                ]
                columns.append(pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dimension))
                file.write_table(pa.table(columns, schema=schema))
                yield len(chunk)


Format = JsonLines | Npy | Parquet
FORMATS: Mapping[str, type[Format]] = {"jsonl": JsonLines, "npy": Npy, "parquet": Parquet}
FORMAT_OF_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".npy": "npy", ".parquet": "parquet"}


def metadata_path(output: Path) -> Path:
    """The file beside `output` that says what made it, where the format has no place for that."""
    return output.with_name(output.name + _METADATA_SUFFIX)


def write_json_lines(file: BinaryIO, records: Sequence[Record], outputs: Mapping[str, Any]) -> None:
    """Append a line for each record, in one piece; `outputs` has one entry a record."""
    file.write(json_lines(records, outputs))


def json_lines(records: Sequence[Record], outputs: Mapping[str, Any]) -> bytes:
    """A line for each record; `outputs` has one entry a record."""
    names = [_field_of(output) for output in outputs]
    rows = zip(*outputs.values(), strict=True)
    return b"".join(
        _line(record, dict(zip(names, row, strict=True))) for record, row in zip(records, rows, strict=True)
    )


def _field_of(output: str) -> str:
    return VECTOR_FIELD if output == DENSE else output


def _check_no_vector_field(records: Sequence[Record], outputs: Sequence[str] = (DENSE,)) -> None:
    """A field of the input must not be replaced by an output.

    Raises:
        InvalidRequest: a record has a field of an output's name.
    """
    names = {_field_of(output) for output in outputs}
    for record in records:
        for name in names & set(record.fields or ()):
            msg = (
                f"{record.place} has a field {name!r} already, and the output would replace it; "
                "rename or remove it in the input"
            )
            raise InvalidRequest(msg)


def _fields(record: Record) -> Mapping[str, Any]:
    return {DEFAULT_FIELD: record.text} if record.fields is None else record.fields


def _line(record: Record, outputs: Mapping[str, Any]) -> bytes:
    numbers = {
        name: orjson.dumps(value, default=_json, option=orjson.OPT_SERIALIZE_NUMPY) for name, value in outputs.items()
    }
    try:
        fragments = {name: orjson.Fragment(each) for name, each in numbers.items()}
        return orjson.dumps({**_fields(record), **fragments}, default=_json, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Legal JSON that orjson does not write: integers beyond 64 bits, unpaired surrogates.
        loaded = {name: json.loads(each) for name, each in numbers.items()}
        return json.dumps({**_fields(record), **loaded}, default=_json).encode() + b"\n"


def _json(value: object) -> object:
    """What JSON has no type for: sparse vectors, and cells of Parquet files."""
    match value:
        case SparseVector():
            return {"indices": value.ids, "values": value.weights}
        case bytes():
            return base64.b64encode(value).decode()
        case date() | time():
            return value.isoformat()
        case Decimal() | timedelta() | UUID():
            return str(value)
    raise TypeError(type(value))


def _parts(vectors: Path, records: Sequence[Record]) -> Iterator[tuple[Sequence[Record], Vectors]]:
    rows = np.load(vectors, mmap_mode="r")
    for start in range(0, len(records), _ROWS):
        yield records[start : start + _ROWS], np.ascontiguousarray(rows[start : start + _ROWS])


def _cells(records: Sequence[Record], name: str, *, as_json: bool) -> list[Any]:
    values = [_fields(record).get(name) for record in records]
    return [None if value is None else json.dumps(value, default=_json) for value in values] if as_json else values


def _arrow_type(values: list[Any]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """The type of a column that holds all of `values`; None where only their JSON text can be kept."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    try:
        kind = pa.infer_type(values)
        pa.array(values, kind)
        # Some types that Arrow has cannot be written to Parquet, such as a struct without fields.
        parquet.write_table(pa.schema([("column", kind)]).empty_table(), pa.BufferOutputStream())
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None
    return kind
