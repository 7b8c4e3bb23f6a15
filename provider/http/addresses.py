"""What is answered at which address: names in `Host` that are accepted, and an address for operators only."""

import ipaddress
import re
import socket
from typing import NamedTuple

from litestar.exceptions import NotFoundException
from litestar.types import ASGIApp, Receive, Scope, Send

from provider.errors import HostNotAllowed, SettingsError
from provider.http.routes import LIVE_PATHS, METRICS_PATH, READY_PATHS
from provider.settings import ServerSettings

_LOOPBACK = ("localhost", "127.", "::1", "[::1]")
# A page on the internet cannot have such a name.
_LOCAL_SUFFIXES = (".localhost", ".internal", ".local")
_FOR_OPERATORS = frozenset([*LIVE_PATHS, *READY_PATHS, METRICS_PATH])
_NAME = re.compile(r"(\*\.)?[^\s/?#@:*\[\]]+")
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

        Raises:
            SettingsError: an entry is no name, and would never match what clients send.
        """
        if server.allowed_hosts:
            names = frozenset(map(_name, server.allowed_hosts))
            return None if "*" in names else cls(names)
        is_local = server.uds is None and server.host.startswith(_LOOPBACK)
        return cls(frozenset(), allows_local=True) if is_local and not needs_key else None

    def allow(self, host: str) -> bool:
        """Whether a request may come to `host`, a name or address and perhaps a port."""
        name = host.rpartition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
        name = _plain(name)
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
        if self._admin_port is not None and wrong_port(scope, self._admin_port):
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


def wrong_port(scope: Scope, admin_port: int) -> str:
    """Where to ask instead, if what a request is for is not at the port that it came to; else empty."""
    server, path = scope.get("server"), scope.get("path_template") or scope["path"]
    if server is not None and server[1] == admin_port:
        if path not in _FOR_OPERATORS:
            paths = ", ".join(sorted(_FOR_OPERATORS))
            return f"This port (server.admin_port) answers health and metrics alone: {paths}."
    elif path == METRICS_PATH:
        return "Metrics are at a port of their own here: server.admin_port."
    return ""


def _name(given: str) -> str:
    """A name or address as `allow` compares it."""
    text = given.strip()
    is_address = text.startswith("[") and text.endswith("]") and _is_address(text[1:-1])
    name = _ascii(_plain(text[1:-1] if is_address else text))
    if name != "*" and not _is_address(name) and not _NAME.fullmatch(name):
        msg = (
            f"server.allowed_hosts: got {given!r}; an entry is a name or an address without scheme, port and path, "
            'such as api.example.org, *.example.org or 10.0.0.1; "*" allows all'
        )
        raise SettingsError(msg)
    return name


def _ascii(name: str) -> str:
    """Clients send names in other letters in their ASCII form; empty if there is none."""
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return ""


def _plain(name: str) -> str:
    """In lower case and without the dot at the end; IPv6 addresses in their shortest form."""
    name = name.lower().rstrip(".")
    return str(ipaddress.ip_address(name)) if ":" in name and _is_address(name) else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
