"""The way of a request through any route that runs a model: body in, answer out."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from provider.domain import Caller, ModelSpec, Truncated
from provider.engine.engine import Engine
from provider.errors import MissingModel, UnsupportedContentType
from provider.http.auth import caller_of
from provider.http.body import check_elements, read_body
from provider.http.budget import Share
from provider.http.connection import while_connected
from provider.http.lifecycle import Lifecycle
from provider.http.scheduling import in_time
from provider.settings import ServerSettings

# Reading or writing more than this takes longer than a hop to a thread and back, and would hold up everyone else.
_INLINE_BYTES = 100_000

T = TypeVar("T")


async def whole_body(scope: Scope, receive: Receive) -> bytes:
    """The body of an admitted request, read to its end.

    Raises:
        RequestError: it cannot be read.
        CallerGone: the client left.
        DeadlineExceeded: the request's own deadline came first.
    """
    state = scope["litestar_app"].state
    server: ServerSettings = state["settings"].server
    lifecycle: Lifecycle = state["lifecycle"]
    framing, share = scope["state"]["framing"], scope["state"]["share"]
    arrival = lifecycle.deadlines.wait(
        server.body_seconds, read_body(framing, receive, share, max_bytes=server.max_body_bytes)
    )
    if (deadline := scope["state"].get("deadline")) is not None:
        arrival = in_time(deadline, arrival)
    body = await arrival
    _check_content_type(framing.content_type)
    return body


async def parsed(request: Request[Any, Any, Any], body: bytes, engine: Engine, parse: Callable[..., T]) -> T:
    """The body of `request`, parsed by `parse(body, max_inputs=…, needs_model=…)`.

    Raises:
        RequestError: `parse` refuses it.
        CallerGone: the client left meanwhile.
    """
    server: ServerSettings = request.scope["litestar_app"].state["settings"].server
    call = partial(parse, body, max_inputs=engine.limits.max_inputs, needs_model=server.default_model == "none")
    if len(body) <= _INLINE_BYTES:
        return call()
    return await while_connected(request, _parsed_in_threads(body, engine, call))


async def _parsed_in_threads(body: bytes, engine: Engine, call: Callable[[], T]) -> T:
    await asyncio.to_thread(check_elements, body, engine.limits)
    return await asyncio.to_thread(call)


async def model_for(engine: Engine, caller: Caller, does: str, fits: Callable[[ModelSpec], bool]) -> str:
    """The model of a request that names none: the only one that `fits`.

    Args:
        engine: what has the models.
        caller: who asks; models that it may not use are left out.
        does: what such models do, for messages: `rerank`.
        fits: whether a model does.

    Raises:
        MissingModel: none or several do, or a lazy model that is not loaded may.
        NotAvailable: a model that may is still loading, or could not be loaded.
    """
    runtimes = {name: runtime for name, runtime in engine.runtimes.items() if caller.may_use(name)}
    if len(runtimes) == 1:
        return next(iter(runtimes))
    unknown = [name for name, runtime in runtimes.items() if runtime.loaded is None and runtime.settings.lazy]
    specs = {name: (await runtime.ready()).spec for name, runtime in runtimes.items() if name not in unknown}
    fitting = [name for name, spec in specs.items() if fits(spec)]
    if len(fitting) == 1 and not unknown:
        return fitting[0]
    why = (
        f"not all models are loaded ({', '.join(unknown)})"
        if unknown
        else f"{len(fitting)} models {does}: {', '.join(fitting) or 'none'}"
    )
    msg = f"you must provide a model parameter: which one is meant is not clear, because {why}"
    raise MissingModel(msg, param="model")


async def answer(
    request: Request[Any, Any, Any],
    write: Callable[[], bytes],
    *,
    size: int,
    fingerprint: str,
    truncated: Sequence[Truncated],
) -> "WrittenResponse":
    """The answer whose body `write` gives, about `size` bytes. A large one waits for room before it is written.

    Raises:
        TooManyRequests: there was none.
        CallerGone: the client left meanwhile.
    """
    if size <= _INLINE_BYTES:
        content = write()
    else:
        share: Share = request.scope["state"]["share"]
        await while_connected(request, share.take(size))
        content = await asyncio.to_thread(write)
        share.add(len(content) - size)
    headers = [(b"x-model-fingerprint", fingerprint.encode())]
    if truncated:
        # How many, not which: a list of 2,048 would not fit into the headers that proxies allow. The body has it.
        headers.append((b"x-truncated-inputs", str(len(truncated)).encode()))
    return WrittenResponse.of_json(content, headers)


def _check_content_type(header: bytes) -> None:
    # `curl -d` says application/x-www-form-urlencoded over a JSON body, so only what cannot be JSON is refused.
    if header.lstrip()[:10].lower() == b"multipart/":
        kind = header.decode("latin-1").partition(";")[0].strip().lower()
        msg = (
            f"Unsupported content type: '{kind}'. This API method only accepts 'application/json' requests, but you "
            f"specified the header 'Content-Type: {kind}'. Please try again with a supported content type."
        )
        raise UnsupportedContentType(msg)


class AnswersRepeats:
    """ASGI middleware of a route, inside `Admission`: a body that came before has its response sent again.

    A middleware, since all that Litestar does before it calls a handler takes longer than the rest of such a request.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the route `app`, whose handler finds the body in the request's state."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI; raises as `whole_body`."""
        state = scope["state"]
        body = state["body"] = await whole_body(scope, receive)
        service: Engine = scope["litestar_app"].state["service"]
        known: WrittenResponse | None = service.responses.get(body, caller=caller_of(scope))
        await (self._app if known is None else known)(scope, receive, send)


class WrittenResponse:
    """Bytes to send, as often as wanted. Litestar's `Response` would take as long as all that precedes a cached vector.

    Attributes:
        content: the body.
        status: of HTTP.
    """

    def __init__(self, content: bytes, headers: Sequence[tuple[bytes, bytes]], status: int = 200) -> None:
        self.content, self._headers, self.status = content, headers, status

    @classmethod
    def of_json(cls, content: bytes, headers: Sequence[tuple[bytes, bytes]] = (), status: int = 200) -> Self:
        """A JSON document; `headers` are further ones."""
        length = str(len(content)).encode()
        return cls(content, [(b"content-type", b"application/json"), (b"content-length", length), *headers], status)

    def to_asgi_response(self, **_: object) -> Self:
        """What Litestar asks of the answer to an error."""
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """ASGI."""
        await send({"type": "http.response.start", "status": self.status, "headers": [*self._headers]})
        await send({"type": "http.response.body", "body": self.content, "more_body": False})
