"""Where vectors go: files that appear when they are complete, or a stream that shows each vector at once."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from attrs import frozen

from provider.bulk.checkpoint import Checkpoint
from provider.bulk.formats import FORMAT_OF_SUFFIX, FORMATS, Format, JsonLines, Parquet, json_lines
from provider.bulk.layout import DEFAULT_SHARD_ROWS, Layout
from provider.domain import DENSE
from provider.errors import InvalidRequest
from provider.texts.records import Record

_STANDARD_OUTPUT = "standard output"


class Stream:
    """JSON lines to a pipe, a device or standard output. Nothing of it can be taken up again."""

    done = 0
    can_be_continued = False
    room = sys.maxsize
    is_full = False

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name

    def begin(self, made_by: Mapping[str, object], dimension: int, about: Mapping[str, object]) -> None:
        """As `Checkpoint.begin`."""

    def append(self, records: Sequence[Record], outputs: Mapping[str, Any]) -> None:
        """Write the next records and their outputs.

        Raises:
            BrokenPipeError: nobody reads any more.
            InvalidRequest: they cannot be written.
        """
        try:
            self._file.write(json_lines(records, outputs))
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as exc:
            msg = f"cannot write {self._name}: {exc.strerror}"
            raise InvalidRequest(msg) from exc

    def finish(self) -> Iterator[int]:
        """As `Checkpoint.finish`: everything is written already."""
        yield from ()


@frozen
class Destination:
    """An output that can be written, as far as that is known before there is anything to write.

    Attributes:
        layout: its files; None for standard output.
        form: its format.
    """

    layout: Layout | None
    form: Format

    @classmethod
    def of(
        cls, output: str | None, output_format: str, shard_rows: int | None = None, outputs: Sequence[str] = (DENSE,)
    ) -> "Destination":
        """From the command line.

        Args:
            output: a file, or a folder for shards; None and `-` are standard output.
            output_format: a name in `FORMATS`, or `auto` to go by the file's name.
            shard_rows: rows of a shard; None for the usual number.
            outputs: what is written of each text.

        Raises:
            InvalidRequest: the name or the folder is wrong, the format does not go there, or pyarrow is missing.
        """
        path = None if output is None or output == "-" else Path(output)
        if path is not None and output is not None and (output.endswith("/") or path.is_dir()):
            return cls._shards(path, output_format, shard_rows or DEFAULT_SHARD_ROWS, outputs)
        if shard_rows is not None:
            msg = "--rows-per-shard is for a folder: end the output's name in /"
            raise InvalidRequest(msg)
        layout = None if path is None else Layout(path)
        if path is None or (path.exists() and not path.is_file()):
            if output_format not in ("auto", "jsonl"):
                msg = f"{output_format} is binary and goes to a regular file: add --output FILE"
                raise InvalidRequest(msg)
            return cls(layout, JsonLines(outputs))
        _check_place(path)
        if output_format == "auto":
            known = FORMAT_OF_SUFFIX.get(path.suffix.lower())
            if known is None:
                msg = (
                    f"{path}: no format goes by that name; end it in {', '.join(FORMAT_OF_SUFFIX)}, in / for a folder "
                    "of Parquet shards, or pass --format"
                )
                raise InvalidRequest(msg)
            output_format = known
        if output_format == "jsonl":
            return cls(layout, JsonLines(outputs))
        _check_dense(output_format, outputs)
        return cls(layout, FORMATS[output_format]())

    @classmethod
    def _shards(cls, path: Path, output_format: str, rows: int, outputs: Sequence[str]) -> "Destination":
        if output_format not in ("auto", "parquet"):
            msg = f"{path} is a folder, which gets shards of Parquet; for {output_format} name a file with --output"
            raise InvalidRequest(msg)
        _check_dense("parquet", outputs)
        _check_place(path)
        return cls(Layout(path, rows), Parquet())

    @property
    def name(self) -> str:
        """For messages."""
        return _STANDARD_OUTPUT if self.layout is None else str(self.layout.output)

    @property
    def is_stream(self) -> bool:
        """Whether it is standard output, a pipe or a device; not a file, or one that is to be made."""
        path = None if self.layout is None else self.layout.output
        return path is None or (path.exists() and not path.is_file() and not path.is_dir())

    @contextmanager
    def opened(
        self, records: Iterable[Record], total: int, made_from: Mapping[str, object], *, restart: bool
    ) -> Iterator[Checkpoint | Stream]:
        """Ready to take vectors; see `Checkpoint.opened`.

        Raises:
            InvalidRequest: it cannot be written.
        """
        if self.layout is None:
            if sys.stdout is None:
                msg = f"{_STANDARD_OUTPUT} is closed: add --output FILE"
                raise InvalidRequest(msg)
            with _silent_at_exit():
                yield Stream(sys.stdout.buffer, _STANDARD_OUTPUT)
        elif self.is_stream:
            # A pipe or a device is written to; moving a file onto it would replace it.
            try:
                file = self.layout.output.open("wb", buffering=0)
            except OSError as exc:
                msg = f"cannot write {self.layout.output}: {exc.strerror}"
                raise InvalidRequest(msg) from exc
            with file:
                yield Stream(file, str(self.layout.output))
        else:
            with Checkpoint.opened(self.layout, self.form, records, total, made_from, restart=restart) as checkpoint:
                yield checkpoint


def is_shown_on_terminal(output: str | None) -> bool:
    """Whether vectors appear where a progress bar would."""
    return output in (None, "-") and sys.stdout is not None and sys.stdout.isatty()


def _check_dense(output_format: str, outputs: Sequence[str]) -> None:
    if tuple(outputs) != (DENSE,):
        msg = f"{output_format} holds dense vectors only; for {', '.join(outputs)} end the output's name in .jsonl"
        raise InvalidRequest(msg)


def _check_place(path: Path) -> None:
    folder = path.resolve().parent
    if path.is_dir():
        problem = "" if os.access(path, os.W_OK | os.X_OK) else "the folder is not writable"
    elif not folder.is_dir():
        problem = f"there is no folder {folder}; make it first"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"the folder {folder} is not writable"
    else:
        problem = "the file is not writable" if path.exists() and not os.access(path, os.W_OK) else ""
    if problem:
        msg = f"cannot write {path}: {problem}"
        raise InvalidRequest(msg)


@contextmanager
def _silent_at_exit() -> Iterator[None]:
    """What could not be written to standard output is not tried again, and complained of, when Python ends."""
    try:
        yield
    except (BrokenPipeError, InvalidRequest):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
