"""Lines of text files and of standard input: UTF-8 with or without a byte order mark, gzip or plain, in any locale."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import click

from provider.errors import InvalidRequest

STANDARD_INPUT = Path("-")

BufferedReader: TypeAlias = "io.BufferedReader[Any]"

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_GZIP_MAGIC = b"\x1f\x8b"


def shown_name(path: Path) -> str:
    """How messages call a file."""
    return "standard input" if path == STANDARD_INPUT else str(path)


@contextmanager
def text_lines(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a file, each with its line end: a line feed, and nothing else.

    Args:
        path: `-` is standard input, which stays open.

    Raises:
        InvalidRequest: here or from the iterator: it cannot be read, is no UTF-8 text, or is damaged gzip.
    """
    with _reading(path), _opened(path) as stream:
        yield _decoded(stream, path)


@contextmanager
def binary_file(path: Path) -> Iterator[BufferedReader]:
    """The bytes of a file, decompressed; `-` is standard input, which stays open.

    Raises:
        InvalidRequest: it cannot be read, or is damaged gzip.
    """
    with _reading(path), _opened(path) as stream:
        yield stream


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of the file system and of gzip into one line."""
    name = shown_name(path)
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        msg = f"{name} is damaged gzip: {exc}"
        raise InvalidRequest(msg) from exc
    except OSError as exc:
        msg = f"cannot read {name}: {exc.strerror or exc}"
        raise InvalidRequest(msg) from exc


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    if path != STANDARD_INPUT:
        with path.open("rb") as file:
            yield _decompressed(file)
        return
    if sys.stdin is None:
        msg = "standard input is closed; give texts as arguments or with --file"
        raise InvalidRequest(msg)
    if sys.stdin.isatty():
        click.echo("emb-provider: reading texts from the terminal, one a line; Ctrl-D ends them", err=True)
    source = sys.stdin.buffer
    # A second buffer around it would read on behind the end that a terminal's Ctrl-D is.
    yield _decompressed(source if isinstance(source, io.BufferedReader) else io.BufferedReader(cast("Any", source)))


def _decompressed(stream: BufferedReader) -> BufferedReader:
    if not stream.peek(2).startswith(_GZIP_MAGIC):
        return stream
    return io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=cast("BinaryIO", stream))))


def _decoded(stream: BufferedReader, path: Path) -> Iterator[str]:
    head = stream.peek(4)[:4]
    if head.startswith(_UTF16_MARKS) or b"\0" in head[:2]:
        raise _wrong_encoding(path, "is UTF-16 text", "UTF-16")
    if head.startswith(_UTF8_MARK):
        stream.read(len(_UTF8_MARK))
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as exc:
            what = f"line {number} is not UTF-8 text (byte 0x{line[exc.start]:02x})"
            raise _wrong_encoding(path, what, "WINDOWS-1252") from exc


def _wrong_encoding(path: Path, what: str, encoding: str) -> InvalidRequest:
    name = shown_name(path)
    source = "" if path == STANDARD_INPUT else f" {path}"
    between = " " if what.startswith("is") else ", "
    return InvalidRequest(
        f"{name}{between}{what}; convert it to UTF-8, for example: iconv -f {encoding} -t UTF-8{source}"
    )
