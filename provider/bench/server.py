"""A contender: any server that speaks OpenAI's embeddings API."""

import asyncio
import itertools
import resource
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, Self

import msgspec
import orjson

from provider.bench.connection import Pool
from provider.bench.load_generator import LoadGenerator
from provider.bench.messages import Load, LoadTask, Outcome, ServerSetup, Slice
from provider.bench.texts import TextPool
from provider.endpoint import Endpoint, bearer, error_message
from provider.errors import ContenderFailed

# Requests that are made ahead of a slice, for so many times as many as the slice before had a second.
_AHEAD = 1.5
_FIRST_AHEAD = 64
_CHECK_SECONDS, _POLL_SECONDS = 60.0, 0.1
# Path below the base URL, and the field of the answer that holds one element for each text.
_ROUTES: dict[LoadTask, tuple[str, str]] = {"embed": ("/embeddings", "data"), "rerank": ("/rerank", "results")}


class OpenAIServer:
    """A server under load."""

    def __init__(self, setup: ServerSetup) -> None:
        """Nothing is asked until `open`."""
        self._setup = setup
        self._endpoint = Endpoint.of(setup.url)
        self._path, self._answers = _ROUTES[setup.texts.task]
        self._head = self._endpoint.head(setup.api_key, self._path)
        self._pool = TextPool.of(setup.texts)
        # Local names are asked directly, as the load does, whatever proxy the environment names.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._model = setup.model or ""
        self._rates: dict[Load, float] = {}
        self.facts: dict[str, Any] = {}

    @classmethod
    async def open(cls, setup: ServerSetup) -> Self:
        """See that the server answers, and learn what it says of the model.

        Raises:
            ContenderFailed: it does not, or not with what was asked for.
        """
        server = cls(setup)
        listed = server._listed()
        if not server._model:
            if not listed:
                msg = f"{setup.url} lists no models under /models; name one with --model (or URL#MODEL)"
                raise ContenderFailed(msg)
            server._model = str(listed[0].get("id"))
        about = await server._tuned()
        server._answer(("Is anybody there?",))
        known = ("backend", "device", "dtype", "lanes", "threads_per_lane")
        server.facts = {"url": server._endpoint.url, "model": server._model} | {
            key: about[key] for key in known if about.get(key) is not None
        }
        return server

    async def _tuned(self) -> dict[str, Any]:
        """What the server lists of the model; one of ours that others leave in peace is given the time to tune it."""
        deadline = time.monotonic() + _CHECK_SECONDS
        while True:
            about = next((each for each in self._listed() if each.get("id") == self._model), {})
            tuning = about.get("tuning")
            is_pending = isinstance(tuning, dict) and tuning.get("state") == "pending"
            if not is_pending or time.monotonic() > deadline:
                return about
            await asyncio.sleep(_POLL_SECONDS)

    async def count(self, texts: tuple[str, ...]) -> int:
        """Tokens of `texts`, as the server's `usage` has them.

        Raises:
            ContenderFailed: it does not say.
        """
        tokens = self._answer(texts).get("usage", {}).get("total_tokens")
        if not isinstance(tokens, int) or tokens < 1:
            msg = f"{self._setup.url} does not say in `usage` how many tokens texts have; leave --lengths out"
            raise ContenderFailed(msg)
        return tokens

    async def run(self, order: Slice) -> Outcome:
        """Bear one slice of load."""
        load = order.load
        requests = self._requests(order)
        rate = load.rate or self._rates.get(load, _FIRST_AHEAD)
        ahead = list(itertools.islice(requests, round(rate * order.seconds * _AHEAD) + (load.concurrency or 0)))
        pool = Pool(self._endpoint, itertools.chain(ahead, requests))
        await pool.open(load.concurrency or round(min(load.rate or 1, 16)))
        before = _cpu_seconds()
        try:
            outcome = await LoadGenerator(pool, order).run()
        finally:
            pool.close()
        if outcome.requests:
            self._rates[load] = outcome.requests / outcome.seconds
        return msgspec.structs.replace(outcome, cpu_seconds=_cpu_seconds() - before)

    async def close(self) -> None:
        """Nothing stays open between slices."""

    def _requests(self, order: Slice) -> Iterator[bytes]:
        texts, query = self._pool.draw(order.seed, order.salt, order.load.words), self._pool.query(order.seed)
        while True:
            body = self._body([next(texts) for _ in range(order.load.batch)], query)
            yield b"%b%d\r\n\r\n%b" % (self._head, len(body), body)

    def _body(self, texts: list[str], query: str) -> bytes:
        fields: dict[str, Any] = {"model": self._model}
        if self._setup.texts.task == "rerank":
            fields |= {"query": query, "documents": texts}
        else:
            fields |= {"input": texts if len(texts) > 1 else texts[0], "encoding_format": self._setup.encoding_format}
        if self._setup.truncate is not None:
            fields["truncate"] = self._setup.truncate
        return orjson.dumps(fields)

    def _listed(self) -> list[dict[str, Any]]:
        """What `/models` lists; nothing for a server that has no such path."""
        try:
            document = self._ask("/models")
        except urllib.error.HTTPError as exc:
            with exc:
                return []
        data = document.get("data") if isinstance(document, dict) else None
        return [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []

    def _answer(self, texts: tuple[str, ...]) -> dict[str, Any]:
        """The answer to one request, checked."""
        url = f"{self._endpoint.url}{self._path}"
        try:
            answer = self._ask(self._path, self._body(list(texts), self._pool.query(0)))
        except urllib.error.HTTPError as exc:
            with exc:
                hint = " Give the key with --api-key or OPENAI_API_KEY." if exc.code in (401, 403) else ""
                msg = f"{url} answers {exc.code}: {error_message(exc.read())}{hint}"
            raise ContenderFailed(msg) from exc
        data = answer.get(self._answers) if isinstance(answer, dict) else None
        if not isinstance(data, list) or len(data) != len(texts):
            msg = f"{url} does not answer {len(texts)} texts with as many {self._answers}; is this the base URL?"
            raise ContenderFailed(msg)
        return dict(answer)

    def _ask(self, path: str, body: bytes | None = None) -> Any:  # noqa: ANN401 - JSON
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(self._endpoint.url + path, body, headers)  # noqa: S310 - `Endpoint` takes HTTP only
        for name, value in bearer(self._setup.api_key).items():
            # Headers are written in Latin-1: as these bytes.
            request.add_header(name.decode(), value.decode("latin-1"))
        try:
            with self._opener.open(request, timeout=_CHECK_SECONDS) as response:
                return msgspec.json.decode(response.read())
        except urllib.error.HTTPError:
            raise
        except OSError as exc:
            cause = getattr(exc, "reason", exc)
            reason = getattr(cause, "strerror", None) or cause
            msg = f"{self._endpoint.url} does not answer ({reason}); start the server, or correct the URL"
            raise ContenderFailed(msg) from exc
        except msgspec.DecodeError as exc:
            msg = f"{self._endpoint.url}{path} does not answer JSON; give the base URL, like http://localhost:9000/v1"
            raise ContenderFailed(msg) from exc


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
