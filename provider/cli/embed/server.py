"""Vectors from a running server: ours, or any that speaks OpenAI's embeddings API."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import click
import httpx
import numpy as np
import orjson

from provider.cli.embed.embedder import Options, refused
from provider.cli.endpoint import Endpoint, error_message
from provider.cli.records import Record
from provider.domain import Embedded, Timings, Truncated, Usage, Vectors
from provider.errors import ServerFailed

# Seconds. A batch of long texts may take a slow server minutes.
_TIMEOUT = httpx.Timeout(connect=10, read=600, write=60, pool=None)
# Statuses of a server that may answer later, and for how long it is asked again.
_LATER = frozenset({408, 429, 502, 503, 504})
_ATTEMPTS = 8
# A server that has never answered is more likely not there at all.
_FIRST_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 60.0
_PROBE = "Is anybody there?"
_INPUT = re.compile(r"input\[(\d+)\]")

Pause = Callable[[float], Awaitable[object]]


class ServerEmbedder:
    """A server as an `Embedder`. Made by `opened`."""

    most_characters = 65_536
    most_calls = 4

    def __init__(
        self, client: httpx.AsyncClient, endpoint: Endpoint, options: Options, batch_size: int, pause: Pause
    ) -> None:
        self._client, self._endpoint, self._options, self._pause = client, endpoint, options, pause
        self.most_texts = batch_size
        self.model = self.fingerprint = ""
        self.dimension = 0
        self.facts: Mapping[str, object] = {}
        self._has_answered = False

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        url: str,
        options: Options,
        *,
        model: str | None = None,
        api_key: str | None = None,
        batch_size: int,
        pause: Pause = asyncio.sleep,
    ) -> AsyncIterator[Self]:
        """Ask the server for one vector, which shows its model, fingerprint and dimension.

        Args:
            url: base URL, as OpenAI's clients have it.
            options: sent with every request.
            model: None for the first one that the server lists.
            api_key: the bearer token.
            batch_size: texts of one request.
            pause: waits for some seconds; tests do not.

        Raises:
            InvalidRequest: `url` is no URL.
            ServerFailed: the server does not answer, or not with a vector.
        """
        endpoint = Endpoint.of(url)
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        async with httpx.AsyncClient(headers=headers, timeout=_TIMEOUT) as client:
            self = cls(client, endpoint, options, batch_size, pause)
            self.model = model or await self._first_model()
            probe = await self._ask([_PROBE])
            self.dimension, self.fingerprint = probe.vectors.shape[1], probe.fingerprint
            source = {"fingerprint": self.fingerprint} if self.fingerprint else {"server": endpoint.url}
            asked = [f"--{name.replace('_', '-')}" for name in options.given() if name != "dimensions"]
            if asked and not self.fingerprint:
                message = f"{endpoint.url} is no emb-provider; whether it obeys {', '.join(asked)} is not known"
                click.echo(f"emb-provider: {message}", err=True)
            self.facts = source | {"model": self.model} | options.given()
            yield self

    async def check(self, records: Sequence[Record], advance: Callable[[int], None]) -> None:
        """See `Embedder`. Nothing is checked here: only the server can tokenise, and refuses a text in its turn."""

    async def embed(self, records: Sequence[Record]) -> Embedded:
        """See `Embedder`.

        Raises:
            InvalidRequest: the server names an input at fault.
            ServerFailed: it does not answer, or something else than vectors of the model that it began with.
        """
        embedded = await self._ask([record.text for record in records], records)
        if (embedded.fingerprint, embedded.vectors.shape[1]) != (self.fingerprint, self.dimension):
            msg = (
                f"{self._endpoint.url} changed the model during the run: fingerprint {self.fingerprint or 'unknown'}, "
                f"{self.dimension} dimensions, now {embedded.fingerprint or 'unknown'}, {embedded.vectors.shape[1]}"
            )
            raise ServerFailed(msg)
        return embedded

    async def _first_model(self) -> str:
        response = await self._send("GET", "/models")
        listed = _document(response).get("data") if response.is_success else None
        if isinstance(listed, list) and listed and isinstance(listed[0], dict) and listed[0].get("id"):
            return str(listed[0]["id"])
        self._check_key(response)
        msg = f"{self._endpoint.url}/models lists no model ({response.status_code}); name one with --model"
        raise ServerFailed(msg)

    async def _ask(self, texts: Sequence[str], records: Sequence[Record] = ()) -> Embedded:
        body = {"model": self.model, "input": texts, "encoding_format": "base64"} | self._options.given()
        try:
            content = orjson.dumps(body)
        except TypeError as exc:
            bad = next(i for i, text in enumerate(texts) if not _is_unicode(text))
            problem = f"{records[bad].place}: it is not valid Unicode (an unpaired surrogate)"
            raise refused([problem], any_too_long=False) from exc
        response = await self._send("POST", "/embeddings", content)
        if not response.is_success:
            raise self._failure(response, records)
        document = _document(response)
        vectors = _vectors(document)
        if vectors is None or len(vectors) != len(texts):
            msg = (
                f"{self._endpoint.url}/embeddings does not answer {len(texts)} inputs with as many vectors; "
                "is it an OpenAI-compatible server?"
            )
            raise ServerFailed(msg)
        if self._options.dimensions not in (None, vectors.shape[1]):
            msg = f"{self._endpoint.url} ignores --dimensions: its vectors have {vectors.shape[1]}"
            raise ServerFailed(msg)
        usage = document.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        return Embedded(
            vectors,
            Usage(len(texts), tokens if isinstance(tokens, int) else 0),
            _truncated(document),
            Timings(),
            response.headers.get("x-model-fingerprint", ""),
        )

    async def _send(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        """The answer; where there is none, or the server is busy, another attempt after a pause.

        Raises:
            ServerFailed: all attempts failed.
        """
        url = self._endpoint.url + path
        pause = _FIRST_PAUSE_SECONDS
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._client.request(
                    method, url, content=content, headers={"content-type": "application/json"}
                )
            except httpx.TransportError as exc:
                if attempt == (_ATTEMPTS if self._has_answered else _FIRST_ATTEMPTS):
                    msg = (
                        f"{url} does not answer ({str(exc) or type(exc).__name__}); start the server, or correct --url"
                    )
                    raise ServerFailed(msg) from exc
                wanted = 0.0
            else:
                self._has_answered = True
                wanted = _retry_after(response)
                is_final = response.status_code not in _LATER or response.headers.get("x-should-retry") == "false"
                if is_final or attempt == _ATTEMPTS or wanted > _LONGEST_PAUSE_SECONDS:
                    return response
            await self._pause(max(pause, wanted))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _failure(self, response: httpx.Response, records: Sequence[Record]) -> Exception:
        self._check_key(response)
        error = _document(response).get("error")
        fields: dict[str, Any] = error if isinstance(error, dict) else {}
        at = _INPUT.fullmatch(str(fields.get("param")))
        message = error_message(response.content)
        if at is None or int(at[1]) >= len(records):
            hint = ". A smaller --batch-size may help" if response.status_code in (413, 422) else ""
            return ServerFailed(f"{self._endpoint.url}/embeddings answers {response.status_code}: {message}{hint}")
        place = records[int(at[1])].place
        if fields.get("code") == "context_length_exceeded":
            return refused([f"{place}: more tokens than the model takes"], any_too_long=True)
        return refused([f"{place}: {message}"], any_too_long=False)

    def _check_key(self, response: httpx.Response) -> None:
        if response.status_code in (401, 403):
            msg = (
                f"{self._endpoint.url} answers {response.status_code}: {error_message(response.content)} "
                "Give the key with --api-key or OPENAI_API_KEY"
            )
            raise ServerFailed(msg)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to wait: a number or a date."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _document(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer; empty if it is something else."""
    try:
        document = orjson.loads(response.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _vectors(document: dict[str, Any]) -> Vectors | None:
    """The vectors in the order of the inputs, whichever way they are written; None if there are none."""
    try:
        data = sorted(document["data"], key=lambda each: each["index"])
        rows = [
            np.frombuffer(base64.b64decode(value), "<f4") if isinstance(value, str) else np.array(value, np.float32)
            for value in (each["embedding"] for each in data)
        ]
        vectors = np.stack(rows).astype(np.float32, copy=False)
    except (KeyError, TypeError, ValueError):
        return None
    return vectors if vectors.ndim == 2 and np.isfinite(vectors).all() else None


def _truncated(document: dict[str, Any]) -> tuple[Truncated, ...]:
    """The inputs that this service says it cut; other servers do not say."""
    listed = document.get("truncated")
    return tuple(
        Truncated(each["index"], each["kept_tokens"], each["original_tokens"])
        for each in (listed if isinstance(listed, list) else ())
        if isinstance(each, dict) and {"index", "kept_tokens", "original_tokens"} <= each.keys()
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
