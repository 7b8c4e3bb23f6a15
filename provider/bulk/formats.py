"""The formats of an output: what each can hold, and how it is written from records and their vectors."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import numpy as np
import orjson

from provider.domain import DENSE, SparseVector
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
        has_seen_enough: whether `confirm` has nothing to add.
        notices: sentences about what is written in another way than it was read.
    """

    has_metadata = False
    has_seen_enough = True
    notices: Sequence[str] = ()

    def __init__(self, outputs: Sequence[str] = (DENSE,)) -> None:
        """Hold these outputs."""
        self.outputs = tuple(outputs)

    def expect(self, types: Mapping[str, Any]) -> None:
        """Know the Arrow types of fields whose values need not be looked at."""

    def see(self, records: Sequence[Record]) -> None:
        """Look at the next records, and find out before a model is loaded what cannot be written.

        Raises:
            InvalidRequest: a field has the name of an output's.
        """
        _check_no_vector_field(records, self.outputs)

    def confirm(self, records: Sequence[Record]) -> None:
        """Look at the same records once more, if `has_seen_enough` is False after the last."""


class Npy:
    """The vectors only, (records, dimension) float32: the file in which they are collected anyway."""

    has_metadata = False
    has_seen_enough = True
    notices: Sequence[str] = ()

    def expect(self, types: Mapping[str, Any]) -> None:
        """As `JsonLines.expect`."""

    def see(self, records: Sequence[Record]) -> None:
        """As `JsonLines.see`; any will do."""

    def confirm(self, records: Sequence[Record]) -> None:
        """As `JsonLines.confirm`."""


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
        # Those whose type was widened: not every value that was seen before must fit.
        self._widened: set[str] = set()
        self._are_known = False

    @property
    def has_seen_enough(self) -> bool:
        """See `JsonLines`."""
        return not self._widened

    @property
    def notices(self) -> Sequence[str]:
        """See `JsonLines`."""
        return [
            f"the values of {name!r} have no common type in Parquet: the column holds their JSON text"
            for name, kind in self._columns.items()
            if kind is None
        ]

    def expect(self, types: Mapping[str, Any]) -> None:
        """As `JsonLines.expect`."""
        self._columns, self._are_known = dict(types), bool(types)

    def see(self, records: Sequence[Record]) -> None:
        """As `JsonLines.see`."""
        _check_no_vector_field(records)
        if self._are_known:
            return
        for name in dict.fromkeys(name for record in records for name in _fields(record)):
            found = _arrow_type(_cells(records, name, as_json=False))
            known = self._columns.setdefault(name, found)
            if found != known:
                self._columns[name] = _common_type(known, found)
                if not {"null"} & {str(known), str(found)}:
                    self._widened.add(name)

    def confirm(self, records: Sequence[Record]) -> None:
        """As `JsonLines.confirm`: a column holds JSON texts if a value does not fit its type."""
        for name in self._widened:
            if self._columns[name] is not None:
                fits = _arrow_type(_cells(records, name, as_json=False), self._columns[name])
                self._columns[name] = fits

    def write(
        self, vectors: Path, target: Path, records: Iterator[Record], about: Mapping[str, object] = NO_METADATA
    ) -> Iterator[int]:
        """Write the whole file, and yield the number of rows of each part.

        Args:
            vectors: a `.npy` file, (records, dimension) float32.
            target: written anew.
            records: one a row.
            about: JSON values by name, kept as a JSON text in the schema's metadata, under `emb_provider`.

        Raises:
            OSError: it cannot be written.
        """
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415

        rows = np.load(vectors, mmap_mode="r")
        types = [(name, pa.string() if kind is None else kind) for name, kind in self._columns.items()]
        schema = pa.schema([*types, (VECTOR_FIELD, pa.list_(pa.float32(), rows.shape[1]))], schema_metadata(about))
        with parquet.ParquetWriter(target, schema) as file:
            for start in range(0, len(rows), _ROWS):
                part = np.ascontiguousarray(rows[start : start + _ROWS])
                chunk = list(islice(records, len(part)))
                columns = [
                    pa.array(_cells(chunk, name, as_json=kind is None), schema.field(name).type)
                    for name, kind in self._columns.items()
                ]
                columns.append(vector_column(part))
                file.write_table(pa.table(columns, schema=schema))
                yield len(chunk)


def vector_column(vectors: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Rows, (records, dimension) float32, as an Arrow array of lists of fixed size."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


Format = JsonLines | Npy | Parquet
FORMATS: Mapping[str, type[Format]] = {"jsonl": JsonLines, "npy": Npy, "parquet": Parquet}
FORMAT_OF_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".npy": "npy", ".parquet": "parquet"}


def metadata_path(output: Path) -> Path:
    """The file beside `output` that says what made it, where the format has no place for that."""
    return output.with_name(output.name + _METADATA_SUFFIX)


def schema_metadata(about: Mapping[str, object]) -> dict[str, str]:
    """What made a Parquet file, for the metadata of its schema."""
    return {_METADATA_KEY: json.dumps(dict(about), ensure_ascii=False)}


def read_metadata(path: Path) -> dict[str, Any] | None:
    """What made a Parquet file; None if it does not say."""
    import pyarrow as pa  # noqa: PLC0415 - an extra
    from pyarrow import parquet  # noqa: PLC0415

    if not path.is_file():
        return None
    try:
        found = json.loads((parquet.read_schema(path).metadata or {})[_METADATA_KEY.encode()])
    except (pa.ArrowException, KeyError, ValueError):
        return None
    return found if isinstance(found, dict) else None


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


def _cells(records: Sequence[Record], name: str, *, as_json: bool) -> list[Any]:
    values = [_fields(record).get(name) for record in records]
    return [None if value is None else json.dumps(value, default=_json) for value in values] if as_json else values


def _arrow_type(values: list[Any], kind: Any = None) -> Any:  # noqa: ANN401 - pyarrow has no types
    """The type of a column that holds all of `values`, `kind` if that is one; None where only JSON text will do."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    try:
        kind = pa.infer_type(values) if kind is None else kind
        pa.array(values, kind)
        # Some types that Arrow has cannot be written to Parquet, such as a struct without fields.
        parquet.write_table(pa.schema([("column", kind)]).empty_table(), pa.BufferOutputStream())
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None
    return kind


def _common_type(one: Any, other: Any) -> Any:  # noqa: ANN401
    """A type for the values of both; None where there is none."""
    import pyarrow as pa  # noqa: PLC0415

    if one is None or other is None:
        return None
    schemas = [pa.schema([("column", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
