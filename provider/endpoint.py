"""Servers that speak OpenAI's embeddings API: where they listen, and what their errors say."""

from urllib.parse import urlsplit

import msgspec
from attrs import frozen

from provider.errors import InvalidRequest


@frozen
class Endpoint:
    """Where a server listens.

    Attributes:
        base: path of the API, without a slash at its end.
    """

    scheme: str
    host: str
    port: int
    base: str

    @classmethod
    def of(cls, url: str) -> "Endpoint":
        """From the base URL that clients are given.

        Raises:
            InvalidRequest: it is no HTTP URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            msg = f"{url!r} is no base URL of a server; give one like http://localhost:9000/v1"
            raise InvalidRequest(msg)
        base = parts.path.rstrip("/").removesuffix("/embeddings")
        return cls(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), base)

    @property
    def url(self) -> str:
        """The base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.base}"

    def head(self, api_key: str | None, path: str = "/embeddings") -> bytes:
        """The head of a POST to `path` below the base URL, up to the length of the body, which comes next.

        Raises:
            InvalidRequest: no header can carry the key.
        """
        lines = [
            f"POST {self.base}{path} HTTP/1.1".encode("latin-1", "replace"),
            f"Host: {self.url.split('//')[1].split('/')[0]}".encode("latin-1", "replace"),
            *(b"%b: %b" % header for header in bearer(api_key).items()),
            b"Content-Type: application/json",
            b"Content-Length: ",
        ]
        return b"\r\n".join(lines)


def bearer(api_key: str | None) -> dict[bytes, bytes]:
    """The header that carries a key; none without one.

    Raises:
        InvalidRequest: no header can carry it. The message does not have it.
    """
    if not api_key:
        return {}
    if not api_key.isprintable() or api_key != api_key.strip():
        msg = (
            "the key has a line break, a space at an end or another character that no header can carry; correct "
            "--api-key or OPENAI_API_KEY"
        )
        raise InvalidRequest(msg)
    return {b"Authorization": f"Bearer {api_key}".encode()}


def error_message(body: bytes) -> str:
    """What an error's body says, in OpenAI's form or otherwise, in at most 200 characters."""
    try:
        error = msgspec.json.decode(body)
        found = error.get("error", error) if isinstance(error, dict) else error
        message = found.get("message", found) if isinstance(found, dict) else found
        text = str(message)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body.decode("utf-8", "replace")
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:199]}…"
