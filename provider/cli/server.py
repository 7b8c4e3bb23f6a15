"""The process around the application: sockets, signals, draining, exit codes."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import FrameType
from typing import Any

import click
import structlog
import uvicorn
from litestar import Litestar

from provider.cli.http1 import Http1Protocol
from provider.engine.hooks import ModelState
from provider.engine.service import EmbeddingService
from provider.errors import CannotListen, ProviderError
from provider.settings import ServerSettings

_log = structlog.get_logger("provider.server")

# Longer than clients keep idle connections (5 s to 60 s), so that it is they who close them and no request meets a
# closing socket.
_KEEP_ALIVE_SECONDS = 75
# What answers that are already computed get to reach their clients.
_FLUSH_SECONDS = 5
# What a request that is on its way when everything is done gets to arrive and be refused properly.
_LINGER_SECONDS = 0.5
# Measured with single texts over 64 connections: 4 % more than with the default; still shorter brings no more.
_SWITCH_SECONDS = 0.0002


def listen(settings: ServerSettings) -> list[socket.socket]:
    """Open the listening sockets: for `localhost` both 127.0.0.1 and ::1, where the machine has them; `::` is both too.

    Raises:
        CannotListen: the port is taken, or the address is not one of this machine's.
    """
    host, port = settings.host.removeprefix("[").removesuffix("]"), settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as exc:
        msg = (
            f"cannot listen on {host!r}: the name does not resolve ({exc.strerror}); "
            "set server.host to localhost, 0.0.0.0, :: or an address of this machine"
        )
        raise CannotListen(msg) from exc
    sockets: list[socket.socket] = []
    problem: OSError | None = None
    for family, _, _, _, address in sorted(found, key=lambda each: each[0]):
        try:
            # With port 0 the second family takes the port that the first one got.
            at = (address[0], port or (sockets[0].getsockname()[1] if sockets else 0), *address[2:])
            is_dual = family == socket.AF_INET6 and len(found) == 1 and socket.has_dualstack_ipv6()
            sockets.append(socket.create_server(at, family=family, backlog=2048, dualstack_ipv6=is_dual))
        except OSError as exc:
            problem = exc
            # A machine without IPv6 still resolves ::1; any other problem counts.
            if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
    else:
        if sockets:
            return sockets
    for each in sockets:
        each.close()
    # Not `strerror`: Python appends the address there.
    reason = os.strerror(problem.errno) if problem is not None and problem.errno else "no address"
    hint = (
        "another process listens there; stop it or choose another port with --port or EMB_PROVIDER_PORT"
        if problem is not None and problem.errno == errno.EADDRINUSE
        else "set server.host and server.port to an address of this machine and a port this user may open"
    )
    msg = f"cannot listen on {_in_url(host)}:{port}: {reason}; {hint}"
    raise CannotListen(msg) from problem


class Server(uvicorn.Server):
    """uvicorn, with an end that loses nothing.

    The first SIGTERM, SIGINT or SIGHUP makes readiness red and refuses new requests with 503, while accepted ones
    finish within `shutdown_seconds`; then the process ends with 0. A second signal ends it at once.
    """

    def __init__(
        self,
        app: Litestar,
        settings: ServerSettings,
        *,
        on_listening: Callable[[], None],
        on_loaded: Callable[[Sequence[str]], None],
    ) -> None:
        """Nothing starts before `run`.

        Args:
            app: what answers.
            settings: of the server.
            on_listening: called once, when requests are answered.
            on_loaded: called once, when every eager model has loaded or failed, with the names of all models but those
                that failed.
        """
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                lifespan="on",
                server_header=False,
                http=Http1Protocol,
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_FLUSH_SECONDS,
            )
        )
        self._app, self._settings = app, settings
        self._on_listening, self._on_loaded = on_listening, on_loaded
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_draining = False
        self.failure: ProviderError | None = None

    @property
    def _service(self) -> EmbeddingService:
        service: EmbeddingService = self._app.state.service
        return service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, say so, and watch the models load."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        if self.started:
            self._on_listening()
            self._spawn(self._watch_loading())

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does it, SIGHUP too. Where that is ignored, as under `nohup`, it stays so."""
        before = signal.getsignal(signal.SIGHUP)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.handle_exit)
        with super().capture_signals():
            yield
        signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Called as a signal handler."""
        if self._is_draining or not self.started:
            os._exit(128 + sig)
        self.end(signal.Signals(sig).name)

    def end(self, reason: str) -> None:
        """Begin to end, from any thread, once the server has started. The second call and further ones do nothing."""
        if not self._is_draining and self._loop is not None:
            self._is_draining = True
            self._loop.call_soon_threadsafe(lambda: self._spawn(self._drain(reason)))

    async def _drain(self, reason: str) -> None:
        service = self._service
        service.drain()
        _log.info("draining", reason=reason, requests=service.requests.active, seconds=self._settings.shutdown_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(service.requests.idle(), self._settings.shutdown_seconds)
        if service.requests.active:
            _log.warning("requests_abandoned", requests=service.requests.active)
        # What still waits is answered with 503 rather than cut off.
        await service.close()
        await self._linger()
        self.should_exit = True

    async def _take_no_more_connections(self) -> None:
        # Connections that were made but not yet accepted.
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()

    async def _linger(self) -> None:
        """Take no more connections, but answer what is on its way over those there are.

        Closing a connection that holds an unread request resets it, and its client would never learn why.
        """
        await self._take_no_more_connections()
        deadline = asyncio.get_running_loop().time() + _LINGER_SECONDS
        while self.server_state.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - uvicorn's
            await asyncio.sleep(0.01)

    async def _watch_loading(self) -> None:
        """Wait for the eager models, and end if no model at all could be loaded."""
        runtimes = self._service.runtimes.values()
        asked_for = [runtime for runtime in runtimes if not runtime.settings.lazy]
        if asked_for:
            await asyncio.wait([runtime.start_loading() for runtime in asked_for])
        if asked_for and all(runtime.state is ModelState.FAILED for runtime in runtimes):
            (self.failure, *_) = (runtime.failure for runtime in asked_for)
            self.should_exit = True
        else:
            self._on_loaded([name for name, each in self._service.runtimes.items() if each.state != ModelState.FAILED])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        # The loop keeps only a weak reference to a task.
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def url_of(settings: ServerSettings, sockets: Sequence[socket.socket]) -> str:
    """Where the service listens, as a URL."""
    return f"http://{_in_url(settings.host)}:{sockets[0].getsockname()[1]}"


def _in_url(host: str) -> str:
    """RFC 3986 and 6874: IPv6 addresses stand in brackets, and the scope behind a `%25`."""
    return f"[{host.replace('%', '%25')}]" if ":" in host and not host.startswith("[") else host


def announce(models: Sequence[str], url: str) -> None:
    """End the start with a line for people, on a terminal: log lines are for machines.

    Args:
        models: names of those that are loaded or will be on first use.
        url: of the service.
    """
    if sys.stderr.isatty():
        reachable = url.replace("//0.0.0.0:", "//localhost:").replace("//[::]:", "//localhost:")
        click.echo(f"emb-provider serves {', '.join(models)} at {reachable}/v1 (try it: {reachable}/docs)", err=True)


def log_listening(settings: ServerSettings, sockets: Sequence[socket.socket]) -> None:
    """Say where, when requests are answered."""
    _log.info("listening", url=url_of(settings, sockets), port=sockets[0].getsockname()[1])


def run_server(app: Litestar, settings: ServerSettings) -> None:
    """Serve in this process until told to stop.

    Raises:
        CannotListen: the port is taken, or the address is not one of this machine's.
        ProviderError: no model at all could be loaded; this is why the first of them could not.
    """
    sockets = listen(settings)
    server = Server(
        app,
        settings,
        on_listening=lambda: log_listening(settings, sockets),
        on_loaded=lambda models: announce(models, url_of(settings, sockets)),
    )
    serve_on(sockets, server)


def serve_on(sockets: list[socket.socket], server: Server) -> None:
    """Run `server` until it ends.

    Raises:
        ProviderError: no model at all could be loaded; this is why the first of them could not.
    """
    # Lanes come back from torch hundreds of times a batch and wait each time for whoever holds the interpreter; the
    # default of 5 ms is longer than most of their calls.
    sys.setswitchinterval(_SWITCH_SECONDS)
    server.run(sockets=sockets)
    if server.failure is not None:
        raise server.failure
    if any(thread.daemon for thread in threading.enumerate()):
        # A model that still loads or computes: native code in such a thread aborts an interpreter that ends in order.
        logging.shutdown()
        os._exit(0)
