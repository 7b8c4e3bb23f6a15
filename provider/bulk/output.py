"""Where vectors go: a file that appears when it is complete, or a stream that shows each vector at once."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from attrs import frozen

from provider.bulk.checkpoint import Checkpoint, LinesCheckpoint
from provider.bulk.formats import FORMAT_OF_SUFFIX, FORMATS, Format, JsonLines, write_json_lines
from provider.domain import DENSE
from provider.errors import InvalidRequest
from provider.texts.records import Record

_STANDARD_OUTPUT = "standard output"


class Stream:
    """JSON lines to a pipe, a device or standard output. Nothing of it can be taken up again."""

    done = 0
    can_be_continued = False

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
            write_json_lines(self._file, records, outputs)
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
        path: None for standard output.
        form: its format.
    """

    path: Path | None
    form: Format

    @classmethod
    def of(cls, output: Path | None, output_format: str, outputs: Sequence[str] = (DENSE,)) -> "Destination":
        """From the command line.

        Args:
            output: a file; None and `-` are standard output.
            output_format: a name in `FORMATS`, or `auto` to go by the file's name.
            outputs: what is written of each text.

        Raises:
            InvalidRequest: the name or the folder is wrong, the format does not go there, or pyarrow is missing.
        """
        path = None if output is None or str(output) == "-" else output
        if path is None or (path.exists() and not path.is_file() and not path.is_dir()):
            if output_format not in ("auto", "jsonl"):
                msg = f"{output_format} is binary and goes to a regular file: add --output FILE"
                raise InvalidRequest(msg)
            return cls(path, JsonLines(outputs))
        _check_place(path)
        if output_format == "auto":
            known = FORMAT_OF_SUFFIX.get(path.suffix.lower())
            if known is None:
                msg = f"{path}: no format goes by that name; end it in {', '.join(FORMAT_OF_SUFFIX)}, or pass --format"
                raise InvalidRequest(msg)
            output_format = known
        if output_format == "jsonl":
            return cls(path, JsonLines(outputs))
        if tuple(outputs) != (DENSE,):
            msg = f"{output_format} holds dense vectors only; for {', '.join(outputs)} end the output's name in .jsonl"
            raise InvalidRequest(msg)
        return cls(path, FORMATS[output_format]())

    @property
    def name(self) -> str:
        """For messages."""
        return _STANDARD_OUTPUT if self.path is None else str(self.path)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file, or none yet; not a stream."""
        return self.path is not None and (self.path.is_file() or not self.path.exists())

    @property
    def is_terminal(self) -> bool:
        """Whether vectors appear where a progress bar would."""
        return self.path is None and sys.stdout is not None and sys.stdout.isatty()

    @contextmanager
    def opened(
        self, records: Sequence[Record], made_from: Mapping[str, object], *, restart: bool
    ) -> Iterator[Checkpoint | Stream]:
        """Ready to take vectors; see `Checkpoint.opened`.

        Raises:
            InvalidRequest: it cannot be written.
        """
        if self.path is None:
            if sys.stdout is None:
                msg = f"{_STANDARD_OUTPUT} is closed: add --output FILE"
                raise InvalidRequest(msg)
            with _silent_at_exit():
                yield Stream(sys.stdout.buffer, _STANDARD_OUTPUT)
        elif not self.is_file:
            # A pipe or a device is written to; moving a file onto it would replace it.
            try:
                file = self.path.open("wb", buffering=0)
            except OSError as exc:
                msg = f"cannot write {self.path}: {exc.strerror}"
                raise InvalidRequest(msg) from exc
            with file:
                yield Stream(file, str(self.path))
        else:
            kind = LinesCheckpoint if isinstance(self.form, JsonLines) and self.form.outputs != (DENSE,) else Checkpoint
            with kind.opened(self.path, self.form, records, made_from, restart=restart) as checkpoint:
                yield checkpoint


def _check_place(path: Path) -> None:
    folder = path.resolve().parent
    if path.is_dir():
        problem = "it is a folder"
    elif not folder.is_dir():
        problem = f"there is no folder {folder}; make it first"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"the folder {folder} is not writable"
    elif path.exists() and not os.access(path, os.W_OK):
        problem = "the file is not writable"
    else:
        return
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
