"""Waits with a deadline, for what has no event to wait for."""

import threading
import time
from collections.abc import Callable, Iterable

PATIENCE_SECONDS = 120


def wait_until(condition: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return when `condition` holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} seconds"
        time.sleep(0.01)


def join(*threads: threading.Thread) -> None:
    """Return when all threads have ended; fail when one does not in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), f"{thread.name} did not end within {PATIENCE_SECONDS} seconds"


def finish(threads: Iterable[threading.Thread]) -> None:
    """Start all threads and wait for their end."""
    threads = list(threads)
    for thread in threads:
        thread.start()
    join(*threads)
