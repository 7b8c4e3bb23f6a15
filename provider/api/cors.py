"""CORS: pages of the configured origins may call, with whatever headers their clients add."""

import ipaddress
import re

from litestar.config.cors import CORSConfig

from provider.errors import SettingsError
from provider.settings import ServerSettings

_ANSWER_HEADERS = ["x-request-id", "openai-processing-ms", "retry-after", "x-model-fingerprint", "x-truncated-inputs"]
_PREFLIGHT_SECONDS = 86_400
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|(?:\*\.)?[^\s/?#@:*\[\]]+)(?::([0-9]{1,5}|\*))?/?")
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
        allow_methods=["GET", "HEAD", "POST", "OPTIONS"],
        # Every preflight is granted the headers that it asks for: OpenAI's clients send `user-agent` and more than a
        # dozen of their own, others `x-title` or `baggage`. Keys are what protects the service.
        allow_headers=["*"],
        expose_headers=_ANSWER_HEADERS,
        max_age=_PREFLIGHT_SECONDS,
    )


def _origin(given: str) -> str:
    """An origin as browsers send it: lower case, without a path and without the scheme's own port."""
    text = given.strip().lower()
    if text in {"*", "null"}:
        return text
    found = _ORIGIN.fullmatch(_ascii(text))
    host = _shortest(found[2]) if found else ""
    if found is None or not host:
        msg = (
            f"server.cors_origins: got {given!r}; an origin is scheme, host and port, without a path, such as "
            'https://app.example.org or http://localhost:3000; "*" allows all, and "null" local files'
        )
        raise SettingsError(msg)
    scheme, port = found[1], found[3]
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


def _shortest(host: str) -> str:
    """Browsers send IPv6 addresses in their shortest form; empty if it is no address."""
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]" if host.startswith("[") else host
    except ValueError:
        return ""


def _ascii(origin: str) -> str:
    """Browsers send hosts in other letters in their ASCII form."""
    scheme, separator, rest = origin.partition("://")
    host, *port = rest.split(":")
    try:
        return scheme + separator + ":".join([host.encode("idna").decode(), *port]) if not host.isascii() else origin
    except UnicodeError:
        return ""
