"""A worker process as its supervisor sees it: start, messages, connections, end."""

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

from provider.cores import Worker
from provider.errors import ProviderError
from provider.server.messages import TERMINAL_SIGNALS, Assignment, End, Ping, Reconfigure, WorkerEvent
from provider.settings import Settings


@define(eq=False)
class WorkerHandle:
    """One worker.

    Attributes:
        connection: for messages; see `provider.server.messages`.
        handover: where its connections go.
        arrivals: where it takes them from.
        is_listening: whether it takes connections.
        is_loaded: whether every eager model has loaded or failed.
        unanswered: calls of `ping` since it last answered.
        failure: why it could not start, once it has said so.
    """

    process: Process
    connection: "Connection[Any, Any]"
    handover: socket.socket
    arrivals: socket.socket
    is_listening: bool = False
    is_loaded: bool = False
    unanswered: int = 0
    failure: ProviderError | None = None

    @classmethod
    async def start(cls, settings: Settings, worker: Worker, all_loaded: int, *, show_progress: bool) -> Self:
        """Start the process and tell it what to do; see `Assignment`.

        Raises:
            OSError: there is no memory or file descriptor for it.
        """
        ours, theirs = Pipe()
        handover, arrivals = socket.socketpair(socket.AF_UNIX)
        with theirs:
            # The working directory is no place to import from; PYTHONPATH still holds.
            command = (sys.executable, "-P", "-m", "provider.server.worker", str(theirs.fileno()))
            with _without_signals():
                passed = (theirs.fileno(), arrivals.fileno(), all_loaded)
                process = await asyncio.create_subprocess_exec(*command, pass_fds=passed)
            ours.send(Assignment(settings, worker, arrivals.fileno(), all_loaded, show_progress))
        handover.settimeout(0)
        return cls(process, ours, handover, arrivals)

    def end(self, reason: str) -> None:
        """Ask it to finish what it accepted and to end. It may be gone already."""
        with contextlib.suppress(OSError):
            self.connection.send(End(reason))

    def reconfigure(self, settings: Settings) -> None:
        """Have it serve other models. It may be gone already; what is started in its place knows them."""
        with contextlib.suppress(OSError):
            self.connection.send(Reconfigure(settings))

    def ping(self) -> None:
        """Ask whether it is alive, unless it still has to answer: a stopped process reads nothing."""
        if not self.unanswered:
            with contextlib.suppress(OSError):
                self.connection.send(Ping())
        self.unanswered += 1

    def receive(self) -> Iterator[WorkerEvent]:
        """The events it has sent since the last call; a failure is kept in `failure`.

        Raises:
            EOFError, OSError: it will say no more.
        """
        while self.connection.poll():
            match self.connection.recv():
                case ProviderError() as failure:
                    self.failure = failure
                case "alive":
                    self.unanswered = 0
                case event:
                    yield event

    def hand_over(self, client: socket.socket) -> bool:
        """Give it a connection; False if it cannot take one: it is draining, or hangs and has many waiting already."""
        try:
            socket.send_fds(self.handover, [b"c"], [client.fileno()])
        except OSError:
            return False
        return True

    def take_back(self) -> Iterator[socket.socket]:
        """The connections that were handed over and that it has not taken; when it has ended."""
        self.arrivals.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            byte = b"c"
            while byte:
                byte, numbers, _, _ = socket.recv_fds(self.arrivals, 1, 1)
                yield from (socket.socket(fileno=number) for number in numbers)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def close(self) -> None:
        """When it has ended."""
        self.connection.close()
        self.handover.close()
        self.arrivals.close()


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    """Block a terminal's signals while a process is started; the new one unblocks them when it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
