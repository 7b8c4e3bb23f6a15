"""Batches of a running server: ours, or any that has OpenAI's Files and Batch API."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import quote

import httpx
import msgspec

from provider.endpoint import Endpoint, bearer, error_message
from provider.errors import InvalidRequest, ServerFailed

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_TIMEOUT = httpx.Timeout(connect=10, read=300, write=300, pool=None)
_LATER = frozenset({408, 429, 500, 502, 503, 504})
_ATTEMPTS = 6
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0

Batch = dict[str, Any]


class BatchServer:
    """A server that runs batches. Made by `opened`."""

    def __init__(self, client: httpx.Client, endpoint: Endpoint, pause: Callable[[float], object]) -> None:
        self._client, self._endpoint, self._pause = client, endpoint, pause

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, url: str, api_key: str | None = None, *, pause: Callable[[float], object] = time.sleep
    ) -> Iterator[Self]:
        """The server at `url`.

        Args:
            url: base URL, as OpenAI's clients have it.
            api_key: the bearer token.
            pause: waits for some seconds; tests do not.

        Raises:
            InvalidRequest: `url` is no URL, or no header can carry the key.
        """
        with httpx.Client(headers=bearer(api_key), timeout=_TIMEOUT) as client:
            yield cls(client, Endpoint.of(url), pause)

    def submit(self, path: Path, *, endpoint: str, window: str, metadata: dict[str, str]) -> Batch:
        """Upload a file, streamed from the disk, and have its requests answered.

        Raises:
            ServerFailed: the server does not answer, or refuses it.
        """
        with path.open("rb") as file:
            # An upload is not repeated: it may have arrived.
            uploaded = self._send(
                "POST", "/files", attempts=1, files={"file": (path.name, file)}, data={"purpose": "batch"}
            )
        body: dict[str, Any] = {
            "input_file_id": uploaded["id"],
            "endpoint": endpoint,
            "completion_window": window,
        }
        body |= {"metadata": metadata} if metadata else {}
        return self._batch("POST", "/batches", attempts=1, json=body)

    def status(self, batch_id: str) -> Batch:
        """The batch of that id.

        Raises:
            ServerFailed: the server does not answer, or has none.
        """
        return self._batch("GET", f"/batches/{_name(batch_id)}")

    def listed(self, limit: int) -> list[Batch]:
        """The newest batches.

        Raises:
            ServerFailed: the server does not answer.
        """
        found = self._send("GET", "/batches", params={"limit": limit})
        if not isinstance(found, dict) or not isinstance(found.get("data"), list):
            raise self._no_batches()
        return [self._checked(each) for each in found["data"]]

    def cancel(self, batch_id: str) -> Batch:
        """Stop a batch.

        Raises:
            ServerFailed: the server does not answer, or it has ended.
        """
        return self._batch("POST", f"/batches/{_name(batch_id)}/cancel")

    def wait(self, batch_id: str, told: Callable[[Batch], object]) -> Batch:
        """The batch when it has ended; `told` hears how far it is meanwhile.

        Raises:
            ServerFailed: the server does not answer.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            batch = self.status(batch_id)
            told(batch)
            if batch["status"] in ENDED:
                return batch
            self._pause(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE_SECONDS)

    def download(self, file_id: str, path: Path | None) -> int:
        """Write a file, which appears when it is complete; None: to standard output. How many bytes it has.

        Raises:
            ServerFailed: the server does not answer, or has none.
            InvalidRequest: `path` cannot be written.
        """
        url = f"{self._endpoint.url}/files/{_name(file_id)}/content"
        size = 0
        try:
            with self._client.stream("GET", url) as response:
                if not response.is_success:
                    response.read()
                    raise self._failure(response)
                with _written(path) if path is not None else sys.stdout.buffer as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
                        size += len(chunk)
        except httpx.TransportError as exc:
            raise _silent(url, exc) from exc
        return size

    def _batch(self, method: str, path: str, **content: Any) -> Batch:  # noqa: ANN401 - httpx's
        return self._checked(self._send(method, path, **content))

    def _checked(self, found: Any) -> Batch:  # noqa: ANN401 - JSON
        if not isinstance(found, dict) or not {"id", "status", "request_counts"} <= found.keys():
            raise self._no_batches()
        return found

    def _no_batches(self) -> ServerFailed:
        return ServerFailed(f"{self._endpoint.url}/batches does not answer with batches; is this the base URL?")

    def _send(self, method: str, path: str, *, attempts: int = _ATTEMPTS, **content: Any) -> Any:  # noqa: ANN401 - JSON
        url, pause = self._endpoint.url + path, _FIRST_PAUSE_SECONDS
        for attempt in range(1, attempts + 1):
            try:
                response = self._client.request(method, url, **content)
            except httpx.TransportError as exc:
                if attempt == attempts:
                    raise _silent(url, exc) from exc
            else:
                if response.is_success:
                    try:
                        return msgspec.json.decode(response.content)
                    except msgspec.DecodeError as exc:
                        msg = f"{url} does not answer with JSON; is it an OpenAI-compatible server?"
                        raise ServerFailed(msg) from exc
                if response.status_code not in _LATER or attempt == attempts:
                    raise self._failure(response)
            self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        raise AssertionError

    def _failure(self, response: httpx.Response) -> Exception:
        message = error_message(response.content)
        hint = " Give the key with --api-key or OPENAI_API_KEY" if response.status_code in (401, 403) else ""
        return ServerFailed(f"{response.url} answers {response.status_code}: {message}{hint}")


def _name(object_id: str) -> str:
    """An id as a part of a path."""
    if not object_id:
        msg = "the id of the batch is empty; `emb-provider batch list` shows ids"
        raise InvalidRequest(msg)
    return quote(object_id, safe="")


@contextlib.contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file that appears when it is complete; a device or a pipe gets bytes at once."""
    # What a link points to is replaced, not the link.
    target = path.resolve()
    is_stream = path.exists() and not path.is_file()
    part = path if is_stream else target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        if not is_stream:
            part.replace(target)
    except OSError as exc:
        msg = f"cannot write {path}: {exc.strerror}"
        raise InvalidRequest(msg) from exc
    finally:
        if not is_stream:
            with contextlib.suppress(OSError):
                part.unlink()


def read_metadata(pairs: tuple[str, ...]) -> dict[str, str]:
    """`KEY=VALUE` of the command line.

    Raises:
        InvalidRequest: one has no `=`.
    """
    for pair in pairs:
        if "=" not in pair:
            msg = f"--metadata {pair!r}: expected KEY=VALUE"
            raise InvalidRequest(msg)
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def _silent(url: str, exc: httpx.TransportError) -> ServerFailed:
    return ServerFailed(f"{url} does not answer ({str(exc) or type(exc).__name__}); start the server, or correct --url")
