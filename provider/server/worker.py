"""One worker process of several: what the supervisor starts as `python -m provider.server.worker`.

It opens no port. Its supervisor accepts the connections and hands them over, through a Unix socket of their own.
Messages go over another connection; see `provider.server.messages`. When that connection breaks, the supervisor is
gone, and so is the worker.
"""

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
import threading
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from provider.app import create_app
from provider.errors import ProviderError
from provider.process import exiting_at_once, prepare_streams
from provider.server.graceful import GracefulServer, serve_on
from provider.server.http1 import Http1Protocol
from provider.server.messages import TERMINAL_SIGNALS, Assignment, End, Loaded, Ping, Reconfigure, WorkerEvent
from provider.settings import Settings
from provider.telemetry.logs import configure_logging

# A kept connection ends after so many requests or seconds. The next one goes to the next worker, so that a worker that
# was started again soon has its share.
_CONNECTION_REQUESTS = 200
_CONNECTION_SECONDS = 30.0


class RotatedProtocol(Http1Protocol):
    """A connection that ends after a while, with `connection: close` on its last answer."""

    _requests = 0
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not None and self.cycle is not before:
            self._requests += 1
            if self._requests >= _CONNECTION_REQUESTS or self.loop.time() - self._since >= _CONNECTION_SECONDS:
                self.cycle.keep_alive = False


class WorkerServer(GracefulServer):
    """A server that is handed its connections, and whose end its supervisor decides."""

    protocol = RotatedProtocol

    def __init__(self, assignment: Assignment, connection: "Connection[Any, Any]") -> None:
        """Nothing starts before `run`.

        Raises:
            SettingsError: naming the setting at fault.
        """
        settings = assignment.settings
        super().__init__(
            create_app(settings, worker=assignment.worker, show_progress=assignment.show_progress),
            settings.server,
            on_listening=self._listen,
            on_loaded=lambda models: self._send(Loaded(tuple(models))),
        )
        self._connection, self._sending = connection, threading.Lock()
        self._handover = socket.socket(fileno=assignment.handover)
        self._handover.settimeout(0)
        all_loaded = select.poll()
        all_loaded.register(assignment.all_loaded)
        self._service.are_workers_loaded = lambda: bool(all_loaded.poll(0))
        self._has_all_connections = asyncio.Event()
        self._newest: Settings | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Called as a signal handler. Only SIGTERM means this process, and however often, it counts once.

        Some service managers send it to every process of a service, and the supervisor passes on what it got.
        """
        if sig == signal.SIGTERM:
            self.end(signal.Signals(sig).name)

    def end(self, reason: str) -> None:
        """See `GracefulServer.end`. A server that has not started has accepted nothing."""
        if not self.started:
            os._exit(0)
        super().end(reason)

    def watch_supervisor(self) -> None:
        """Read messages in a thread of its own: a supervisor that is gone ends this process, however busy it is."""
        try:
            while True:
                match self._connection.recv():
                    case End(reason):
                        self.end(reason)
                    case Reconfigure(settings):
                        self._newest = settings
                        if self._loop is not None:
                            with contextlib.suppress(RuntimeError):
                                self._loop.call_soon_threadsafe(self.reconfigure, settings)
                    case Ping():
                        # Before the event loop runs, this thread can only say that the process does.
                        answer = partial(self._send, "alive")
                        # And after it, none is needed.
                        with contextlib.suppress(RuntimeError):
                            answer() if self._loop is None else self._loop.call_soon_threadsafe(answer)
        except (EOFError, OSError):
            os._exit(1)

    def _send(self, event: WorkerEvent) -> None:
        # A supervisor that is gone has been noticed already, by `watch_supervisor`.
        with contextlib.suppress(OSError), self._sending:
            self._connection.send(event)

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._handover, self._receive_connections)
        if self._newest is not None:
            self.reconfigure(self._newest)
        self._send("listening")

    def _receive_connections(self) -> None:
        """Take the connections that have been handed over."""
        try:
            while True:
                byte, numbers, _, _ = socket.recv_fds(self._handover, 1, 1)
                for number in numbers:
                    self._arrivals.take(socket.socket(fileno=number))
                if not byte:
                    asyncio.get_running_loop().remove_reader(self._handover)
                    self._has_all_connections.set()
                    return
        except BlockingIOError:
            pass

    async def _stop_accepting(self) -> None:
        """The supervisor closes its end when the last connection is through."""
        self._send("draining")
        await self._has_all_connections.wait()


def main() -> None:
    """Work until told to end. The supervisor says why it ended; its log lines are this process's own."""
    prepare_streams()
    # Blocked by the supervisor while it started this process, so that none is taken before here.
    for number in TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    try:
        assignment: Assignment = connection.recv()
    except EOFError:
        sys.exit(1)
    configure_logging(assignment.settings.log, worker=assignment.worker, never_block=True)
    with exiting_at_once():
        try:
            server = WorkerServer(assignment, connection)
            threading.Thread(target=server.watch_supervisor, name="supervisor", daemon=True).start()
            serve_on([], server)
        except ProviderError as exc:
            connection.send(exc)
            sys.exit(1)
        sys.exit()


if __name__ == "__main__":
    main()
