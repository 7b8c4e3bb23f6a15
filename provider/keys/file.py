"""Keys, read from the settings and the keys file; keys added to that file, and taken out of it."""

import contextlib
import hashlib
import io
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

from attrs import frozen

from provider.domain import Caller
from provider.errors import SettingsError
from provider.files import read_utf8
from provider.keys.rights import caller_of_rights, read_rights, rights_text
from provider.settings import AuthSettings

FILE_SETTING = "auth.keys_file"
_PREFIX = "sha256:"
_HASHED = re.compile(rf"{_PREFIX}[0-9a-fA-F]{{64}}")
_KEY_BYTES = 32


@frozen
class ApiKey:
    """One key.

    Attributes:
        digest: SHA-256 of the key's UTF-8.
        caller: whose it is.
        is_hashed: whether it is written as its hash.
    """

    digest: bytes
    caller: Caller
    is_hashed: bool

    @property
    def id(self) -> str:
        """What tells it from other keys of the same name."""
        return self.digest.hex()[:8]


def parse_key(line: str, where: str, name: str | None = None) -> ApiKey:
    """The key that a line describes; `provider.keys` says how.

    Args:
        line: the key and its rights.
        where: where it is written, for messages.
        name: of the key, where that is given beside the line.

    Raises:
        SettingsError: naming what is wrong with it; never the key.
    """
    # Blanks and tabs alone end a key: `str.split` knows further blanks.
    key, _, rest = line.strip(" \t").replace("\t", " ").partition(" ")
    is_hashed = key.startswith(_PREFIX)
    if is_hashed and not _HASHED.fullmatch(key):
        msg = f"{where}: a key that starts with sha256: must go on with the 64 hex digits of the key's SHA-256"
        raise SettingsError(msg)
    if not key or not key.isprintable():
        msg = f"{where}: expected a key of printable characters, as a header has to carry it"
        raise SettingsError(msg)
    digest = bytes.fromhex(key.removeprefix(_PREFIX)) if is_hashed else _digest(key)
    words = read_rights(rest, where)
    if name is not None and words.setdefault("name", name) != name:
        msg = f"{where}: the key of {name!r} has the name {words['name']!r} too; leave one of them out"
        raise SettingsError(msg)
    words.setdefault("name", f"key-{digest.hex()[:8]}")
    return ApiKey(digest, caller_of_rights(words, where), is_hashed)


def read_keys(settings: AuthSettings) -> list[ApiKey]:
    """All keys of the settings and of the keys file.

    Raises:
        SettingsError: a key or the file is wrong, or keys of one name have different rights.
    """
    given = settings.keys.items() if isinstance(settings.keys, dict) else ((None, key) for key in settings.keys)
    keys = [parse_key(line, "auth.keys", name) for name, line in given]
    if settings.keys_file is not None:
        keys += read_keys_file(Path(settings.keys_file))
    _check(keys)
    return keys


def read_keys_file(path: Path) -> list[ApiKey]:
    """The keys of a file.

    Raises:
        SettingsError: it cannot be read, or a line is wrong.
    """
    return [key for key in map(_key_in, *_lines(path)) if key is not None]


def add_key(path: Path, caller: Caller) -> tuple[str, ApiKey]:
    """Make a key for `caller`, and write its hash into the file, which need not exist.

    Returns:
        The key itself, which is nowhere else, and what was written.

    Raises:
        SettingsError: the file is wrong, cannot be written, or has a key of that name with other rights.
    """
    key = f"sk-{secrets.token_urlsafe(_KEY_BYTES)}"
    added = ApiKey(_digest(key), caller, is_hashed=True)
    with _rewriting(path) as (lines, places):
        _check([added, *(each for each in map(_key_in, lines, places) if each is not None)])
        lines.append(f"{_PREFIX}{added.digest.hex()} {rights_text(caller)}")
    return key, added


def revoke_keys(path: Path, name: str) -> list[ApiKey]:
    """Take all keys of that name, or the one with that id, out of the file; they are returned.

    Raises:
        SettingsError: there is none, or the file is wrong or cannot be written.
    """
    with _rewriting(path) as (lines, places):
        keys = list(map(_key_in, lines, places))
        revoked = [key for key in keys if key is not None and name in {key.caller.name, key.id}]
        if not revoked:
            msg = f"{FILE_SETTING}: {path} has no key of the name or id {name!r}; `emb-provider keys list` shows them"
            raise SettingsError(msg)
        lines[:] = [line for line, key in zip(lines, keys, strict=True) if key not in revoked]
    return revoked


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _check(keys: Iterable[ApiKey]) -> None:
    """A key has one name, and a name has one set of rights: usage and quotas go by it."""
    by_digest: dict[bytes, Caller] = {}
    by_name: dict[str, Caller] = {}
    for key in keys:
        if by_digest.setdefault(key.digest, key.caller) != key.caller:
            names = f"{by_digest[key.digest].name!r} and {key.caller.name!r}"
            msg = f"auth: one key is given twice, with the names or rights of {names}; remove one of them"
            raise SettingsError(msg)
        if by_name.setdefault(key.caller.name, key.caller) != key.caller:
            msg = f"auth: two keys are called {key.caller.name!r}, with different rights; rename one, or write the same"
            raise SettingsError(msg)


def _lines(path: Path) -> tuple[list[str], list[str]]:
    """The lines of a file, and the place of each for messages."""
    # By line breaks alone: `str.splitlines` knows further ones, and would read the rest of a comment as a key.
    lines = [line.removesuffix("\n") for line in io.StringIO(read_utf8(path, FILE_SETTING), newline=None)]
    return lines, [f"{FILE_SETTING}: {path}, line {number}" for number in range(1, len(lines) + 1)]


def _key_in(line: str, where: str) -> ApiKey | None:
    return None if not line.strip() or line.lstrip().startswith("#") else parse_key(line, where)


@contextlib.contextmanager
def _rewriting(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """The file's lines, to be changed, and their places; written at the end, whole or not at all."""
    import fcntl  # noqa: PLC0415 - not on Windows

    path = path.resolve()  # a link stays one
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(path.parent, os.O_RDONLY)
            stack.callback(os.close, folder)
            # The folder's lock, as the file is replaced: of two commands at once, one would lose its change.
            fcntl.flock(folder, fcntl.LOCK_EX)
            before = path.stat() if path.exists() else None
            lines, places = _lines(path) if before else ([], [])
            yield lines, places
            _replace(path, "".join(f"{line}\n" for line in lines), before)
        except OSError as exc:
            msg = f"cannot write {FILE_SETTING} {path}: {exc.strerror}"
            raise SettingsError(msg) from exc


def _replace(path: Path, text: str, before: os.stat_result | None) -> None:
    """Write a file for its owner alone; for the group of the file that was there too, if others could not read that."""
    with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            if before is not None:
                for owner in (-1, before.st_uid):
                    with contextlib.suppress(PermissionError):
                        os.fchown(file.fileno(), owner, before.st_gid)
                is_groups = os.fstat(file.fileno()).st_gid == before.st_gid
                if is_groups and not before.st_mode & stat.S_IRWXO:
                    # The service may run as another user of the group.
                    os.fchmod(file.fileno(), 0o600 | (before.st_mode & stat.S_IRGRP))
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
