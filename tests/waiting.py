"""Waits with a deadline that a slow machine keeps too, and ports that no other process takes meanwhile."""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable

PATIENCE_SECONDS = 240


def wait_until(condition: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Return when `condition` holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} seconds"
        time.sleep(0.01)


async def until(condition: Callable[[], object]) -> None:
    """As `wait_until`, on an event loop that goes on meanwhile."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - there is no event for this
            await asyncio.sleep(0.005)


async def until_set(event: threading.Event) -> None:
    """Another thread has set `event`."""
    assert await asyncio.to_thread(event.wait, PATIENCE_SECONDS), f"not set within {PATIENCE_SECONDS} seconds"


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


def free_port() -> int:
    """A port for a server that cannot be told 0: below those that systems give out by themselves."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
