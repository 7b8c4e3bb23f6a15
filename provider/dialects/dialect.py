"""What a dialect is: the API of another service in front of the engine, with its paths and its errors."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import field, frozen
from litestar import Request
from litestar.openapi.spec import Schema
from litestar.types import ASGIApp, ControllerRouterHandler

from provider.engine.engine import Engine


@frozen
class Failure:
    """Why a request is not answered: what a dialect makes the body of an error of.

    Attributes:
        status: of HTTP.
        message: what was received, what is allowed, what to do.
        type: OpenAI's kind of error.
        param: the field at fault.
        code: refines `type` for programs.
        path: of the request.
        cause: what was raised; None where no request could be read.
        request_id: of the request, as the log has it.
    """

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    path: str = ""
    cause: Exception | None = None
    request_id: str = ""


@frozen
class Route:
    """A POST whose body the dialect reads.

    Attributes:
        paths: where; the first is the one that is documented. Dialects may share a path.
        answer: called with the request, its body and the engine.
        request: JSON schema of the body.
        response: JSON schema of the answer.
        example: a body.
        tag: the heading in the OpenAPI document; empty: the dialect's title.
        tasks: of which a key must allow one; none: any key will do. With several, `answer` checks the one asked for.
        told_by: fields of the body, one of which tells that it is in this dialect; none: every body may be.
    """

    paths: Sequence[str]
    answer: Callable[[Request[Any, Any, Any], bytes, Engine], Awaitable[ASGIApp]]
    request: Schema
    response: Schema
    example: object
    tag: str = ""
    tasks: Sequence[str] = ()
    told_by: Sequence[str] = ()


@frozen
class Dialect:
    """An API that clients speak.

    Attributes:
        name: in settings, metrics and the log.
        title: the heading in the OpenAPI document.
        description: what stands below it.
        paths: its own: errors at these, and below them, are written by it.
        write_error: the JSON body of an error.
        routes: its POSTs with a body.
        handlers: its other routes, Litestar's.
    """

    name: str
    title: str
    description: str
    paths: Sequence[str]
    write_error: Callable[[Failure], dict[str, Any]]
    routes: Sequence[Route] = field(default=())
    handlers: Sequence[ControllerRouterHandler] = field(default=())
