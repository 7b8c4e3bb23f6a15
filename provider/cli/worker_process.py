"""A worker process as its supervisor sees it: started, told, heard, given connections."""

import asyncio
import contextlib
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Self

from attrs import define

from provider.cli.orders import TERMINAL_SIGNALS, Assignment, News
from provider.domain import Worker
from provider.errors import ProviderError
from provider.settings import Settings


@define(eq=False)
class WorkerProcess:
    """One worker.

    Attributes:
        connection: for orders and news; see `provider.cli.orders`.
        handover: where its connections go.
        is_listening: whether it takes connections.
        is_loaded: whether every eager model has loaded or failed.
        failure: why it could not start, once it has said so.
    """

    process: Process
    connection: "Connection[Any, Any]"
    handover: socket.socket
    is_listening: bool = False
    is_loaded: bool = False
    failure: ProviderError | None = None

    @classmethod
    async def start(cls, settings: Settings, worker: Worker, all_loaded: int, *, show_progress: bool) -> Self:
        """Start the process and tell it what to do; see `Assignment`.

        Raises:
            OSError: there is no memory or file descriptor for it.
        """
        ours, theirs = Pipe()
        handover, other_end = socket.socketpair(socket.AF_UNIX)
        with theirs, other_end:
            # The working directory is no place to import from; PYTHONPATH still holds.
            command = (sys.executable, "-P", "-m", "provider.cli.worker", str(theirs.fileno()))
            with _without_signals():
                passed = (theirs.fileno(), other_end.fileno(), all_loaded)
                process = await asyncio.create_subprocess_exec(*command, pass_fds=passed)
            ours.send(Assignment(settings, worker, other_end.fileno(), all_loaded, show_progress))
        handover.settimeout(0)
        return cls(process, ours, handover)

    def end(self, reason: str) -> None:
        """Ask it to finish what it accepted and to end. It may be gone already."""
        with contextlib.suppress(OSError):
            self.connection.send(reason)

    def receive(self) -> Iterator[News]:
        """The news it has sent since the last call; a failure is kept in `failure`.

        Raises:
            EOFError, OSError: it will say no more.
        """
        while self.connection.poll():
            match self.connection.recv():
                case ProviderError() as failure:
                    self.failure = failure
                case news:
                    yield news

    def hand_over(self, client: socket.socket) -> bool:
        """Give it a connection; False if it cannot take one: it is gone, or hangs and has many waiting already."""
        try:
            socket.send_fds(self.handover, [b"c"], [client.fileno()])
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def close(self) -> None:
        """When it has ended."""
        self.connection.close()
        self.handover.close()


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    """Block a terminal's signals while a process is started; the new one unblocks them when it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
