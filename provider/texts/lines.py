"""Lines of text files and of standard input: UTF-8 with or without a byte order mark, gzip or plain, in any locale."""

import gzip
import io
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Self, TypeAlias, cast

import click

from provider.errors import InvalidRequest

STANDARD_INPUT = Path("-")

BufferedReader: TypeAlias = "io.BufferedReader[Any]"

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_GZIP_MAGIC, _PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"
_COPIED_BYTES = 2**20


def shown_name(path: Path) -> str:
    """How messages call a file."""
    return "standard input" if path == STANDARD_INPUT else str(path)


class TextFile:
    """A file of texts, or standard input.

    Attributes:
        name: for messages.
    """

    def __init__(self, path: Path, copy: IO[bytes] | None = None) -> None:
        """A file that is read where it is; use `rereadable` for one that must be read more than once.

        Args:
            path: `-` is standard input, which stays open.
            copy: what is read instead.
        """
        self.path, self.name, self._copy = path, shown_name(path), copy

    @classmethod
    @contextmanager
    def rereadable(cls, path: Path) -> Iterator[Self]:
        """A file that can be read more than once, from several places at a time.

        Standard input and pipes are copied to a temporary file without a name, which is gone with this process.

        Raises:
            InvalidRequest: it cannot be read, or there is no room for the copy.
        """
        if path != STANDARD_INPUT and (path.is_file() or path.is_dir()):
            yield cls(path)
            return
        with tempfile.TemporaryFile() as copy:
            cls(path).copy_to(copy)
            yield cls(path, copy)

    def copy_to(self, target: IO[bytes]) -> None:
        """Write the bytes there, as they are.

        Raises:
            InvalidRequest: they cannot be read, or there is no room for them.
        """
        with self._reading(), self._source() as source:
            while chunk := source.read1(_COPIED_BYTES):
                try:
                    target.write(chunk)
                    target.flush()
                except OSError as exc:
                    folder = tempfile.gettempdir()
                    msg = f"cannot keep {self.name} in {folder}: {exc.strerror}; set TMPDIR to a folder with room"
                    raise InvalidRequest(msg) from exc

    @contextmanager
    def lines(self) -> Iterator[Iterator[str]]:
        """The lines, each with its line end: a line feed, and nothing else.

        Raises:
            InvalidRequest: here or from the iterator: it cannot be read, is no UTF-8 text, or is damaged gzip.
        """
        with self.content() as stream:
            yield self._decoded(stream)

    @contextmanager
    def content(self) -> Iterator[BufferedReader]:
        """The bytes, decompressed.

        Raises:
            InvalidRequest: it cannot be read, or is damaged gzip.
        """
        with self._reading(), self._source() as source:
            yield _decompressed(source)

    def state(self) -> object:
        """Equal as long as the file is not changed."""
        if self._copy is not None:
            return None
        with self._reading():
            found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn errors of the file system and of gzip into one line."""
        try:
            yield
        except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
            msg = f"{self.name} is damaged gzip: {exc}"
            raise InvalidRequest(msg) from exc
        except OSError as exc:
            msg = f"cannot read {self.name}: {exc.strerror or exc}"
            raise InvalidRequest(msg) from exc

    @contextmanager
    def _source(self) -> Iterator[BufferedReader]:
        if self._copy is not None:
            yield io.BufferedReader(_OwnPosition(self._copy.fileno()))
            return
        if self.path != STANDARD_INPUT:
            with self.path.open("rb") as file:
                yield file
            return
        if sys.stdin is None:
            msg = "standard input is closed; give texts as arguments or with --file"
            raise InvalidRequest(msg)
        if sys.stdin.isatty():
            click.echo("emb-provider: reading texts from the terminal, one a line; Ctrl-D ends them", err=True)
        source = sys.stdin.buffer
        # A second buffer around it would read on behind the end that a terminal's Ctrl-D is.
        yield source if isinstance(source, io.BufferedReader) else io.BufferedReader(cast("Any", source))

    def _decoded(self, stream: BufferedReader) -> Iterator[str]:
        head = stream.peek(4)[:4]
        if head == _PARQUET_MAGIC:
            msg = f"{self.name} is a Parquet file; pass --input-format parquet"
            raise InvalidRequest(msg)
        if head.startswith(_UTF16_MARKS) or b"\0" in head[:2]:
            raise self._wrong_encoding(what="is UTF-16 text", encoding="UTF-16")
        if head.startswith(_UTF8_MARK):
            stream.read(len(_UTF8_MARK))
        for number, line in enumerate(stream, 1):
            try:
                yield line.decode()
            except UnicodeDecodeError as exc:
                what = f"line {number} is not UTF-8 text (byte 0x{line[exc.start]:02x})"
                raise self._wrong_encoding(what=what, encoding="WINDOWS-1252") from exc

    def _wrong_encoding(self, *, what: str, encoding: str) -> InvalidRequest:
        source = "" if self.path == STANDARD_INPUT else f" {self.path}"
        between = " " if what.startswith("is") else ", "
        return InvalidRequest(
            f"{self.name}{between}{what}; convert it to UTF-8, for example: iconv -f {encoding} -t UTF-8{source}"
        )


class _OwnPosition(io.RawIOBase):
    """An open file with a position that no other reader of it moves."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor, self._position = descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = offset + (os.fstat(self._descriptor).st_size if start is None else start)
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - whatever can be written to
        content = memoryview(buffer).cast("B")
        found = os.pread(self._descriptor, len(content), self._position)
        content[: len(found)] = found
        self._position += len(found)
        return len(found)


def _decompressed(stream: BufferedReader) -> BufferedReader:
    if not stream.peek(2).startswith(_GZIP_MAGIC):
        return stream
    return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=cast("BinaryIO", stream))))
