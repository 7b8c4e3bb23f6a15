"""Vectors from a running server: ours, or any that speaks OpenAI's embeddings API."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import orjson

from provider.bulk.embedder import MOST_CHARACTERS, Options, Problem, Unavailable
from provider.bulk.phrases import refused
from provider.bulk.pool import Pause, Pool
from provider.bulk.response import EmbeddingsResponse, described_model, error_fields, listed_models
from provider.domain import DENSE, Embedded, Timings, Usage
from provider.endpoint import Endpoint, bearer, error_message
from provider.errors import InvalidRequest, ServerFailed
from provider.texts.records import Record

# Seconds. A batch of long texts may take a slow server minutes.
_TIMEOUT = httpx.Timeout(connect=10, read=600, write=60, pool=None)
# Statuses of a server that may answer later, and for how long it is asked again.
_LATER = frozenset({408, 429, 502, 503, 504})
_ATTEMPTS = 8
# A server that has never answered is more likely not there at all.
_FIRST_ATTEMPTS = 3
# A server that wants to be left alone for longer is not waited for.
_LONGEST_PAUSE_SECONDS = 60.0
_PROBE = "Is anybody there?"


class ServerEmbedder:
    """A server as an `Embedder`."""

    most_characters = MOST_CHARACTERS
    most_calls = 4
    can_check = False

    def __init__(
        self,
        client: httpx.AsyncClient,
        endpoint: Endpoint,
        options: Options,
        *,
        model: str | None,
        batch_size: int,
        notify: Callable[[str], object],
    ) -> None:
        """Nothing is asked before `begin`; for the arguments see `servers`."""
        self._client, self._endpoint, self._options, self._notify = client, endpoint, options, notify
        self.most_texts = batch_size
        self.model, self.fingerprint = model or "", ""
        self.dimension = 0
        self.facts: Mapping[str, object] = {}
        self.about: Mapping[str, object] = {}
        self._has_answered = False

    async def begin(self) -> None:
        """Embed one text, which shows the server's model, fingerprint and dimension.

        Raises:
            ServerFailed: the server does not answer with what is asked for.
            Unavailable: it does not answer, or not now.
        """
        self.model = self.model or await self._first_model()
        probe = await self._ask([_PROBE])
        self.dimension, self.fingerprint = _width(probe), probe.fingerprint
        options, url = self._options, self._endpoint.url
        source = {"fingerprint": self.fingerprint} if self.fingerprint else {"server": url}
        asked = [f"--{name.replace('_', '-')}" for name in options.given() if name != "dimensions"]
        if asked and not self.fingerprint:
            self._notify(f"{url} is no emb-provider; whether it obeys {', '.join(asked)} is not known")
        outputs = {} if options.is_dense else {"outputs": list(options.outputs)}
        self.facts = source | {"model": self.model} | options.given() | outputs
        self.about = {**source, "model": self.model, **await self._described()}

    async def check(self, records: Sequence[Record]) -> Sequence[Problem]:  # noqa: ARG002
        """See `Embedder`. Only the server can tokenise, and refuses a text in its turn."""
        return ()

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
        """The answer.

        Raises:
            Unavailable: there is none, or the server is busy.
        """
        url = self._endpoint.url + path
        try:
            response = await self._client.request(
                method, url, content=content, headers={"content-type": "application/json"}
            )
        except httpx.TransportError as exc:
            msg = f"{url} does not answer ({str(exc) or type(exc).__name__}); start the server, or correct --url"
            raise Unavailable(msg, most_attempts=_ATTEMPTS if self._has_answered else _FIRST_ATTEMPTS) from exc
        self._has_answered = True
        if response.status_code in _LATER and response.headers.get("x-should-retry") != "false":
            wanted = _retry_after(response)
            most_attempts = 1 if wanted > _LONGEST_PAUSE_SECONDS else _ATTEMPTS
            msg = f"{url} answers {response.status_code}: {error_message(response.content)}"
            raise Unavailable(msg, wanted_seconds=wanted, most_attempts=most_attempts)
        return response

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


@asynccontextmanager
async def servers(
    urls: Sequence[str],
    options: Options,
    *,
    model: str | None = None,
    api_key: str | None = None,
    batch_size: int,
    notify: Callable[[str], object],
    pause: Pause = asyncio.sleep,
) -> AsyncIterator[Pool]:
    """Servers with the same model, of which each takes as much as it can.

    Args:
        urls: base URLs, as OpenAI's clients have them.
        options: sent with every request.
        model: None for the first one that a server lists, of those that give what is asked for.
        api_key: the bearer token.
        batch_size: texts of one request.
        notify: told in a sentence what should be known.
        pause: waits for some seconds; tests do not.

    Raises:
        InvalidRequest: one of `urls` is no URL, or there twice, or no header can carry the key.
        ServerFailed: no server answers, one answers with something else, or they have several models.
    """
    endpoints = [Endpoint.of(url) for url in urls]
    if len(set(endpoints)) < len(endpoints):
        msg = f"--url: {', '.join(urls)} names a server twice; name each once"
        raise InvalidRequest(msg)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(headers=bearer(api_key), timeout=_TIMEOUT, limits=limits) as client:
        members = {
            each.url: ServerEmbedder(client, each, options, model=model, batch_size=batch_size, notify=notify)
            for each in endpoints
        }
        async with Pool.opened(members, pause=pause, notify=notify) as pool:
            yield pool


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
