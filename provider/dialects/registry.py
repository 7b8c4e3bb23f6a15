"""All dialects in one list, and their routes as Litestar's handlers: dialects may share a path."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

import msgspec
from attrs import evolve, field, frozen
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
    Tag,
)
from litestar.types import ASGIApp, ControllerRouterHandler

from provider.dialects.azure.api import AZURE
from provider.dialects.cohere.api import COHERE
from provider.dialects.dialect import Dialect, Failure, Route
from provider.dialects.jina.api import JINA
from provider.dialects.malformed import UTF8_BOM
from provider.dialects.ollama.api import OLLAMA
from provider.dialects.openai.api import OPENAI
from provider.dialects.openai.error_examples import ERROR, ERRORS
from provider.dialects.openai.schemas import ANSWER_HEADERS
from provider.dialects.tei.api import TEI
from provider.dialects.vllm.api import VLLM
from provider.dialects.weaviate.api import WEAVIATE
from provider.engine.engine import Engine
from provider.http.admission import Admission
from provider.http.auth import RequireKey, require_task
from provider.http.exchange import whole_body
from provider.http.openapi import NEEDS_KEY
from provider.settings import DialectSettings

DIALECTS: Sequence[Dialect] = (OPENAI, AZURE, TEI, COHERE, JINA, OLLAMA, VLLM, WEAVIATE)
"""In the order in which they are asked for a body that several may read. OpenAI's is always on."""

Answering = Callable[[Request[Any, Any, Any], bytes, Engine], Awaitable[ASGIApp]]

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw])


@frozen
class Dialects:
    """Which of `DIALECTS` are on, and which are off."""

    on: Sequence[Dialect]
    off: Sequence[Dialect]
    # Each path, how those below it begin, and whose it is; the longest first.
    _places: Sequence[tuple[str, str, Dialect]] = field(init=False, repr=False)

    @_places.default
    def _by_length(self) -> Sequence[tuple[str, str, Dialect]]:
        places = [(path, f"{path}/", dialect) for dialect in (*self.on, *self.off) for path in dialect.paths]
        return sorted(places, key=lambda each: -len(each[0]))

    @classmethod
    def of(cls, settings: DialectSettings) -> Self:
        """As they are switched."""
        off = [each for each in DIALECTS if not getattr(settings, each.name, True)]
        return cls([each for each in DIALECTS if each not in off], off)

    @property
    def names(self) -> list[str]:
        """Of those that are on."""
        return [each.name for each in self.on]

    def named(self, name: str) -> Dialect:
        """The dialect of that name, on or off."""
        return next(each for each in (*self.on, *self.off) if each.name == name)

    def at(self, path: str) -> Dialect:
        """Whose path it is: the longest decides, and one that is on before one that is off; else OpenAI's."""
        wanted = path.rstrip("/") or "/"
        for each, below, dialect in self._places:
            if wanted == each or wanted.startswith(below):
                return dialect
        return OPENAI

    def handlers(self) -> list[ControllerRouterHandler]:
        """The routes of those that are on."""
        return [*(each for dialect in self.on for each in dialect.handlers), *self._mounted()]

    def tags(self) -> list[Tag]:
        """Headings of the OpenAPI document."""
        return [Tag(name=each.title, description=each.description) for each in self.on if each.description]

    def answering(self, path: str) -> Answering:
        """Answers the body of a POST to `path`, a route of at least one dialect, in the dialect that the body is in."""
        sharing = self._sharing()[path]
        return partial(self._answer, sharing=sharing, usual=_usual(sharing))

    async def _answer(
        self,
        request: Request[Any, Any, Any],
        body: bytes,
        service: Engine,
        sharing: Sequence[tuple[Dialect, Route]],
        usual: tuple[Dialect, Route],
    ) -> ASGIApp:
        dialect, told = usual if len(sharing) == 1 else _told(body, sharing, usual)
        request.scope["state"]["dialect"] = dialect.name
        if dialect in self.off:
            raise NotFoundException
        require_task(request.scope, *told.tasks)
        return await told.answer(request, body, service)

    def _sharing(self) -> dict[str, list[tuple[Dialect, Route]]]:
        """The routes at each path."""
        by_path: dict[str, list[tuple[Dialect, Route]]] = {}
        for dialect in self.on:
            for route in dialect.routes:
                for path in route.paths:
                    by_path.setdefault(path, []).append((dialect, route))
        # A body in a dialect that is off is told from the others, and refused.
        for dialect in self.off:
            for route in dialect.routes:
                for path in route.paths if route.told_by else ():
                    if path in by_path:
                        by_path[path].append((dialect, route))
        return by_path

    def _mounted(self) -> Iterator[ControllerRouterHandler]:
        by_path = self._sharing()
        while by_path:
            sharing = next(iter(by_path.values()))
            paths = [path for path, each in by_path.items() if each == sharing]
            for path in paths:
                del by_path[path]
            yield self._handler(paths, sharing)

    def _handler(self, paths: list[str], sharing: Sequence[tuple[Dialect, Route]]) -> ControllerRouterHandler:
        usual = _usual(sharing)
        route = usual[1]
        on = [each for each in sharing if each[0] in self.on]
        # Which one is asked for, the body tells.
        tasks = list(dict.fromkeys([*route.tasks, *(task for _, each in on for task in each.tasks)]))

        async def answer(request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> ASGIApp:
            body = await whole_body(request.scope, request.receive)
            return await self._answer(request, body, service, sharing, usual)

        answer.__name__ = answer.__qualname__ = route.answer.__name__
        answer.__doc__ = route.answer.__doc__
        return post(
            paths,
            status_code=200,
            operation_class=_operation(on, usual),
            middleware=[RequireKey, Admission],
            security=NEEDS_KEY,
            tags=[each.tag or dialect.title for dialect, each in on],
            opt={"dialect": usual[0].name, "tasks": tasks},
        )(answer)


def _usual(sharing: Sequence[tuple[Dialect, Route]]) -> tuple[Dialect, Route]:
    return next((each for each in sharing if not each[1].told_by), sharing[0])


def _told(body: bytes, sharing: Sequence[tuple[Dialect, Route]], usual: tuple[Dialect, Route]) -> tuple[Dialect, Route]:
    """The dialect of a body by its fields; the `usual` one where none tells, or it is no JSON object."""
    # Most bodies hold no other dialect's field, and need not be decoded for that.
    likely = [each for each in sharing if any(name.encode() in body for name in each[1].told_by)]
    if likely:
        try:
            fields = _fields_of.decode(body.removeprefix(UTF8_BOM))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fields = {}
        for each in likely:
            # `Raw` is equal to no bytes.
            if any(name in fields and bytes(fields[name]) != b"null" for name in each[1].told_by):
                return each
    return usual


def _operation(sharing: Sequence[tuple[Dialect, Route]], usual: tuple[Dialect, Route]) -> type[Operation]:
    """What Litestar cannot know: the handler reads the raw body."""
    first = usual[1]
    speaking = {each.name: each for each, _ in (usual, *sharing)}
    routes = [first, *(route for _, route in sharing if route is not first)]
    # One reader may have a schema for all that it reads.
    reading = [each for each in routes if each is first or each.answer is not first.answer]

    @dataclass
    class DescribedOperation(Operation):
        def __post_init__(self) -> None:
            examples: dict[str, Example | Reference] = {
                f"example {i + 1}": Example(value=each.example) for i, each in enumerate(reading)
            }
            request = OpenAPIMediaType(schema=_any_of([each.request for each in reading]), examples=examples)
            self.request_body = RequestBody(required=True, content={"application/json": request})
            response = OpenAPIResponse(
                description="The answer.",
                headers=ANSWER_HEADERS,
                content={"application/json": OpenAPIMediaType(schema=_any_of([each.response for each in routes]))},
            )
            self.responses = {"200": response, **_errors(list(speaking.values()))}
            for each in self.parameters or ():
                # Litestar calls what may hold slashes a URI.
                cast(Parameter, each).schema = Schema(type=OpenAPIType.STRING)

    return DescribedOperation


def _any_of(schemas: Sequence[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else Schema(any_of=[*schemas])


def _errors(dialects: Sequence[Dialect]) -> dict[str, OpenAPIResponse]:
    """OpenAI's errors as each of the dialects writes them."""
    written = {}
    for status, response in ERRORS.items():
        ((media_type, media),) = (response.content or {}).items()
        error = (media.examples or {})["example"].value.error  # type: ignore[union-attr]
        failure = Failure(int(status), error.message, error.type, error.param, error.code)
        # Which fields may be null, a failure without them shows.
        least = evolve(failure, param=None, code=None)
        schemas = [
            ERROR if each is OPENAI else _schema_of(each.write_error(failure), each.write_error(least))
            for each in dialects
        ]
        # Of an object, Litestar would leave nulls out.
        example = Example(value=msgspec.Raw(msgspec.json.encode(dialects[0].write_error(failure))))
        content = {media_type: OpenAPIMediaType(schema=_any_of(schemas), examples={"example": example})}
        written[status] = OpenAPIResponse(description=response.description, content=content)
    return written


def _schema_of(example: object, least: object) -> Schema:
    if isinstance(example, dict) and isinstance(least, dict):
        properties: dict[str, Reference | Schema] = {
            name: _schema_of(value, least[name]) for name, value in example.items()
        }
        return Schema(type=OpenAPIType.OBJECT, required=[*properties], properties=properties)
    return Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL] if least is None else OpenAPIType.STRING)
