"""What is answered at which address: names in `Host` that are accepted, and an address for operators only."""

import ipaddress
import socket
from typing import NamedTuple

from litestar.exceptions import NotFoundException
from litestar.types import ASGIApp, Receive, Scope, Send

from provider.errors import HostNotAllowed
from provider.http.routes import LIVE_PATHS, METRICS_PATH, READY_PATHS
from provider.settings import ServerSettings

_LOOPBACK = ("localhost", "127.", "::1", "[::1]")
# A page on the internet cannot have such a name.
_LOCAL_SUFFIXES = (".localhost", ".internal", ".local")
_FOR_OPERATORS = frozenset([*LIVE_PATHS, *READY_PATHS, METRICS_PATH])
_MOST_KNOWN = 1000


class AllowedHosts(NamedTuple):
    """Names that `Host` may have.

    Attributes:
        names: `*.example.org` stands for all names below.
        allows_local: whether all names count that only this machine or its network can have.
    """

    names: frozenset[str]
    allows_local: bool = False

    @classmethod
    def of(cls, server: ServerSettings, *, needs_key: bool) -> "AllowedHosts | None":
        """Those of the settings; None: all.

        Where nothing is set, no key is needed, and the address is loopback, a page of any site could give its own name
        this machine's address (DNS rebinding) and call the service from its visitor's browser.
        """
        if server.allowed_hosts:
            names = frozenset(each.lower().strip() for each in server.allowed_hosts)
            return None if "*" in names else cls(names)
        is_local = server.uds is None and server.host.startswith(_LOOPBACK)
        return cls(frozenset(), allows_local=True) if is_local and not needs_key else None

    def allow(self, host: str) -> bool:
        """Whether a request may come to `host`, a name or address and perhaps a port."""
        name = host.lower().rpartition("]")[0].lstrip("[") if host.startswith("[") else host.lower().partition(":")[0]
        name = name.rstrip(".")
        if name in self.names or any(name.endswith(each[1:]) for each in self.names if each.startswith("*.")):
            return True
        if not self.allows_local:
            return False
        is_local = "." not in name or name.endswith(_LOCAL_SUFFIXES) or name == socket.gethostname().lower()
        return is_local or _is_address(name)


class ChecksAddress:
    """ASGI middleware of all routes."""

    def __init__(self, app: ASGIApp, *, hosts: AllowedHosts | None, admin_port: int | None) -> None:
        """Wrap `app`.

        Args:
            app: a route.
            hosts: names in `Host` that are accepted; None: all.
            admin_port: where health and metrics alone are answered, and metrics nowhere else; None: there is none.
        """
        self._app, self._hosts, self._admin_port = app, hosts, admin_port
        self._known: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. The first `Host` counts, and HTTP has no more than one.

        Raises:
            NotFoundException: nothing is at this path of this address.
            HostNotAllowed: the request came to a name that is not accepted.
        """
        if self._admin_port is not None:
            server, path = scope.get("server"), scope.get("path_template")
            if server is not None and server[1] == self._admin_port:
                if path not in _FOR_OPERATORS:
                    raise NotFoundException
            elif path == METRICS_PATH:
                raise NotFoundException
        if self._hosts is not None:
            host = b""
            for name, value in scope["headers"]:
                if name == b"host":
                    host = value
                    break
            if host not in self._known:
                self._learn(self._hosts, host)
        await self._app(scope, receive, send)

    def _learn(self, hosts: AllowedHosts, host: bytes) -> None:
        text = host.decode("latin-1")
        if not hosts.allow(text):
            raise HostNotAllowed(text)
        if len(self._known) < _MOST_KNOWN:
            self._known.add(host)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
