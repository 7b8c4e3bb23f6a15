"""A server that ends in order: signals, draining, exit codes."""

import asyncio
import contextlib
import contextvars
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, cast

import structlog
import uvicorn
from litestar import Litestar

from provider.engine.engine import Engine
from provider.errors import ProviderError
from provider.http.lifecycle import Lifecycle
from provider.resident import settle_garbage
from provider.server.acceptor import Acceptor
from provider.server.connections import Arrivals, Connections
from provider.server.http1 import Http1Protocol
from provider.server.reload import ConfigurationReader
from provider.server.sockets import announce, listen, log_listening, url_of
from provider.settings import ServerSettings, Settings

_log = structlog.get_logger("provider.server")

# Longer than clients keep idle connections (5 s to 60 s), so that it is they who close them and no request meets a
# closing socket.
_KEEP_ALIVE_SECONDS = 75
# What answers that are already computed get to reach their clients, and clients that have connected to agree on TLS.
_FLUSH_SECONDS = 2
# What the process gets beyond `server.shutdown_seconds` to end, whatever hangs.
_GRACE_SECONDS = 5
# What a request that is on its way when everything is done gets to arrive and be refused properly.
_LINGER_SECONDS = 0.5
# Measured with single texts over 64 connections: 4 % more than with the default; still shorter brings no more.
_SWITCH_SECONDS = 0.0002

STALLED = 70
"""Exit code: every lane of a model hung. EX_SOFTWARE of sysexits.h."""

_BROWSER_HEADERS = [
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
]


class GracefulServer(uvicorn.Server):
    """uvicorn, with an end that loses nothing.

    SIGHUP reads the configuration again, unless it comes because the terminal is gone. The first other SIGHUP, SIGTERM
    or SIGINT makes readiness red and refuses new requests with 503, while accepted ones
    finish within `shutdown_seconds`; then the process ends with 0. A second signal ends it at once.
    """

    protocol: type[Http1Protocol] = Http1Protocol

    def __init__(
        self,
        app: Litestar,
        settings: ServerSettings,
        *,
        on_listening: Callable[[], None],
        on_loaded: Callable[[Sequence[str]], None],
        reader: ConfigurationReader | None = None,
    ) -> None:
        """Nothing starts before `run`.

        Args:
            app: what answers.
            settings: of the server.
            on_listening: called once, when requests are answered.
            on_loaded: called once, when every eager model has loaded or failed, with the names of all models but those
                that failed.
            reader: reads the configuration again at SIGHUP; None: others do, or nobody.
        """
        connections = Connections(settings, app.state.lifecycle.hooks)
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                lifespan="on",
                server_header=False,
                http=cast("Any", partial(self.protocol, limits=connections)),
                headers=_BROWSER_HEADERS,
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_FLUSH_SECONDS,
            )
        )
        self._app, self._settings, self._connections = app, settings, connections
        self._acceptor: Acceptor | None = None
        self._arrivals = Arrivals(connections, self._protocol)
        self._on_listening, self._on_loaded = on_listening, on_loaded
        self._reader, self._reading = reader, asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_draining = False
        self._settled_with: set[tuple[str, int]] = set()
        self.failure: ProviderError | None = None
        self.exit_code = 0
        self._service.upkeep.on_stalled = self._on_stalled
        app.state.lifecycle.count_connections = lambda: len(self.server_state.connections)

    @property
    def _service(self) -> Engine:
        service: Engine = self._app.state.service
        return service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, say so, and watch the models load."""
        self._loop = asyncio.get_running_loop()
        # uvicorn would close its servers before it has accepted every connection that was made.
        await super().startup(sockets=[])
        if self.started:
            self._acceptor = Acceptor(sockets or (), lambda client, _: self._arrivals.take(client))
            self._acceptor.start()
            self._on_listening()
            self._spawn(self._watch_loading())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it."""
        if self._acceptor is not None:
            self._acceptor.close()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn every 100 ms."""
        if counter % 10 == 0:
            # All of them are ours.
            connections = cast("set[Http1Protocol]", self.server_state.connections)
            self._arrivals.reload_certificate()
            self._connections.look(connections, asyncio.get_running_loop().time())
            self._settle()
        return await super().on_tick(counter)

    def _protocol(self) -> asyncio.Protocol:
        """What uvicorn makes for each connection that it accepts itself."""
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

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
        if sig == signal.SIGHUP and self._reader is not None and not self._reader.is_hangup:
            if self._loop is not None and not self._is_draining:
                reading = self._read_configuration(self._reader)
                self._loop.call_soon_threadsafe(self._spawn, reading, context=contextvars.Context())
            return
        if self._is_draining or not self.started:
            os._exit(128 + sig)
        self.end(signal.Signals(sig).name)

    def end(self, reason: str) -> None:
        """Begin to end, from any thread, once the server has started. The second call and further ones do nothing."""
        if not self._is_draining and self._loop is not None:
            self._is_draining = True
            # A signal comes in the middle of a request, whose id is not that of the log lines from here on.
            own = contextvars.Context()
            seconds = self._settings.shutdown_seconds + _GRACE_SECONDS
            overdue = threading.Timer(seconds, lambda: os._exit(self.exit_code or 1))
            overdue.daemon = True
            overdue.start()
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended already
                self._loop.call_soon_threadsafe(lambda: self._spawn(self._drain(reason)), context=own)

    async def _read_configuration(self, reader: ConfigurationReader) -> None:
        async with self._reading:
            settings = await asyncio.to_thread(reader.read_again)
            if settings is not None:
                self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Serve the models of `settings` from now on; on the event loop's thread."""
        if self._is_draining:
            return
        try:
            self._service.reconfigure(settings)
        except ProviderError as exc:
            _log.error("configuration_refused", reason=exc.message)

    async def _drain(self, reason: str) -> None:
        lifecycle: Lifecycle = self._app.state.lifecycle
        lifecycle.drain()
        _log.info(
            "draining", reason=reason, requests=lifecycle.requests.active, seconds=self._settings.shutdown_seconds
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(lifecycle.requests.idle(), self._settings.shutdown_seconds)
        if lifecycle.requests.active:
            _log.warning("requests_abandoned", requests=lifecycle.requests.active)
        # What still waits is answered with 503 rather than cut off.
        await lifecycle.close()
        await self._linger()
        self.should_exit = True

    async def _stop_accepting(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()

    async def _linger(self) -> None:
        """Take no more connections, but answer what is on its way over those there are.

        Closing a connection that holds an unread request resets it, and its client would never learn why.
        """
        await self._stop_accepting()
        await self._arrivals.settled(_FLUSH_SECONDS)
        deadline = asyncio.get_running_loop().time() + _LINGER_SECONDS
        while self.server_state.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - uvicorn's
            await asyncio.sleep(0.01)

    async def _watch_loading(self) -> None:
        """Wait for the eager models, and end if no model at all could be loaded."""
        runtimes = self._service.runtimes.values()
        asked_for = [runtime for runtime in runtimes if not runtime.settings.lazy]
        if asked_for:
            await asyncio.wait([runtime.start_loading() for runtime in asked_for])
        if self.exit_code:
            return
        self._settle()
        if asked_for and all(runtime.failure is not None for runtime in runtimes):
            (self.failure, *_) = (runtime.failure for runtime in asked_for)
            self.should_exit = True
        else:
            self._on_loaded([name for name, each in self._service.runtimes.items() if each.failure is None])

    def _settle(self) -> None:
        """Whenever models have come or gone."""
        models = {(name, each.created) for name, each in self._service.runtimes.items() if each.loaded is not None}
        if models != self._settled_with:
            self._settled_with = models
            settle_garbage()

    def _on_stalled(self, model: str) -> None:
        """A model can run nothing any more, and a thread that hangs cannot be ended: only a new process helps."""
        if not self.exit_code:
            self.exit_code = STALLED
            _log.error("model_stalled", model=model)
            self.end("a model hangs")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        # The loop keeps only a weak reference to a task.
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def run_server(app: Litestar, settings: ServerSettings, reader: ConfigurationReader) -> None:
    """Serve in this process until told to stop.

    Raises:
        CannotListen: the port is taken, or the address is not one of this machine's.
        ProviderError: no model at all could be loaded; this is why the first of them could not.
    """
    sockets = listen(settings)
    server = GracefulServer(
        app,
        settings,
        on_listening=lambda: log_listening(settings, sockets),
        on_loaded=lambda models: announce(models, url_of(settings, sockets)),
        reader=reader,
    )
    serve_on(sockets, server)


def serve_on(sockets: list[socket.socket], server: GracefulServer) -> None:
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
    if server.exit_code:
        sys.exit(server.exit_code)
