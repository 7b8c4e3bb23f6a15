"""One worker process of several: what the supervisor starts as `python -m provider.cli.worker`.

It opens no port. Its supervisor accepts the connections and hands them over, through a Unix socket of their own. Orders
and news go over another connection; see `provider.cli.orders`. When that connection breaks, the supervisor is gone, and
so is the worker.
"""

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from provider.app import create_app
from provider.cli.orders import TERMINAL_SIGNALS, Assignment, Loaded, News
from provider.cli.server import Server, serve_on
from provider.cli.streams import prepare_streams
from provider.errors import ProviderError
from provider.telemetry.logs import configure_logging


class WorkerServer(Server):
    """A server that is handed its connections, and whose end its supervisor decides."""

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
            on_loaded=lambda models: self._tell(Loaded(tuple(models))),
        )
        self._connection = connection
        self._handover = socket.socket(fileno=assignment.handover)
        self._handover.settimeout(0)
        all_loaded = select.poll()
        all_loaded.register(assignment.all_loaded)
        self._service.are_workers_loaded = lambda: bool(all_loaded.poll(0))
        self._has_all = asyncio.Event()
        self._arriving: set[asyncio.Task[None]] = set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Called as a signal handler. Only SIGTERM means this process, and however often, it counts once.

        Some service managers send it to every process of a service, and the supervisor passes on what it got.
        """
        if sig == signal.SIGTERM:
            self.end(signal.Signals(sig).name)

    def end(self, reason: str) -> None:
        """See `Server.end`. A server that has not started has accepted nothing."""
        if not self.started:
            os._exit(0)
        super().end(reason)

    def obey(self) -> None:
        """Wait for orders, in a thread of its own: a busy event loop must not keep a process that nobody wants."""
        try:
            while True:
                self.end(self._connection.recv())
        except (EOFError, OSError):
            os._exit(1)

    def _tell(self, news: News) -> None:
        # A supervisor that is gone has been noticed already, by `obey`.
        with contextlib.suppress(OSError):
            self._connection.send(news)

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._handover, self._take)
        self._tell("listening")

    def _take(self) -> None:
        """Take the connections that have been handed over."""
        try:
            while True:
                byte, numbers, _, _ = socket.recv_fds(self._handover, 1, 1)
                for number in numbers:
                    task = self._spawn(self._adopt(socket.socket(fileno=number)))
                    self._arriving.add(task)
                    task.add_done_callback(self._arriving.discard)
                if not byte:
                    asyncio.get_running_loop().remove_reader(self._handover)
                    self._has_all.set()
                    return
        except BlockingIOError:
            pass

    async def _adopt(self, client: socket.socket) -> None:
        client.settimeout(0)
        # A client that has left already is no event.
        with contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, client)

    def _protocol(self) -> asyncio.Protocol:
        """What uvicorn makes for each connection that it accepts itself."""
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def _take_no_more_connections(self) -> None:
        """The supervisor closes its end when the last connection is through."""
        self._tell("leaving")
        await self._has_all.wait()
        await asyncio.gather(*self._arriving)


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
    configure_logging(assignment.settings.log, worker=assignment.worker)
    try:
        server = WorkerServer(assignment, connection)
        threading.Thread(target=server.obey, name="supervisor", daemon=True).start()
        serve_on([], server)
    except ProviderError as exc:
        connection.send(exc)
        sys.exit(1)


if __name__ == "__main__":
    main()
