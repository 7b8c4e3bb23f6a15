"""A run that is not complete, on disk beside its output, from which the same command goes on.

A folder (`.NAME.part`, or `.part` among shards) holds the rows of the file that is being made; `state.json`, which says
what they were made from; and the file itself while it is written. How far a run got is the size of its files: a row
that a killed process left half-written is cut off. The folder is removed when the output is complete, or when there is
no row in it. A lock keeps two runs apart, and ends with the process that holds it.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Self

import provider
from provider.bulk.formats import NO_METADATA, Format, JsonLines, Parquet, metadata_path, read_metadata
from provider.bulk.layout import Layout
from provider.bulk.rows import LineRows, Rows, VectorRows
from provider.errors import InvalidRequest
from provider.texts.records import Record

# Raised when the files change their meaning: older ones are begun anew.
_VERSION = 2
_STATE, _NEW_STATE, _OUTPUT, _ABOUT, _LOCK = "state.json", "state.new", "output", "about.json", "lock"


class Checkpoint:
    """The unfinished run of one output. Made by `opened`."""

    def __init__(
        self, layout: Layout, form: Format, records: Iterable[Record], total: int, made_from: Mapping[str, object]
    ) -> None:
        self._layout, self._format, self._records, self._total = layout, form, records, total
        shards = {} if layout.shard_rows is None else {"rows_per_shard": layout.shard_rows}
        self._made_from = {**made_from, **shards}
        self._rows: Rows = LineRows() if isinstance(form, JsonLines) else VectorRows()
        self._number = 0
        # Shards of an earlier run, which are removed when a new one begins.
        self._old_shards: list[Path] = []
        self._made: dict[str, Any] = {}
        self._about: dict[str, object] = {}
        # The records of files that are written, behind those that are embedded.
        self._written: Iterator[Record] | None = None

    @classmethod
    @contextmanager
    def opened(
        cls,
        layout: Layout,
        form: Format,
        records: Iterable[Record],
        total: int,
        made_from: Mapping[str, object],
        *,
        restart: bool = False,
    ) -> Iterator[Self]:
        """What an interrupted run left, or a new run.

        Args:
            layout: the files that are to be written.
            form: their format.
            records: what is embedded; read again where the output has their fields.
            total: how many they are.
            made_from: JSON values that the rows depend on, by name; a run with others is not continued.
            restart: remove what an interrupted run left, and the shards of an earlier one.

        Raises:
            InvalidRequest: the folder cannot be written to, another process writes the same output, or an earlier run
                had other inputs or options.
        """
        run = cls(layout, form, records, total, made_from)
        with run._locked():
            try:
                if restart:
                    run._clear()
                    run._old_shards = layout.shards()
                run._resume(run._made_from)
                yield run
            finally:
                run._rows.close()
                if not run._rows.count:
                    run._clear()

    @property
    def done(self) -> int:
        """Rows that are kept."""
        return min(self._number * (self._layout.shard_rows or 0), self._total) + self._rows.count

    @property
    def can_be_continued(self) -> bool:
        """Whether the same command, given again, has something to go on from."""
        return bool(self._made) and self.done > 0

    @property
    def room(self) -> int:
        """Rows that the file still takes."""
        return self._layout.rows(self._number, self._total) - self._rows.count

    @property
    def is_full(self) -> bool:
        """Whether the file has all its rows: then comes `finish`."""
        return self._rows.count > 0 and not self.room

    def begin(self, made_by: Mapping[str, object], dimension: int, about: Mapping[str, object] = NO_METADATA) -> None:
        """Say which model makes the rows, and be ready for `append`.

        Args:
            made_by: as `made_from`, known only now.
            dimension: width of the vectors.
            about: what else the output says of them.

        Raises:
            InvalidRequest: an earlier run had another model, or the folder cannot be written to.
        """
        made = {**self._made_from, **made_by, "dimension": dimension}
        self._resume(made)
        self._made = made
        self._about = {"emb_provider": provider.__version__, **about, "texts": self._total, **made}
        with self._writing():
            for path in self._old_shards:
                path.unlink()
            self._old_shards = []
            self._open_rows()

    def append(self, records: Sequence[Record], outputs: Mapping[str, Any]) -> None:
        """Keep the outputs of the next records, at most `room`.

        Raises:
            InvalidRequest: they cannot be written.
        """
        with self._writing():
            self._rows.append(records, outputs)

    def finish(self) -> Iterator[int]:
        """Write the file and move it to its place; yields the rows of each part that is written.

        Raises:
            InvalidRequest: it cannot be written; the rows are kept.
        """
        written = self._rows_path
        with self._writing():
            try:
                if isinstance(self._format, Parquet):
                    written = self._layout.part / _OUTPUT
                    count, start = self._rows.count, self._number * (self._layout.shard_rows or 0)
                    self._written = self._written or islice(iter(self._records), start, None)
                    records = islice(self._written, count)
                    yield from self._format.write(self._rows_path, written, records, self._about | self._shard())
                self._publish(written)
            finally:
                (self._layout.part / _OUTPUT).unlink(missing_ok=True)

    def _shard(self) -> dict[str, object]:
        """What the metadata of a shard says besides."""
        if self._layout.shard_rows is None:
            return {}
        return {"shard": self._number, "shards": self._layout.files(self._total)}

    def _publish(self, written: Path) -> None:
        """Put a file into its place, and beside it what made it, where it does not say so itself."""
        target = self._layout.file(self._number)
        with written.open("r+b") as file:
            os.fsync(file.fileno())
        if not self._format.has_metadata:
            beside = self._layout.part / _ABOUT
            beside.write_text(json.dumps(self._about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            beside.replace(metadata_path(target))
        written.replace(target)
        _sync_folder(target.parent)
        self._rows.close()
        self._rows_path.unlink(missing_ok=True)
        self._rows.count = 0
        self._number += 1
        if self._number < self._layout.files(self._total):
            self._open_rows()
        else:
            self._clear()

    @property
    def _rows_path(self) -> Path:
        return self._layout.part / f"rows-{self._number:05}{self._rows.suffix}"

    def _open_rows(self) -> None:
        if self._number >= self._layout.files(self._total):
            return
        if not self._rows.count:
            (self._layout.part / _NEW_STATE).write_text(
                json.dumps({"version": _VERSION, "made": self._made}, indent=2), encoding="utf-8"
            )
            (self._layout.part / _NEW_STATE).replace(self._layout.part / _STATE)
        rows = self._layout.rows(self._number, self._total)
        self._rows.open(self._rows_path, self._made["dimension"], rows)

    def _resume(self, made: Mapping[str, object]) -> None:
        """Count the rows of an earlier run, and see that they were made from the same inputs and options."""
        self._number = self._rows.count = 0
        for path in self._layout.shards() if not self._old_shards else ():
            earlier = read_metadata(path)
            if earlier is None:
                msg = f"{path} is no shard that this command made; choose another folder, or move the file"
                raise InvalidRequest(msg)
            self._check_same(earlier, made, f"the shard {path.name}")
            # Shards behind a missing one are made again.
            if path == self._layout.file(self._number):
                self._number += 1
        state = self._read_state()
        if state is None or self._number >= self._layout.files(self._total):
            return
        self._rows.recall(self._rows_path, state["dimension"])
        self._rows.count = min(self._rows.count, self._layout.rows(self._number, self._total))
        if self._rows.count:
            self._check_same(state, made, f"an interrupted run of {self.done} texts")

    def _check_same(self, earlier: Mapping[str, Any], made: Mapping[str, object], what: str) -> None:
        differs = [
            f"{name} was {json.dumps(earlier.get(name))}, is {json.dumps(value)}"
            for name, value in made.items()
            if earlier.get(name) != value
        ]
        if differs:
            msg = (
                f"{self._layout.output}: {what} differs from this one: {'; '.join(differs)}. "
                "Repeat its command to finish it, or pass --restart to begin anew"
            )
            raise InvalidRequest(msg)

    def _read_state(self) -> dict[str, Any] | None:
        """What the rows on disk were made from; None if there are none, or if that cannot be known."""
        try:
            state = json.loads((self._layout.part / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        made = state.get("made") if isinstance(state, dict) and state.get("version") == _VERSION else None
        return made if isinstance(made, dict) and "dimension" in made else None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder for this process; it is removed at the end if nothing but the lock is left in it."""
        part, makes_folder = self._layout.part, self._layout.makes_folder
        with self._writing():
            lock = self._lock(part)
        with lock:
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    if [each.name for each in part.iterdir()] == [_LOCK]:
                        (part / _LOCK).unlink()
                        part.rmdir()
                        if makes_folder:
                            part.parent.rmdir()  # only if it is empty

    def _lock(self, part: Path) -> IO[bytes]:
        while True:
            if self._layout.shard_rows is not None:
                part.parent.mkdir(exist_ok=True)
            part.mkdir(exist_ok=True)
            try:
                lock = (part / _LOCK).open("ab")
            except FileNotFoundError:
                continue  # the run before this one has just removed the folder
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                lock.close()
                msg = f"another process is writing {self._layout.output}; wait for it, or choose another output"
                raise InvalidRequest(msg) from exc
            # Between opening and locking, a run that ended may have removed the file.
            if os.fstat(lock.fileno()).st_nlink:
                return lock
            lock.close()

    def _clear(self) -> None:
        part = self._layout.part
        for path in (*(part / name for name in (_OUTPUT, _ABOUT, _STATE, _NEW_STATE)), *part.glob("rows-*")):
            path.unlink(missing_ok=True)
        self._rows.count = 0

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn errors of the file system into one line."""
        try:
            yield
        except OSError as exc:
            # Libraries (pyarrow) have sentences of their own around the system's.
            msg = f"cannot write {self._layout.output}: {os.strerror(exc.errno) if exc.errno else exc}"
            raise InvalidRequest(msg) from exc


def _sync_folder(folder: Path) -> None:
    """What was moved there stays there, even if the machine fails now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
