"""CORS: pages of the configured origins may call, with whatever headers their clients add."""

import ipaddress
import re

from litestar.config.cors import CORSConfig
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from provider.errors import SettingsError
from provider.settings import ServerSettings

_ANSWER_HEADERS = [
    "x-request-id",
    "openai-processing-ms",
    "retry-after",
    "x-model-fingerprint",
    "x-truncated-inputs",
    "server-timing",
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
]
_PREFLIGHT_SECONDS = 86_400
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|(?:\*\.)?[^\s/?#@:*\[\]]+)(?::([0-9]+|\*))?/?")
_VARY = (b"vary", b"Origin")
_LAST_PORT = 65_535
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def cors_config(server: ServerSettings) -> CORSConfig | None:
    """What `server.cors_origins` asks for; None where it is empty.

    Raises:
        SettingsError: an entry is no origin, and would never match what browsers send.
    """
    if not server.cors_origins:
        return None
    origins = [_origin(given) for given in server.cors_origins]
    if "*" in origins and len(origins) > 1:
        msg = 'server.cors_origins: "*" allows every origin; leave the others out, or "*"'
        raise SettingsError(msg)
    return CORSConfig(
        allow_origins=origins,
        # A method that a path does not have is answered with 405 and a sentence, which pages may read too.
        allow_methods=["*"],
        # Every preflight is granted the headers that it asks for: OpenAI's clients send `user-agent` and more than a
        # dozen of their own, others `x-title` or `baggage`. Keys are what protects the service.
        allow_headers=["*"],
        expose_headers=_ANSWER_HEADERS,
        max_age=_PREFLIGHT_SECONDS,
    )


class HidesForeignOrigins:
    """ASGI wrapper around the application: an origin that is not allowed is answered as if CORS were off.

    Litestar would answer its preflight with an error in plain text.
    """

    def __init__(self, app: ASGIApp, config: CORSConfig) -> None:
        """Wrap `app`."""
        self._app, self._config = app, config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != ScopeType.HTTP or self._config.is_allow_all_origins:
            await self._app(scope, receive, send)
            return
        scope["headers"] = [each for each in scope["headers"] if not self._is_foreign(*each)]

        async def send_with_vary(message: Message) -> None:
            # The answer to one origin, or to none, must not be kept for another.
            if message["type"] == "http.response.start":
                headers = [each for each in message.get("headers", []) if each != _VARY]
                message["headers"] = [*headers, _VARY]
            await send(message)

        await self._app(scope, receive, send_with_vary)

    def _is_foreign(self, name: bytes, value: bytes) -> bool:
        return name == b"origin" and not self._config.is_origin_allowed(value.decode("latin-1"))


def _origin(given: str) -> str:
    """An origin as browsers send it: lower case, without a path and without the scheme's own port."""
    text = given.strip().lower()
    if text in {"*", "null"}:
        return text
    found = _ORIGIN.fullmatch(_ascii(text))
    host, port = (_shortest(found[2]), _number(found[3] or "")) if found else ("", "")
    if found is None or not host or port is None:
        msg = (
            f"server.cors_origins: got {given!r}; an origin is scheme, host and port, without a path, such as "
            'https://app.example.org or http://localhost:3000; "*" allows all, and "null" local files'
        )
        raise SettingsError(msg)
    scheme = found[1]
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


def _shortest(host: str) -> str:
    """Browsers send IPv6 addresses in their shortest form; empty if it is no address."""
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]" if host.startswith("[") else host
    except ValueError:
        return ""


def _number(port: str) -> str | None:
    """A port as browsers send it, without zeros in front; None if there is no such port."""
    number = port.lstrip("0") or port[-1:]
    return number if not port.isdigit() or (len(number) <= 5 and int(number) <= _LAST_PORT) else None


def _ascii(origin: str) -> str:
    """Browsers send hosts in other letters in their ASCII form."""
    scheme, separator, rest = origin.partition("://")
    host, *port = rest.split(":")
    try:
        return scheme + separator + ":".join([host.encode("idna").decode(), *port]) if not host.isascii() else origin
    except UnicodeError:
        return ""
