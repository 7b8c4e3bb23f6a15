"""A line of a job is a request without a connection: the routes' own functions answer it, and write its errors."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from attrs import frozen
from litestar import Litestar, Request
from litestar.types import ASGIApp, HTTPScope

from provider.dialects.openai.merging import Merged
from provider.domain import UNLIMITED, Caller
from provider.engine.engine import Engine
from provider.engine.hooks import Event, RequestAnswered
from provider.engine.probing import FAILURES_UNTIL_PROBED
from provider.errors import EmbeddingFailed, LimitExceeded, NotAvailable
from provider.http.auth import require_task
from provider.http.budget import Share
from provider.http.exchange import WrittenResponse
from provider.http.lifecycle import Lifecycle
from provider.telemetry.request import RequestRecord, recorded
from provider.usage.quotas import Quotas

# After an interactive request, others are expected for so long.
_EXPECTED_SECONDS = 5.0
# A request whose forward pass failed is tried again after so long.
_DOUBT_SECONDS = 0.5

AnswerRequest = Callable[[Request[Any, Any, Any], bytes, Engine], Awaitable[ASGIApp]]
MergeRequests = Callable[[Sequence[bytes], int], Iterator[Merged]]


@frozen
class Operation:
    """What requests of a job may ask for.

    Attributes:
        task: that the caller's key has to allow.
        answer: called with the request, its body and the engine.
        merge: called with bodies, and the most inputs of a request; None: each is answered alone.
    """

    task: str
    answer: AnswerRequest
    merge: MergeRequests | None = None


@frozen
class Answer:
    """What a request was answered.

    Attributes:
        content: JSON, without line breaks.
        tokens: as in its usage.
    """

    status: int
    content: bytes
    tokens: int


class TryLater(Exception):
    """The request cannot be answered now, and nothing is wrong with it.

    Attributes:
        cause: why.
        seconds: after which to try again.
    """

    def __init__(self, cause: NotAvailable | LimitExceeded | EmbeddingFailed, seconds: float) -> None:
        super().__init__(str(cause))
        self.cause, self.seconds = cause, seconds


class Calls:
    """Answers requests of jobs, any number at a time. Used on the event loop's thread.

    While interactive requests come, one at a time: of several lanes, all but one are free for them then.
    """

    def __init__(
        self,
        app: Litestar,
        operations: Mapping[str, Operation],
        answer_error: Callable[[Request[Any, Any, Any], Exception], WrittenResponse],
        on_record: Callable[[RequestRecord], None],
    ) -> None:
        """Nothing is asked yet.

        Args:
            app: whose engine, quotas and settings they use.
            operations: by endpoint.
            answer_error: makes the answer of an error, as over HTTP.
            on_record: told of each answered request (usage and metrics).
        """
        self.operations = operations
        self._app, self._answer_error, self._on_record = app, answer_error, on_record
        self._engine: Engine = app.state["service"]
        self._lifecycle: Lifecycle = app.state["lifecycle"]
        self._quotas: Quotas = app.state["quotas"]
        self._interactive_at = -math.inf
        self._one_at_a_time = asyncio.Lock()

    def on_event(self, event: Event) -> None:
        """A hook: notes interactive requests."""
        if isinstance(event, RequestAnswered) and event.caller.tier != "bulk":
            self._interactive_at = time.monotonic()

    @property
    def _yields(self) -> bool:
        return time.monotonic() - self._interactive_at < _EXPECTED_SECONDS

    async def answer(self, endpoint: str, body: bytes, caller: Caller, request_id: str) -> Answer:
        """Answer `body` as a POST to `endpoint`.

        Raises:
            TryLater: it cannot be answered now.
        """
        while self._yields:
            async with self._one_at_a_time:
                # While this one waited, interactive requests may have ended.
                if self._yields:
                    return await self._answer(endpoint, body, caller, request_id)
        return await self._answer(endpoint, body, caller, request_id)

    def merged(self, endpoint: str, bodies: Sequence[bytes]) -> Iterator[Merged]:
        """`bodies` in their order, merged where one call of the engine may answer several."""
        merge = self.operations[endpoint].merge
        if merge is None:
            return (Merged(1) for _ in bodies)
        return merge(bodies, self._engine.limits.max_inputs)

    async def answer_merged(
        self, endpoint: str, merged: Merged, caller: Caller, request_ids: Sequence[str]
    ) -> list[Answer] | None:
        """Answer requests to `endpoint` by one call of the engine.

        None: each has to be asked alone, as interactive requests are to go between, or the caller's rights and quota
        look at each, or one of them fails.

        Raises:
            TryLater: they cannot be answered now.
        """
        task, started = self.operations[endpoint].task, time.perf_counter()
        is_limited = caller.quota != UNLIMITED or (caller.tasks is not None and task not in caller.tasks)
        if merged.size == 1 or is_limited or self._yields:
            return None
        try:
            found = await merged.answers(self._engine, caller)
        except NotAvailable as exc:
            raise TryLater(exc, exc.retry_after_seconds) from exc
        except Exception:  # noqa: BLE001 - alone, it is the answer to the request at fault
            return None
        seconds, answers = time.perf_counter() - started, []
        for request_id, (content, done) in zip(request_ids, found, strict=True):
            record = RequestRecord(
                request_id, "POST", endpoint, endpoint, 200, seconds, "openai", task, done.model, caller
            )
            record.answered = RequestAnswered(done.model, done.usage, len(done.truncated), done.timings, caller)
            self._on_record(record)
            answers.append(Answer(200, content, done.usage.tokens))
        return answers

    async def _answer(self, endpoint: str, body: bytes, caller: Caller, request_id: str) -> Answer:
        operation = self.operations[endpoint]
        share = Share(self._lifecycle.budget)
        state: dict[str, Any] = {"caller": caller, "request_id": request_id, "share": share}
        request = Request[Any, Any, Any](self._scope(endpoint, state), _never)
        record = RequestRecord(
            request_id, "POST", endpoint, endpoint, dialect="openai", task=operation.task, caller=caller
        )
        started = time.perf_counter()
        with recorded(record):
            try:
                require_task(request.scope, operation.task)
                if caller.quota != UNLIMITED:
                    self._quotas.admit(caller)
                record.status, content = 200, await self._content(operation, request, body)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is the answer to this request alone
                _raise_later(exc)
                response = self._answer_error(request, exc)
                record.status, record.error, content = response.status, state.get("error"), response.content
            finally:
                if share.held:
                    share.release()
        record.model = record.model or state.get("model")
        record.seconds = time.perf_counter() - started
        self._on_record(record)
        return Answer(record.status, content, record.answered.usage.tokens if record.answered is not None else 0)

    async def _content(self, operation: Operation, request: Request[Any, Any, Any], body: bytes) -> bytes:
        for _ in range(FAILURES_UNTIL_PROBED):
            try:
                return _written(await operation.answer(request, body, self._engine))
            except EmbeddingFailed:
                # It may be the model's fault, which is known only after so many passes.
                await asyncio.sleep(_DOUBT_SECONDS)
        return _written(await operation.answer(request, body, self._engine))

    def _scope(self, endpoint: str, state: dict[str, Any]) -> HTTPScope:
        scope: Any = {
            "type": "http",
            "method": "POST",
            "scheme": "http",
            "path": endpoint,
            "path_template": endpoint,
            "path_params": {},
            "query_string": b"",
            "headers": [],
            "client": None,
            "server": None,
            "app": self._app,
            "litestar_app": self._app,
            "state": state,
        }
        found: HTTPScope = scope
        return found


def _written(written: ASGIApp) -> bytes:
    if not isinstance(written, WrittenResponse):
        msg = f"the answer to a request is no written response but {type(written).__name__}"
        raise TypeError(msg)
    return written.content


def _raise_later(exc: Exception) -> None:
    """Raise TryLater for what is the service's state and not the request's fault."""
    if isinstance(exc, NotAvailable):
        raise TryLater(exc, exc.retry_after_seconds) from exc
    if isinstance(exc, LimitExceeded) and exc.requested <= exc.limit:
        raise TryLater(exc, exc.retry_after_seconds) from exc
    if isinstance(exc, EmbeddingFailed) and not exc.is_lasting:
        raise TryLater(exc, 1.0) from exc


async def _never() -> NoReturn:
    """ASGI's `receive` of a client that never leaves."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError
