"""A process's streams, signals and end: usable standard streams, clean-up after a signal, no wait for threads."""

import contextlib
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a process to end."""
_SIGNALLED = 128


def prepare_streams() -> None:
    """Make standard streams usable: call it first.

    A stream that was closed (`2>&-`) would leave its number to the next file or socket that is opened, into which
    libraries would write. Input is empty then, messages are dropped, and writing results fails as it does elsewhere.
    """
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8"))
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        # pytest and notebooks put in others.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors=errors)


def drop_results() -> None:
    """Forget what standard output still holds: Python would try to write it at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def has_reader(number: int) -> bool:
    """Whether what is written to the descriptor `number` may be read: False for a pipe whose other end is closed."""
    streams = select.poll()
    streams.register(number, 0)
    return not any(events & (select.POLLERR | select.POLLHUP) for _, events in streams.poll(0))


@contextlib.contextmanager
def ending_after_interrupt() -> Iterator[None]:
    """Raise SystemExit with 130 at Ctrl-C, as shells expect, unless it is ignored. For the main thread."""
    with _raising([each for each in handled_signals() if each is signal.SIGINT]):
        yield


@contextlib.contextmanager
def exiting_at_once() -> Iterator[None]:
    """End the process without Python's own clean-up after a signal, and where a daemon thread still runs.

    A model that still loads or computes cannot be stopped. Native code in such a thread aborts an interpreter that
    cleans up, and libraries that are half imported complain or crash. Put it around all work.
    """
    try:
        yield
    except SystemExit as exc:
        logging.shutdown()
        is_after_signal = isinstance(exc.code, int) and exc.code > _SIGNALLED
        if is_after_signal or any(thread.daemon for thread in threading.enumerate()):
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(exc.code if isinstance(exc.code, int) else int(exc.code is not None))
        raise


def handled_signals() -> Sequence[signal.Signals]:
    """The stop signals that this process obeys; what it was started to ignore (by nohup, say) stays ignored."""
    return [each for each in STOP_SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]


@contextlib.contextmanager
def cleaning_up_after_signals() -> Iterator[None]:
    """Raise SystemExit with 128 and the signal, so that what is half written is removed. For the main thread."""
    with _raising(handled_signals()):
        yield


@contextlib.contextmanager
def _raising(signals: Sequence[signal.Signals]) -> Iterator[None]:
    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(_SIGNALLED + number)

    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
