"""Outputs of a file that is not complete: appended on disk as they come, counted again after a crash."""

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

from numpy.lib import format as npy

from provider.bulk.formats import json_lines
from provider.domain import DENSE
from provider.texts.records import Record


class Rows(Protocol):
    """Rows that are kept. A row that a killed process left half-written does not count.

    Attributes:
        suffix: of its file's name.
        count: rows that are kept.
    """

    suffix: str
    count: int

    def recall(self, path: Path, dimension: int) -> None:
        """Count the rows in a file; none if there is no such file, or if it is damaged."""
        ...

    def open(self, path: Path, dimension: int, total: int) -> None:
        """Be ready for more rows, `total` at the end.

        Raises:
            OSError: the file cannot be written to.
        """
        ...

    def append(self, records: Sequence[Record], outputs: Mapping[str, Any]) -> None:
        """Keep the outputs of the next records.

        Raises:
            OSError: they cannot be written; `count` says how many were.
        """
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class _Appended:
    """A file to which rows are appended. Unbuffered: what is written is there, whatever happens to this process."""

    def __init__(self) -> None:
        self.count = 0
        self._file: IO[bytes] | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: Path, kept_bytes: int) -> None:
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(kept_bytes)
        self._file.seek(0, os.SEEK_END)

    def _write(self, content: bytes) -> None:
        assert self._file is not None, "`open` comes first"  # noqa: S101
        rest, written = memoryview(content), 0
        try:
            while written < len(content):
                written += self._file.write(rest[written:])
        finally:
            self.count += self._rows_of(content, written)

    def _rows_of(self, content: bytes, written: int) -> int:
        raise NotImplementedError


class VectorRows(_Appended):
    """Dense vectors, as a `.npy` file: (total, dimension) float32."""

    suffix = ".npy"
    _row_bytes = 0

    def recall(self, path: Path, dimension: int) -> None:
        """See `Rows`."""
        self.count = 0
        try:
            with path.open("rb") as file:
                _read_header(file)
                self.count = (os.fstat(file.fileno()).st_size - file.tell()) // (4 * dimension)
        except (OSError, ValueError):
            return

    def open(self, path: Path, dimension: int, total: int) -> None:
        """See `Rows`."""
        self._row_bytes = 4 * dimension
        if not self.count:
            with path.open("wb") as file:
                shape = (total, dimension)
                npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with path.open("rb") as file:
            _read_header(file)
            kept_bytes = file.tell() + self._row_bytes * self.count
        self._open(path, kept_bytes)

    def append(self, records: Sequence[Record], outputs: Mapping[str, Any]) -> None:  # noqa: ARG002
        """See `Rows`; dense vectors, (records, dimension) float32."""
        self._write(outputs[DENSE].astype("<f4").tobytes())

    def _rows_of(self, content: bytes, written: int) -> int:  # noqa: ARG002
        return written // self._row_bytes


class LineRows(_Appended):
    """Outputs of any kind, as JSON lines."""

    suffix = ".jsonl"

    def recall(self, path: Path, dimension: int) -> None:  # noqa: ARG002
        """See `Rows`."""
        self.count = 0
        try:
            with path.open("rb") as file:
                self.count = sum(line.endswith(b"\n") for line in file)
        except OSError:
            return

    def open(self, path: Path, dimension: int, total: int) -> None:  # noqa: ARG002
        """See `Rows`."""
        if not self.count:
            path.write_bytes(b"")
        with path.open("rb") as file:
            kept_bytes = sum(len(line) for line in islice(file, self.count))
        self._open(path, kept_bytes)

    def append(self, records: Sequence[Record], outputs: Mapping[str, Any]) -> None:
        """See `Rows`."""
        self._write(json_lines(records, outputs))

    def _rows_of(self, content: bytes, written: int) -> int:
        return content.count(b"\n", 0, written)


def _read_header(file: IO[bytes]) -> None:
    """Go to the end of a `.npy` file's header.

    Raises:
        ValueError: it is none.
    """
    npy.read_magic(file)
    npy.read_array_header_1_0(file)
