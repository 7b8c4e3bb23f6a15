"""Vectors of a run that is not complete, on disk beside its output, from which the same command goes on.

`.NAME.part/` holds `vectors.npy`, to which rows are appended; `state.json`, which says what they were made from; and
the output while it is written. How far a run got is the size of the file: a row that a killed process left half-written
is cut off. All of it is removed when the output is complete, or when there is no vector in it. A lock keeps two runs
apart, and ends with the process that holds it.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Self

from numpy.lib import format as npy

import provider
from provider.bulk.formats import NO_METADATA, Format, Npy, json_lines, metadata_path
from provider.domain import DENSE
from provider.errors import InvalidRequest
from provider.texts.records import Record

# Raised when the files change their meaning: older ones are begun anew.
_VERSION = 1
_STATE, _NEW_STATE, _OUTPUT, _ABOUT, _LOCK = "state.json", "state.new", "output", "about.json", "lock"
_VECTORS, _LINES = "vectors.npy", "lines.jsonl"


class Checkpoint:
    """The unfinished run of one output file. Made by `opened`.

    Attributes:
        done: vectors that are kept.
    """

    _data = _VECTORS

    def __init__(self, output: Path, form: Format, records: Sequence[Record], made_from: Mapping[str, object]) -> None:
        self._output, self._format, self._records, self._made_from = output, form, records, made_from
        # What a link points to is replaced, not the link.
        self._target = output.resolve()
        self._folder = self._target.with_name(f".{self._target.name}.part")
        self._file: IO[bytes] | None = None
        self._about: dict[str, object] = {}
        self.done = 0

    @classmethod
    @contextmanager
    def opened(
        cls,
        output: Path,
        form: Format,
        records: Sequence[Record],
        made_from: Mapping[str, object],
        *,
        restart: bool = False,
    ) -> Iterator[Self]:
        """What an interrupted run left, or a new run.

        Args:
            output: the file that is to be written.
            form: its format.
            records: what is embedded.
            made_from: JSON values that the vectors depend on, by name; a run with others is not continued.
            restart: remove what an interrupted run left.

        Raises:
            InvalidRequest: the folder cannot be written to, another process writes the same output, or an interrupted
                run had other inputs or options.
        """
        run = cls(output, form, records, made_from)
        with run._locked():
            try:
                if restart:
                    run._clear()
                run._resume(made_from)
                yield run
            finally:
                if run._file is not None:
                    run._file.close()
                if not run.done:
                    run._clear()

    @property
    def can_be_continued(self) -> bool:
        """Whether the same command, given again, has something to go on from."""
        return self._file is not None and self.done > 0

    def begin(self, made_by: Mapping[str, object], dimension: int, about: Mapping[str, object] = NO_METADATA) -> None:
        """Say which model makes the vectors, and be ready for `append`.

        Args:
            made_by: as `made_from`, known only now.
            dimension: width of the vectors.
            about: what else the output says of them.

        Raises:
            InvalidRequest: an interrupted run had another model, or the folder cannot be written to.
        """
        made = {**self._made_from, **made_by, "dimension": dimension}
        self._resume(made)
        self._about = {"emb_provider": provider.__version__, **about, "texts": len(self._records), **made}
        with _writing(self._output):
            if not self.done:
                self._start(made, dimension)
            # Unbuffered: what is written is there, whatever happens to this process.
            self._file = (self._folder / self._data).open("r+b", buffering=0)
            self._file.truncate(self._kept_bytes(self._file, dimension))
            self._file.seek(0, os.SEEK_END)

    def append(self, records: Sequence[Record], outputs: Mapping[str, Any]) -> None:
        """Keep the outputs of the next records: dense vectors, (records, dimension) float32.

        Raises:
            InvalidRequest: they cannot be written.
        """
        content = outputs[DENSE].astype("<f4").tobytes()
        row_bytes = len(content) // len(records)
        self._write(content, lambda written: written // row_bytes)

    def _write(self, content: bytes, rows: Callable[[int], int]) -> None:
        """Write `content`; `rows` tells of so many of its bytes how many whole rows they are."""
        assert self._file is not None, "`begin` comes first"  # noqa: S101
        rest, written = memoryview(content), 0
        try:
            with _writing(self._output):
                while written < len(content):
                    written += self._file.write(rest[written:])
        finally:
            self.done += rows(written)

    def _kept_bytes(self, file: IO[bytes], dimension: int) -> int:
        return _header_bytes(file) + 4 * dimension * self.done

    def finish(self) -> Iterator[int]:
        """Write the output and move it to its place; yields the rows of each part that is written.

        Raises:
            InvalidRequest: it cannot be written; the vectors are kept.
        """
        written = self._folder / (_VECTORS if isinstance(self._format, Npy) else _OUTPUT)
        with _writing(self._output):
            try:
                if not isinstance(self._format, Npy):
                    yield from self._format.write(self._folder / _VECTORS, written, self._records, self._about)
                self._publish(written)
            finally:
                (self._folder / _OUTPUT).unlink(missing_ok=True)

    def _publish(self, written: Path) -> None:
        """Put the output into its place, and beside it what made it, where it does not say so itself."""
        with written.open("r+b") as file:
            os.fsync(file.fileno())
        if not self._format.has_metadata:
            (self._folder / _ABOUT).write_text(
                json.dumps(self._about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            (self._folder / _ABOUT).replace(metadata_path(self._target))
        written.replace(self._target)
        self._clear()

    def _start(self, made: Mapping[str, object], dimension: int) -> None:
        with (self._folder / _VECTORS).open("wb") as file:
            shape = (len(self._records), dimension)
            npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        self._write_state(made)

    def _write_state(self, made: Mapping[str, object]) -> None:
        state = json.dumps({"version": _VERSION, "made": made}, indent=2)
        (self._folder / _NEW_STATE).write_text(state, encoding="utf-8")
        (self._folder / _NEW_STATE).replace(self._folder / _STATE)

    def _resume(self, made: Mapping[str, object]) -> None:
        """Count the vectors of an interrupted run, and see that they were made from the same inputs and options."""
        earlier = self._read_state()
        self.done = 0 if earlier is None else self._rows_on_disk(earlier)
        if earlier is None or not self.done:
            return
        differs = [
            f"{name} was {json.dumps(earlier.get(name))}, is {json.dumps(value)}"
            for name, value in made.items()
            if earlier.get(name) != value
        ]
        if differs:
            msg = (
                f"{self._output}: an interrupted run of {self.done} texts differs from this one: {'; '.join(differs)}. "
                "Repeat its command to finish it, or pass --restart to begin anew"
            )
            raise InvalidRequest(msg)

    def _read_state(self) -> dict[str, Any] | None:
        """What the vectors on disk were made from; None if there are none, or if that cannot be known."""
        try:
            state = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return state["made"] if isinstance(state, dict) and state.get("version") == _VERSION else None

    def _rows_on_disk(self, made: Mapping[str, Any]) -> int:
        try:
            with (self._folder / _VECTORS).open("rb") as file:
                rows: int = (os.fstat(file.fileno()).st_size - _header_bytes(file)) // (4 * made["dimension"])
        except (OSError, ValueError, KeyError):
            return 0
        return min(rows, len(self._records))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder for this process; it is removed at the end if nothing but the lock is left in it."""
        with _writing(self._output):
            lock = self._lock()
        with lock:
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    if [each.name for each in self._folder.iterdir()] == [_LOCK]:
                        (self._folder / _LOCK).unlink()
                        self._folder.rmdir()

    def _lock(self) -> IO[bytes]:
        while True:
            self._folder.mkdir(exist_ok=True)
            try:
                lock = (self._folder / _LOCK).open("ab")
            except FileNotFoundError:
                continue  # the run before this one has just removed the folder
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                lock.close()
                msg = f"another process is writing {self._output}; wait for it, or choose another output"
                raise InvalidRequest(msg) from exc
            # Between opening and locking, a run that ended may have removed the file.
            if os.fstat(lock.fileno()).st_nlink:
                return lock
            lock.close()

    def _clear(self) -> None:
        for name in (_OUTPUT, _ABOUT, self._data, _STATE, _NEW_STATE):
            (self._folder / name).unlink(missing_ok=True)
        self.done = 0


class LinesCheckpoint(Checkpoint):
    """The same for outputs that are no array: the lines of the output are kept as they come."""

    _data = _LINES

    def append(self, records: Sequence[Record], outputs: Mapping[str, Any]) -> None:
        """See `Checkpoint.append`; outputs of any kind, one entry a record."""
        content = json_lines(records, outputs)
        self._write(content, lambda written: content.count(b"\n", 0, written))

    def finish(self) -> Iterator[int]:
        """See `Checkpoint.finish`."""
        with _writing(self._output):
            self._publish(self._folder / self._data)
        yield len(self._records)

    def _start(self, made: Mapping[str, object], dimension: int) -> None:  # noqa: ARG002
        (self._folder / self._data).write_bytes(b"")
        self._write_state(made)

    def _rows_on_disk(self, made: Mapping[str, Any]) -> int:  # noqa: ARG002
        try:
            with (self._folder / self._data).open("rb") as file:
                rows = sum(line.endswith(b"\n") for line in file)
        except OSError:
            return 0
        return min(rows, len(self._records))

    def _kept_bytes(self, file: IO[bytes], dimension: int) -> int:  # noqa: ARG002
        return sum(len(line) for line in islice(file, self.done))


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Turn errors of the file system into one line."""
    try:
        yield
    except OSError as exc:
        # Libraries (pyarrow) have sentences of their own around the system's.
        msg = f"cannot write {output}: {os.strerror(exc.errno) if exc.errno else exc}"
        raise InvalidRequest(msg) from exc


def _header_bytes(file: IO[bytes]) -> int:
    """The length of a `.npy` file's header.

    Raises:
        ValueError: it is none.
    """
    npy.read_magic(file)
    npy.read_array_header_1_0(file)
    return file.tell()
