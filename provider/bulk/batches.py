"""Batches of a running server: ours, or any that has OpenAI's Files and Batch API."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec

from provider.endpoint import Endpoint, error_message
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
    @contextmanager
    def opened(
        cls, url: str, api_key: str | None = None, *, pause: Callable[[float], object] = time.sleep
    ) -> Iterator[Self]:
        """The server at `url`.

        Args:
            url: base URL, as OpenAI's clients have it.
            api_key: the bearer token.
            pause: waits for some seconds; tests do not.

        Raises:
            InvalidRequest: `url` is no URL.
        """
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        with httpx.Client(headers=headers, timeout=_TIMEOUT) as client:
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
        created: Batch = self._send("POST", "/batches", attempts=1, json=body)
        return created

    def status(self, batch_id: str) -> Batch:
        """The batch of that id.

        Raises:
            ServerFailed: the server does not answer, or has none.
        """
        found: Batch = self._send("GET", f"/batches/{batch_id}")
        return found

    def listed(self, limit: int) -> list[Batch]:
        """The newest batches.

        Raises:
            ServerFailed: the server does not answer.
        """
        found: list[Batch] = self._send("GET", "/batches", params={"limit": limit})["data"]
        return found

    def cancel(self, batch_id: str) -> Batch:
        """Stop a batch.

        Raises:
            ServerFailed: the server does not answer, or it has ended.
        """
        found: Batch = self._send("POST", f"/batches/{batch_id}/cancel")
        return found

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
        """
        url = f"{self._endpoint.url}/files/{file_id}/content"
        part = None if path is None else path.with_name(f".{path.name}.part")
        size = 0
        try:
            with self._client.stream("GET", url) as response:
                if not response.is_success:
                    response.read()
                    raise self._failure(response)
                with sys.stdout.buffer if part is None else part.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
                        size += len(chunk)
        except httpx.TransportError as exc:
            raise _silent(url, exc) from exc
        if part is not None and path is not None:
            part.replace(path)
        return size

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
