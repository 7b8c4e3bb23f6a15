"""Files of jobs on a local disk: written whole or to a known length, within a quota, one process at a time."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Literal, Self

from provider.errors import SettingsError, StorageFull
from provider.jobs.tables import FOLDER_SETTING

# The disk is full, or the user's share of it, or a file has as many bytes as the system lets it have.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# How long the size of all files is believed, but for what this process adds.
_COUNT_SECONDS = 2.0


class FileLost(Exception):
    """A file that a job needs is gone, or has fewer bytes than were written: the job cannot go on.

    Attributes:
        file_id: of the file.
    """

    def __init__(self, file_id: str) -> None:
        super().__init__(f"the file {file_id} is gone or was cut")
        self.file_id = file_id


class JobsFolder:
    """`jobs.folder`. Its methods wait for the disk: call them in threads."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Make the folder if it is not there, for its owner alone.

        Args:
            path: of the folder.
            max_bytes: most bytes of all files.

        Raises:
            SettingsError: it cannot be written.
        """
        self.database = path / "jobs.sqlite"
        self._files, self._leases, self._max_bytes = path / "files", path / "leases", max_bytes
        self._used, self._counted_at = 0, -_COUNT_SECONDS
        try:
            for folder in (self._files, self._leases):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            msg = f"{FOLDER_SETTING}: cannot write {path}: {exc.strerror}"
            raise SettingsError(msg) from exc

    @property
    def used_bytes(self) -> int:
        """Of all files, as counted last."""
        return self._used

    def path(self, file_id: str) -> Path:
        """Where a file is."""
        return self._files / file_id

    def check_room(self, more: int = 0) -> None:
        """See that so many bytes more may be written.

        Raises:
            StorageFull: they would exceed the quota.
        """
        now = time.monotonic()
        if now - self._counted_at > _COUNT_SECONDS:
            self._used, self._counted_at = sum(_size(each) for each in os.scandir(self._files)), now
        if self._used + more > self._max_bytes:
            raise StorageFull(used=self._used, limit=self._max_bytes, more=more)

    @contextmanager
    def creating(self, file_id: str) -> Iterator["NewFile"]:
        """A file to write. It is removed at the end, unless it was kept, and by `sweep` if this process dies."""
        try:
            file = self.path(file_id).open("xb", buffering=0)
        except OSError as exc:
            raise _full(exc) from exc
        with file:
            _lock(file)
            new = NewFile(self, file)
            try:
                yield new
            finally:
                if not new.is_kept:
                    self.remove(file_id)

    def append(self, file_id: str, length: int, data: bytes) -> int:
        """Make a file `length` bytes long, add `data`, and return its length when all of it is on the disk.

        Raises:
            StorageFull: the disk is full; the file has `length` bytes.
            FileLost: it has fewer.
            OSError: the disk is broken.
        """
        if not data:
            return length
        with self.path(file_id).open("ab", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < length:
                raise FileLost(file_id)
            try:
                file.truncate(length)
                _write_all(file, data)
                os.fsync(file.fileno())
            except OSError as exc:
                _cut(file, length)
                raise _full(exc) from exc
        if not length:
            self._sync_folder()
        self._used += len(data)
        return length + len(data)

    def finish(self, file_id: str, length: int) -> None:
        """Cut what stands behind `length`; an empty file is removed.

        Raises:
            FileLost: it has fewer bytes.
            OSError: the disk is broken.
        """
        if not length:
            self.remove(file_id)
            return
        with self.opened(file_id, "r+b") as file:
            if (size := os.fstat(file.fileno()).st_size) < length:
                raise FileLost(file_id)
            if size != length:
                file.truncate(length)

    def opened(self, file_id: str, mode: Literal["rb", "r+b"]) -> BinaryIO:
        """A file that is there.

        Raises:
            FileLost: it is not, though its folder is.
            OSError: the disk is broken.
        """
        try:
            return self.path(file_id).open(mode)
        except FileNotFoundError as exc:
            # Without the folder it is the disk that is away, and may come back.
            self._files.stat()
            raise FileLost(file_id) from exc

    def remove(self, file_id: str) -> None:
        """Remove a file if it is there."""
        self.path(file_id).unlink(missing_ok=True)
        self._counted_at = -_COUNT_SECONDS

    def lease(self, name: str) -> "Lease | None":
        """The right to work on something; None while another process has it. It ends with the process at the latest."""
        path = self._leases / name
        file = path.open("wb", buffering=0)
        # Whoever had it before may have removed the file meanwhile.
        if _try_lock(file) and path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return Lease(file, path)
        file.close()
        return None

    def sweep(self, known: Callable[[], set[str]]) -> None:
        """Remove files that are not among the `known` ones, and that no process writes."""
        found = [each.name for each in os.scandir(self._files)]
        unknown = set(found) - known()
        for name in unknown:
            with contextlib.suppress(OSError), self.path(name).open("rb", buffering=0) as file:
                # A file that was being written may be among the known ones now.
                if _try_lock(file) and name not in known():
                    self.remove(name)

    def _sync_folder(self) -> None:
        number = os.open(self._files, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)

    def write(self, file: FileIO, data: bytes) -> None:
        """Write to a file of `creating`.

        Raises:
            StorageFull: the disk is full, or the quota.
        """
        self.check_room(len(data))
        try:
            _write_all(file, data)
        except OSError as exc:
            raise _full(exc) from exc
        self._used += len(data)

    def keep(self, file: FileIO) -> None:
        """Return when a file of `creating` is on the disk.

        Raises:
            StorageFull: the disk is full.
        """
        try:
            os.fsync(file.fileno())
            self._sync_folder()
        except OSError as exc:
            raise _full(exc) from exc


class NewFile:
    """A file that is being written.

    Attributes:
        size: bytes so far.
        is_kept: whether it stays.
    """

    def __init__(self, folder: JobsFolder, file: FileIO) -> None:
        self.size, self.is_kept = 0, False
        self._folder, self._file = folder, file

    def write(self, data: bytes) -> None:
        """Add `data`.

        Raises:
            StorageFull: the disk is full, or the quota.
        """
        self._folder.write(self._file, data)
        self.size += len(data)

    def sync(self) -> None:
        """Return when all of it is on the disk.

        Raises:
            StorageFull: the disk is full.
        """
        self._folder.keep(self._file)


class Lease:
    """The right to work on something."""

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file, self._path = file, path

    def end(self) -> None:
        """Give it back."""
        self._path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _write_all(file: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _lock(file: FileIO) -> None:
    import fcntl  # noqa: PLC0415 - not on Windows

    fcntl.flock(file, fcntl.LOCK_EX)


def _try_lock(file: FileIO) -> bool:
    import fcntl  # noqa: PLC0415 - not on Windows

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _cut(file: FileIO, length: int) -> None:
    with contextlib.suppress(OSError):
        os.ftruncate(file.fileno(), length)


def _full(exc: OSError) -> Exception:
    return StorageFull(reason=exc.strerror or str(exc)) if exc.errno in _FULL else exc


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0
