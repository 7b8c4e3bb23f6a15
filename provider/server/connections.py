"""How many connections there are, and how long each may leave us waiting: one look at all of them every second."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import structlog

from provider.engine.hooks import ConnectionDropped, DropReason, Hook
from provider.server.tls import Certificate
from provider.settings import ServerSettings

_log = structlog.get_logger("provider.server")

_LOG_SECONDS = 10.0
# Between two looks: the event loop stood still, and bytes that came meanwhile are not read yet.
_STALLED_SECONDS = 2.5


class Connection(Protocol):
    """What can be looked at."""

    def end_if_late(self, now: float) -> None:
        """End the connection if its client has had its time at `now`."""


class Connections:
    """Limits of the connections of one server, and what is told of those that were dropped."""

    def __init__(self, settings: ServerSettings, hook: Hook = lambda _: None) -> None:
        """Nothing was dropped yet."""
        self.settings = settings
        # Connections that are still open, so that their clients can read why they were refused. They take no place.
        self.refused = 0
        self._hook = hook
        self._looked_at = 0.0
        # By reason: how many were dropped since the last line, and when that was.
        self._untold: dict[DropReason, int] = {}
        self._told_at: dict[DropReason, float] = {}

    def look(self, connections: Iterable[Connection], now: float) -> None:
        """Call it every second; a deadline is noticed so much too late at most."""
        is_stalled = now - self._looked_at > _STALLED_SECONDS
        self._looked_at = now
        if not is_stalled:
            for each in list(connections):
                each.end_if_late(now)
        for reason in list(self._untold):
            self._tell(reason, now)

    def dropped(self, reason: DropReason, now: float) -> None:
        """Count a connection that was dropped. An attack makes a line in the log now and then, not one each."""
        self._hook(ConnectionDropped(reason))
        self._untold[reason] = self._untold.get(reason, 0) + 1
        self._tell(reason, now)

    def _tell(self, reason: DropReason, now: float) -> None:
        if now - self._told_at.get(reason, -_LOG_SECONDS) >= _LOG_SECONDS:
            self._told_at[reason] = now
            _log.warning("connections_dropped", reason=reason, connections=self._untold.pop(reason))


class Arrivals:
    """Accepted connections that are not served yet: while TLS is agreed on, nothing else counts them."""

    def __init__(self, connections: Connections, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        """Nothing has arrived yet.

        Args:
            connections: limits, and where those that were dropped are counted.
            make_protocol: called for each connection that is served.

        Raises:
            SettingsError: the certificate cannot be used.
        """
        self._connections, self._make_protocol = connections, make_protocol
        self._certificate = Certificate.of(connections.settings)
        self._arriving: set[asyncio.Task[None]] = set()

    def take(self, client: socket.socket) -> None:
        """Serve a new connection, which is owned from here on."""
        loop = asyncio.get_running_loop()
        # Without TLS all of a burst are attached in a moment, and those beyond the cap are told why they are refused.
        if self._certificate is not None and len(self._arriving) > self._connections.settings.max_connections:
            self._connections.dropped("too_many", loop.time())
            client.close()
            return
        task = loop.create_task(self._attach(client))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def settled(self, seconds: float) -> None:
        """Return when every connection that was taken is served, or gone; after so many seconds in any case."""
        if self._arriving:
            await asyncio.wait(self._arriving, timeout=seconds)

    def reload_certificate(self) -> None:
        """Read the certificate again if its files have changed."""
        if self._certificate is not None:
            self._certificate.reload()

    async def _attach(self, client: socket.socket) -> None:
        client.settimeout(0)
        tls: dict[str, Any] = {}
        if self._certificate is not None:
            tls = self._certificate.for_connections(self._connections.settings.head_seconds)
        # A client that has left already is no event.
        with contextlib.suppress(OSError):
            if client.family != socket.AF_UNIX:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, client, **tls)
