"""API keys: `Authorization: Bearer KEY` as OpenAI's clients send it, or `api-key: KEY` as Azure's do."""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Self

from litestar.datastructures import Headers
from litestar.types import ASGIApp, Receive, Scope, Send

from provider.errors import AuthenticationFailed, AuthenticationMissing, SettingsError
from provider.files import read_utf8
from provider.settings import AuthSettings

_HASHED = re.compile(r"sha256:[0-9a-fA-F]{64}")


class KeyRing:
    """The accepted keys, held as SHA-256 digests only. Empty: everyone may come in."""

    def __init__(self, digests: frozenset[bytes]) -> None:
        self._digests = digests

    @classmethod
    def open(cls, settings: AuthSettings) -> Self:
        """Take keys from the settings and from the keys file.

        Raises:
            SettingsError: the file cannot be read or holds no key, or a hash is not `sha256:` and 64 hex digits.
        """
        keys = [*settings.keys]
        if settings.keys_file is not None:
            keys += _keys_in(Path(settings.keys_file))
        return cls(frozenset(_digest(key) for key in keys))

    @property
    def is_empty(self) -> bool:
        """Whether authentication is off."""
        return not self._digests

    def holds(self, key: bytes) -> bool:
        """Whether `key` is accepted. Takes the same time whichever key is nearly right."""
        presented = hashlib.sha256(key).digest()
        # Every digest is compared, always: stopping at a match would tell how far down the list it is.
        return sum(hmac.compare_digest(presented, digest) for digest in self._digests) > 0


class RequireKey:
    """ASGI middleware of every route under `/v1`, and of `/embeddings`.

    Not a guard: for a guard Litestar copies the route's handler on every request.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the route `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI.

        Raises:
            AuthenticationMissing: keys are required and none came.
            AuthenticationFailed: the key is not one of ours.
        """
        ring: KeyRing = scope["litestar_app"].state.key_ring
        if not ring.is_empty:
            _check(ring, Headers.from_scope(scope))
        await self._app(scope, receive, send)


def _check(ring: KeyRing, headers: Headers) -> None:
    scheme, _space, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else ""
    key = key or headers.get("api-key", "").strip()
    if not key:
        msg = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY). Ask whoever runs this service for one."
        )
        raise AuthenticationMissing(msg)
    # Headers are bytes, which ASGI's servers and Litestar hand on as Latin-1.
    if not ring.holds(key.encode("latin-1")):
        msg = f"Incorrect API key provided: {_masked(key)}. Ask whoever runs this service for a key."
        raise AuthenticationFailed(msg)


def _keys_in(path: Path) -> list[str]:
    lines = read_utf8(path, "auth.keys_file").splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        # An empty file must not open the door that it was meant to close.
        msg = f"auth.keys_file: {path} holds no key; put one key a line, or remove the setting to switch keys off"
        raise SettingsError(msg)
    return keys


def _digest(key: str) -> bytes:
    if _HASHED.fullmatch(key):
        return bytes.fromhex(key.removeprefix("sha256:"))
    if key.startswith("sha256:"):
        msg = "auth.keys: a key that starts with sha256: must go on with the 64 hex digits of the key's SHA-256"
        raise SettingsError(msg)
    return hashlib.sha256(key.encode()).digest()


def _masked(key: str) -> str:
    return f"{key[:3]}…{key[-4:]}" if len(key) >= 16 else "…"
