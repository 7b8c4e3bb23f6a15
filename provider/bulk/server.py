"""Vectors from a running server: ours, or any that speaks OpenAI's embeddings API."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

import click
import httpx
import orjson

from provider.bulk.embedder import Options
from provider.bulk.phrases import refused
from provider.bulk.response import EmbeddingsResponse, described_model, error_fields, listed_models
from provider.domain import DENSE, Embedded, Timings, Usage
from provider.endpoint import Endpoint, error_message
from provider.errors import ServerFailed
from provider.texts.records import Record

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
        self.about: Mapping[str, object] = {}
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
        """Embed one text, which shows the server's model, fingerprint and dimension.

        Args:
            url: base URL, as OpenAI's clients have it.
            options: sent with every request.
            model: None for the first one that the server lists, of those that give what is asked for.
            api_key: the bearer token.
            batch_size: texts of one request.
            pause: waits for some seconds; tests do not.

        Raises:
            InvalidRequest: `url` is no URL.
            ServerFailed: the server does not answer, or not with what is asked for.
        """
        endpoint = Endpoint.of(url)
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        async with httpx.AsyncClient(headers=headers, timeout=_TIMEOUT) as client:
            self = cls(client, endpoint, options, batch_size, pause)
            self.model = model or await self._first_model()
            probe = await self._ask([_PROBE])
            self.dimension, self.fingerprint = _width(probe), probe.fingerprint
            source = {"fingerprint": self.fingerprint} if self.fingerprint else {"server": endpoint.url}
            asked = [f"--{name.replace('_', '-')}" for name in options.given() if name != "dimensions"]
            if asked and not self.fingerprint:
                message = f"{endpoint.url} is no emb-provider; whether it obeys {', '.join(asked)} is not known"
                click.echo(f"emb-provider: {message}", err=True)
            outputs = {} if options.is_dense else {"outputs": list(options.outputs)}
            self.facts = source | {"model": self.model} | options.given() | outputs
            self.about = {**source, "model": self.model, **await self._described()}
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
        if (embedded.fingerprint, _width(embedded)) != (self.fingerprint, self.dimension):
            msg = (
                f"{self._endpoint.url} changed the model during the run: fingerprint {self.fingerprint or 'unknown'}, "
                f"{self.dimension} dimensions, now {embedded.fingerprint or 'unknown'}, {_width(embedded)}"
            )
            raise ServerFailed(msg)
        return embedded

    async def _described(self) -> Mapping[str, object]:
        """The model's backend and dtype, where the server says so, as only this one does."""
        response = await self._send("GET", "/models")
        return described_model(response.content, self.model) if response.is_success else {}

    async def _first_model(self) -> str:
        response = await self._send("GET", "/models")
        if response.is_success:
            for name, outputs in listed_models(response.content):
                # Other servers do not say what their models give.
                if outputs is None or {*self._options.outputs} <= {*outputs}:
                    return name
        self._check_key(response)
        wanted = "" if self._options.is_dense else f" with {', '.join(self._options.outputs)}"
        msg = f"{self._endpoint.url}/models lists no model{wanted} ({response.status_code}); name one with --model"
        raise ServerFailed(msg)

    async def _ask(self, texts: Sequence[str], records: Sequence[Record] = ()) -> Embedded:
        body = {"model": self.model, "input": texts, "encoding_format": "base64"} | self._options.given()
        if not self._options.is_dense:
            body["output_types"] = self._options.outputs
        try:
            content = orjson.dumps(body)
        except TypeError as exc:
            bad = next(i for i, text in enumerate(texts) if not _is_unicode(text))
            problem = f"{records[bad].place}: it is not valid Unicode (an unpaired surrogate)"
            raise refused([problem], any_too_long=False) from exc
        response = await self._send("POST", "/embeddings", content)
        if not response.is_success:
            raise self._failure(response, records)
        answer = EmbeddingsResponse.of(response.content, self._options.outputs)
        if answer is None or answer.inputs != len(texts):
            what = "vectors" if self._options.is_dense else f"entries of {', '.join(self._options.outputs)}"
            msg = (
                f"{self._endpoint.url}/embeddings does not answer {len(texts)} inputs with as many {what}; "
                "is it an OpenAI-compatible server?"
            )
            raise ServerFailed(msg)
        embedded = Embedded(
            answer.outputs,
            Usage(len(texts), answer.tokens),
            answer.truncated,
            Timings(),
            response.headers.get("x-model-fingerprint", ""),
        )
        if DENSE in answer.outputs and self._options.dimensions not in (None, _width(embedded)):
            msg = f"{self._endpoint.url} ignores --dimensions: its vectors have {_width(embedded)}"
            raise ServerFailed(msg)
        return embedded

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
        fields = error_fields(response.content)
        place = {f"input[{i}]": record.place for i, record in enumerate(records)}.get(str(fields.get("param")))
        message = error_message(response.content)
        if place is None:
            hint = ". A smaller --batch-size may help" if response.status_code in (413, 422) else ""
            return ServerFailed(f"{self._endpoint.url}/embeddings answers {response.status_code}: {message}{hint}")
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


def _width(embedded: Embedded) -> int:
    """Of the dense vectors; 0 where there are none."""
    return int(embedded.vectors.shape[1]) if DENSE in embedded.outputs else 0


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


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
