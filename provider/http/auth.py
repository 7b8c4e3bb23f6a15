"""API keys: `Authorization: Bearer KEY` as OpenAI's clients send it, or `api-key: KEY` as Azure's do."""

import hashlib
import hmac
import stat
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from attrs import evolve
from litestar.types import ASGIApp, Receive, Scope, Send

from provider.domain import ANONYMOUS, UNLIMITED, Caller
from provider.errors import AuthenticationFailed, AuthenticationMissing, ScopeMissing, SettingsError
from provider.keys import read_keys
from provider.settings import AuthSettings
from provider.usage.quotas import Quotas

_RELOAD_SECONDS = 1.0
# File systems write a file's time with this precision, or a finer one: a younger file may change and keep its time.
_SETTLED_SECONDS = 3.0
_NOT_OURS = bytes(32)
_ADMIN = "admin"

_log = structlog.get_logger("provider.http")


class KeyRing:
    """The accepted keys and whose they are, held as SHA-256 digests only. Used on the event loop's thread.

    A keys file that changes is looked at once a second, and read again by a thread. While it is wrong, its last keys
    hold.

    Attributes:
        is_on: whether a key is needed.
        protected: what else than the API needs one.
    """

    def __init__(
        self,
        settings: AuthSettings,
        names: Mapping[str, str],
        *,
        counts_quotas: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take keys from the settings and from the keys file.

        Args:
            settings: where keys are.
            names: every name of a model, to its configured name.
            counts_quotas: whether keys may have quotas.
            clock: in seconds, for looking at the file once a second.

        Raises:
            SettingsError: a key or the keys file is wrong, or there is none where one is needed.
        """
        self.is_on = settings.needs_key
        self.protected = frozenset(settings.protect)
        self._settings, self._counts_quotas, self._clock = settings, counts_quotas, clock
        self._file = None if settings.keys_file is None else Path(settings.keys_file)
        self._next_look, self._mode, self._problem = clock() + _RELOAD_SECONDS, 0, ""
        # As the keys are written, and with the configured names of their models.
        self._given: dict[bytes, Caller] = {}
        self._callers: dict[bytes, Caller] = {}
        self._names = dict(names)
        self._reading, self._accepting = threading.Lock(), threading.Lock()
        self._seen = self._look()
        self._accept(self._read())
        if self.is_on and not self._callers:
            # An empty file must not open the door that it was meant to close.
            msg = (
                f"auth.keys_file: {self._file} holds no key; add one (`emb-provider keys add NAME`), or remove the "
                "setting to switch keys off"
            )
            raise SettingsError(msg)
        if self.protected and not self.is_on:
            msg = f"auth.protect: {', '.join(sorted(self.protected))} cannot be protected without keys; configure some"
            raise SettingsError(msg)

    @property
    def callers(self) -> frozenset[Caller]:
        """Whose keys are accepted."""
        return frozenset(self._callers.values())

    def named(self, name: str) -> Caller | None:
        """Whose key has that name; None if no accepted key has."""
        return next((each for each in self._callers.values() if each.name == name), None)

    def use_names(self, names: Mapping[str, str]) -> None:
        """Models have changed: a key that is limited to models is from now on limited to those with these names."""
        with self._accepting:
            self._names = dict(names)
            self._resolve()

    def find(self, key: bytes) -> Caller | None:
        """Whose key it is; None if it is not accepted.

        Args:
            key: as it came: UTF-8, or Latin-1 as HTTP's older clients write headers.
        """
        if self._file is not None and self._clock() >= self._next_look:
            self._next_look = self._clock() + _RELOAD_SECONDS
            seen = self._look()
            # After a problem too: a file that could not be read has not changed when it can be.
            if seen is None or seen != self._seen or self._problem:
                self._seen = seen
                threading.Thread(target=self._reload, name="keys", daemon=True).start()
        caller = self._find(key)
        if caller is None and not key.isascii():
            caller = self._find(key.decode("latin-1").encode())
        return caller

    def _find(self, key: bytes) -> Caller | None:
        presented = hashlib.sha256(key).digest()
        # Who measures how long this takes learns of digests at most, and no key follows from its digest.
        caller = self._callers.get(presented)
        known = _NOT_OURS if caller is None else presented
        return caller if hmac.compare_digest(presented, known) else None

    def _read(self) -> dict[bytes, Caller]:
        keys = read_keys(self._settings)
        if not self._counts_quotas and (limited := [each for each in keys if each.caller.quota != UNLIMITED]):
            msg = (
                f"auth: the key of {limited[0].caller.name!r} has a quota, which several workers can only count "
                "together; set auth.usage_file"
            )
            raise SettingsError(msg)
        return {key.digest: key.caller for key in keys}

    def _read_again(self) -> dict[bytes, Caller]:
        if self._file is not None and self._file.exists() and not self._file.is_file():
            msg = f"cannot read auth.keys_file {self._file} again: it is no regular file"
            raise SettingsError(msg)
        return self._read()

    def _accept(self, given: dict[bytes, Caller]) -> None:
        with self._accepting:
            self._given = given
            self._resolve()

    def _resolve(self) -> None:
        self._callers = {digest: self._resolved(caller) for digest, caller in self._given.items()}
        known = set(self._names.values())
        for caller in self.callers:
            if caller.models is not None and (unknown := sorted(caller.models - known)):
                # Not an error: several services may share the file.
                _log.warning("key_of_unknown_models", caller=caller.name, models=unknown)

    def _resolved(self, caller: Caller) -> Caller:
        """With the configured names of its models."""
        if caller.models is None:
            return caller
        return evolve(caller, models=frozenset(self._names.get(name, name) for name in caller.models))

    def _reload(self) -> None:
        """Read the file again, as it may have changed."""
        with self._reading:
            try:
                given = self._read_again()
            except SettingsError as exc:
                if exc.message != self._problem:
                    _log.error("keys_not_reloaded", reason=exc.message, hint="the keys read before still hold")
                self._problem = exc.message
                return
            if self._problem or given != self._given:
                self._accept(given)
                _log.info("keys_reloaded", keys=len(given))
            self._problem = ""

    def _look(self) -> tuple[int, ...] | None:
        """What tells this version of the file from others; None: nothing does yet. Reports a file open to others."""
        try:
            found = None if self._file is None else self._file.stat()
        except OSError:
            found = None
        if found is None:
            return ()
        if found.st_mode != self._mode and found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            mode = f"{stat.S_IMODE(found.st_mode):o}"
            _log.warning(
                "keys_file_open", path=str(self._file), mode=mode, hint="others may read or write it; chmod 600"
            )
        self._mode = found.st_mode
        # A pipe gives its keys once, at the start.
        if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime < _SETTLED_SECONDS:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key that came with a request; empty: none."""
    found = b""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.strip(b" \t").partition(b" ")
            # Of blanks and tabs only: the last byte of a letter may be one of Latin-1's blanks.
            if scheme.lower() == b"bearer" and (token := token.strip(b" \t")):
                return token
        elif name == b"api-key" and not found:
            found = value.strip(b" \t")
    return found


def caller_of(scope: Scope) -> Caller:
    """Who sends the request: set by `RequireKey`."""
    caller: Caller = scope["state"].get("caller", ANONYMOUS)
    return caller


def require_task(scope: Scope, *tasks: str) -> None:
    """See that the caller's key allows one of `tasks`, if any are given. One alone is the request's task.

    Raises:
        ScopeMissing: it allows none of them.
    """
    if len(tasks) == 1:
        scope["state"]["task"] = tasks[0]
    caller = caller_of(scope)
    if tasks and caller.tasks is not None and caller.tasks.isdisjoint(tasks):
        raise ScopeMissing(tasks[0], caller=caller.name, allowed=sorted(caller.tasks))


def sees_models(scope: Scope) -> Callable[[str], bool]:
    """Which models, by their configured names, are shown to the caller on a path that needs no key."""
    ring: KeyRing = scope["litestar_app"].state["key_ring"]
    if "models" not in ring.protected:
        return lambda _: True
    caller = ring.find(presented_key(scope["headers"]))
    return lambda name: caller is not None and caller.may_use(name)


class RequireKey:
    """ASGI middleware of every route under `/v1`, of their other names, and of what `auth.protect` can name.

    A route's `opt` says what it needs beyond a key: `tasks`, of which the key must allow one; `is_admin`; `protected`,
    by which name `auth.protect` closes it.

    Not a guard: for a guard Litestar copies the route's handler on every request.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the route `app`."""
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """ASGI.

        Raises:
            AuthenticationMissing: keys are required and none came.
            AuthenticationFailed: the key is not one of ours.
            ScopeMissing: the key does not allow it.
            LimitExceeded: the key's quota of requests is used up.
        """
        ring: KeyRing = scope["litestar_app"].state["key_ring"]
        if ring.is_on:
            _admit(ring, scope)
        return self._app(scope, receive, send)


def _admit(ring: KeyRing, scope: Scope) -> None:
    needs: Mapping[str, Any] = scope["route_handler"].opt
    if "protected" in needs and needs["protected"] not in ring.protected:
        return
    state = scope["state"]
    caller = state["caller"] = _check(ring, presented_key(scope["headers"]))
    if needs.get("is_admin") and not caller.is_admin:
        raise ScopeMissing(scope=_ADMIN, caller=caller.name, allowed=())
    if not (tasks := needs.get("tasks")):
        return
    require_task(scope, *tasks)
    if caller.quota != UNLIMITED:
        quotas: Quotas = scope["litestar_app"].state["quotas"]
        state["answer_headers"] = partial(quotas.headers, caller)
        quotas.admit(caller)


def _check(ring: KeyRing, key: bytes) -> Caller:
    if not key:
        msg = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "
            "auth (i.e. Authorization: Bearer YOUR_KEY). Ask whoever runs this service for one."
        )
        raise AuthenticationMissing(msg)
    caller = ring.find(key)
    if caller is None:
        msg = f"Incorrect API key provided: {_masked(key)}. Ask whoever runs this service for a key."
        raise AuthenticationFailed(msg)
    return caller


def _masked(key: bytes) -> str:
    text = key.decode("utf-8", "replace")
    return f"{text[:3]}…{text[-4:]}" if len(text) >= 16 else "…"
