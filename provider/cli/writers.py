"""Vectors into JSON lines, NumPy or Parquet. A file is written beside its place and moved there when it is complete."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from provider.cli.records import Record
from provider.domain import Vectors
from provider.errors import InvalidRequest

Write = Callable[[Sequence[Record], Vectors], None]

_BY_SUFFIX = {".npy": "npy", ".parquet": "parquet"}


@contextmanager
def open_writer(output: Path | None, output_format: str, *, rows: int, dimension: int) -> Iterator[Write]:
    """A function that takes records and their vectors (records, dimension) float32, in order.

    Args:
        output: the file; None is standard output, JSON lines only.
        output_format: `jsonl`, `npy`, `parquet`, or `auto` to go by the file's name.
        rows: how many there will be.
        dimension: width of the vectors.

    Raises:
        InvalidRequest: the output cannot be written in that format or place.
    """
    if output_format == "auto":
        output_format = _BY_SUFFIX.get(output.suffix, "jsonl") if output else "jsonl"
    if output is None:
        if output_format != "jsonl":
            msg = f"{output_format} is binary and goes to a file: add --output FILE"
            raise InvalidRequest(msg)
        yield _jsonl(sys.stdout.buffer)
        return
    if output.exists() and not output.is_file():
        # A pipe or a device is written to; moving a file onto it would replace it.
        if output.is_dir() or output_format != "jsonl":
            msg = f"cannot write {output_format} to {output}: it is no regular file"
            raise InvalidRequest(msg)
        with output.open("wb") as file:
            yield _jsonl(file)
        return
    # What a link points to is replaced, not the link.
    place = output.resolve()
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with _WRITERS[output_format](part, rows, dimension) as write:
            yield write
        part.replace(place)
    except OSError as exc:
        msg = f"cannot write {output}: {exc.strerror}"
        raise InvalidRequest(msg) from exc
    finally:
        part.unlink(missing_ok=True)


def _jsonl(file: Any) -> Write:  # noqa: ANN401 - a binary file
    def write(records: Sequence[Record], vectors: Vectors) -> None:
        for record, vector in zip(records, vectors, strict=True):
            file.write(_line(record, vector))
        file.flush()

    return write


def _line(record: Record, vector: Any) -> bytes:  # noqa: ANN401 - one row of Vectors
    fields = record.fields or {"text": record.text}
    numbers = orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)
    try:
        return orjson.dumps(fields | {"embedding": orjson.Fragment(numbers)}, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Legal JSON that orjson does not write: integers beyond 64 bits, unpaired surrogates.
        return json.dumps(fields | {"embedding": json.loads(numbers)}).encode() + b"\n"


@contextmanager
def _jsonl_file(part: Path, rows: int, dimension: int) -> Iterator[Write]:  # noqa: ARG001 - all writers are opened alike
    with part.open("wb") as file:
        yield _jsonl(file)


@contextmanager
def _npy_file(part: Path, rows: int, dimension: int) -> Iterator[Write]:
    array = np.lib.format.open_memmap(part, "w+", np.float32, (rows, dimension))
    done = 0

    def write(records: Sequence[Record], vectors: Vectors) -> None:
        nonlocal done
        array[done : done + len(records)] = vectors
        done += len(records)

    yield write
    array.flush()


@contextmanager
def _parquet_file(part: Path, rows: int, dimension: int) -> Iterator[Write]:  # noqa: ARG001
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as exc:
        msg = "Parquet needs pyarrow: pip install 'emb-provider[parquet]'"
        raise InvalidRequest(msg) from exc
    vector = pa.list_(pa.float32(), dimension)
    schema = pa.schema([("text", pa.string()), ("embedding", vector)])
    with parquet.ParquetWriter(part, schema) as file:

        def write(records: Sequence[Record], vectors: Vectors) -> None:
            flat = pa.array(vectors.reshape(-1))
            columns = [[record.text for record in records], pa.FixedSizeListArray.from_arrays(flat, dimension)]
            file.write_table(pa.table(columns, schema=schema))

        yield write


_WRITERS = {"jsonl": _jsonl_file, "npy": _npy_file, "parquet": _parquet_file}
