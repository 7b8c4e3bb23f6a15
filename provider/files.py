"""Paths and text files that people write."""

from pathlib import Path

from provider.errors import SettingsError


def read_utf8(path: Path, what: str) -> str:
    """The file's text: UTF-8 in every locale, with or without the byte order mark that Windows' editors put first.

    Args:
        path: the file.
        what: what it is, for messages.

    Raises:
        SettingsError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        msg = f"cannot read {what} {path}: {exc.strerror}"
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        msg = f"cannot read {what} {path}: line {line} is not UTF-8 text; save the file as UTF-8"
    raise SettingsError(msg)


def expanded(path: str, where: str) -> str:
    """`path` with the home folder that a `~` at its start means, and as it is without one.

    Args:
        path: as it was written.
        where: the setting that has it, for messages.

    Raises:
        SettingsError: it is the home folder of nobody.
    """
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError as exc:
        user = path.partition("/")[0]
        msg = f"{where}: {path!r} names the home folder of a user, but there is none called {user[1:]!r}; write it out"
        raise SettingsError(msg) from exc
