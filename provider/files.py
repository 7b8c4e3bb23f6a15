"""Text files that people write."""

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
