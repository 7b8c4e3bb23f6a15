"""Log lines on their way to a stream: cut to a length, and written by a thread, so that a full pipe stops nobody."""

import contextlib
import logging
import os
import threading
from typing import Any, TextIO

from structlog.typing import EventDict

MOST_CHARACTERS = 200
"""Of a value in a line: clients send paths and names of any length."""
_MOST_OF_OURS = 4_000
_MOST_OF_TRACEBACKS = 20_000
# What we or libraries say, with what a client sent quoted at most.
_OURS = frozenset({"event", "error", "hint", "notice", "reason"})
# Messages of libraries, and tracebacks.
_SEVERAL_LINES = frozenset({"event", "exception"})

_MOST_WAITING = 8 * 1024 * 1024
# So many lines a second are written one by one; more are written together.
_PAUSE_SECONDS = 0.01
_END_SECONDS = 2.0


def cut_values(_logger: object, _method: str, line: EventDict) -> EventDict:
    """A structlog processor: no value is longer than `MOST_CHARACTERS`, but for what we say ourselves."""
    for key, value in line.items():
        if type(value) is str:
            if len(value) > MOST_CHARACTERS:
                line[key] = cut(value, _MOST_OF_OURS if key in _OURS else MOST_CHARACTERS)
        elif isinstance(value, list | tuple | dict):
            line[key] = _cut_inside(value)
    return line


def cut_traceback(_logger: object, _method: str, line: EventDict) -> EventDict:
    """A structlog processor, behind the one that formats exceptions: what they say may quote what a client sent."""
    if "exception" in line:
        line["exception"] = cut(str(line["exception"]), _MOST_OF_TRACEBACKS)
    return line


def escape_values(_logger: object, _method: str, line: EventDict) -> EventDict:
    """A structlog processor for terminals, which would obey control characters that a client sent."""
    for key, value in line.items():
        if isinstance(value, str):
            line[key] = _printable(value, "\n" if key in _SEVERAL_LINES else "")
    return line


def _printable(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in kept else ascii(each)[1:-1] for each in text)


def cut(text: str, most: int) -> str:
    """`text`, with its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    gap = f"… ({len(text)} characters) …"
    head = (most - len(gap)) // 2
    return text[:head] + gap + text[head - most + len(gap) :]


def _cut_inside(value: Any) -> Any:  # noqa: ANN401 - whatever is logged
    match value:
        case str():
            return cut(value, MOST_CHARACTERS)
        case dict():
            return {_cut_inside(key): _cut_inside(each) for key, each in value.items()}
        case list() | tuple():
            return [_cut_inside(each) for each in value]
    return value


class LineWriter(logging.Handler):
    """Writes to a stream by a thread of its own. Where that cannot keep up, lines are dropped and counted.

    It is a handler for what comes through `logging`, and has `write` for lines that are formatted already.
    """

    def __init__(self, stream: TextIO) -> None:
        """Start the thread. `close`, which `logging.shutdown` calls, writes what is left."""
        super().__init__()
        # Past the stream's own buffer, which the end of the process would wait for.
        stream.flush()
        self._file = stream.fileno()
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._waiting = self._dropped = 0
        self._wanted, self._ended = threading.Event(), threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="log lines", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            self.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - as other handlers do
            self.handleError(record)

    def write(self, text: str) -> None:
        """Write `text` soon."""
        with self._lock:
            if self._waiting + len(text) > _MOST_WAITING:
                self._dropped += 1
            else:
                self._waiting += len(text)
                self._lines.append(text)
        if not self._wanted.is_set():
            self._wanted.set()

    def close(self) -> None:
        """Write what is left, if the stream takes it within two seconds."""
        self._is_closing = True
        self._wanted.set()
        self._ended.wait(_END_SECONDS)
        super().close()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            with self._lock:
                lines, self._lines = self._lines, []
                dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(f'{{"event": "log_lines_dropped", "level": "warning", "lines": {dropped}}}\n')
            left = "".join(lines).encode(errors="backslashreplace")
            # What cannot be written is lost, and harms nothing.
            with contextlib.suppress(OSError):
                while left:
                    left = left[os.write(self._file, left) :]
            with self._lock:
                self._waiting -= sum(map(len, lines[: len(lines) - bool(dropped)]))
                is_done = self._is_closing and not self._lines
            if is_done:
                self._ended.set()
                return
            self._ended.wait(_PAUSE_SECONDS)
