"""Converted and compiled models on disk, for any number of processes at the same time.

An entry is a folder. It is made beside its place under a lock, and moved there when it is complete: what is there is
whole, unless a disk or a person damaged it. Processes that want the same entry make it once. What a process left
unfinished is removed by the next one that makes an entry: nobody holds its lock any more.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from attrs import frozen

MANIFEST = "manifest.json"
_UNFINISHED, _LOCK = ".unfinished", ".lock"

T = TypeVar("T")

_log = logging.getLogger(__name__)


@frozen
class Entry(Generic[T]):
    """A complete entry.

    Attributes:
        folder: where it is; to be read only.
        content: what was read from it.
        is_new: whether it was made just now.
    """

    folder: Path
    content: T
    is_new: bool


@frozen
class Store:
    """A folder of entries; it need not exist, and need not be writable while all entries are there.

    Attributes:
        folder: where entries and their locks are.
        is_private: whether a new folder is its owner's alone, for entries that hold code.
    """

    folder: Path
    is_private: bool = False

    @classmethod
    def at(cls, folder: str | Path | None, name: str) -> Self:
        """The store in `folder`; without it `emb-provider/NAME` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
        if folder is not None:
            return cls(Path(folder).expanduser())
        base = os.environ.get("XDG_CACHE_HOME")
        return cls((Path(base) if base else Path.home() / ".cache") / "emb-provider" / name)

    def place(self, name: str) -> Path:
        """Where the entry called `name` is, whether it is there or not."""
        return self.folder / name

    def fetch(
        self,
        name: str,
        *,
        make: Callable[[Path], object],
        read: Callable[[Path], T | None],
        is_shared: bool = True,
    ) -> Entry[T]:
        """The entry called `name`; it is made now if it is not there or damaged.

        Args:
            name: of its folder; has to say all that decides what `make` makes, for instance by `key_of`.
            make: writes the entry into an empty folder; what it raises is passed on, and nothing is kept.
            read: what there is to know of the entry in a folder; None where it is not there or not whole.
            is_shared: whether other processes may make the same entry at the same time.

        Raises:
            OSError: the store cannot be written to, or what was made cannot be read back.
        """
        place = self.place(name)
        # Before the lock: what is there may be on read-only media.
        if (content := read(place)) is not None:
            return Entry(place, content, is_new=False)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700 if self.is_private else 0o777)
        with _locked(self.folder / f".{name}{_LOCK}") if is_shared else contextlib.nullcontext():
            # Whoever held the lock before may have made it.
            if (content := read(place)) is not None:
                return Entry(place, content, is_new=False)
            if place.exists():
                _log.warning("the entry in %s is damaged: it is removed and made again", place)
            self._sweep()
            unfinished = self.folder / f".{name}{_UNFINISHED}"
            for left in (unfinished, place):
                shutil.rmtree(left, ignore_errors=True)
            try:
                unfinished.mkdir()
                make(unfinished)
                unfinished.replace(place)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        content = read(place)
        if content is None:
            msg = f"what was written to {place} cannot be read back; is the disk full?"
            raise OSError(msg)
        return Entry(place, content, is_new=True)

    def _sweep(self) -> None:
        """Remove what processes that are gone left unfinished."""
        for unfinished in self.folder.glob(f".*{_UNFINISHED}"):
            lock = unfinished.with_name(unfinished.name.removesuffix(_UNFINISHED) + _LOCK)
            with contextlib.suppress(OSError), _locked(lock, waits=False):
                shutil.rmtree(unfinished, ignore_errors=True)


def key_of(parts: Mapping[str, object]) -> str:
    """16 hex digits over all that decides an entry's content."""
    text = json.dumps({name: str(value) for name, value in parts.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `manifest.json` with the digests of all files of an entry, and facts about it (JSON values)."""
    digests = {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.is_file()}
    document = {"sha256": digests, "facts": dict(facts)}
    (folder / MANIFEST).write_text(json.dumps(document), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The facts of an entry; None if it is not there, or if a file is not what the manifest says. Reads every byte."""
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
        facts: dict[str, Any] = document["facts"]
        is_whole = all(_digest(folder / name) == digest for name, digest in document["sha256"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if is_whole else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path, *, waits: bool = True) -> Iterator[None]:
    """Hold a lock; the kernel gives it back, however this process ends.

    Raises:
        OSError: it cannot be written, or another process holds it and `waits` is False.
    """
    import fcntl  # noqa: PLC0415 - not on Windows

    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        yield
