"""Ollama's routes that embed and tell of models; those that download models or write texts are refused in its words."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson
from attrs import evolve
from litestar import Controller, Request, get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.types import ASGIApp

from provider.dialects import vectors
from provider.dialects.dialect import Dialect, Failure, Route
from provider.dialects.fields import MAX_INT32
from provider.dialects.ollama import models, wire
from provider.dialects.openai.schemas import (
    NUMBERS,
    OPTIONS,
    SOME_TEXT,
    list_of,
    object_of,
    request_of,
    text,
)
from provider.engine.engine import Engine
from provider.errors import InvalidRequest, ModelNotFound
from provider.http.auth import RequireKey, caller_of
from provider.http.exchange import WrittenResponse, answer, parsed
from provider.http.openapi import NEEDS_KEY

_TITLE = "Ollama"
# Of the release whose API this is: some clients ask what they may use.
_VERSION = "0.12.0"
_NOT_SERVED = ["/api/generate", "/api/chat", "/api/create", "/api/copy", "/api/push"]


async def embed(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Embed one text or many. What is too long is cut at its end, unless `truncate` is false."""
    return await _answer(request, body, service, wire.parse)


async def embed_prompt(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Embed one text. What is too long is cut at its end."""
    return await _answer(request, body, service, wire.parse_prompt)


async def show(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """What is known of a model."""
    name = await parsed(request, body, service, wire.parse_name)
    return _written(models.shown(service, name, caller_of(request.scope)))


async def pull(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Nothing to do for a model that is served; others are refused: the operator configures models."""
    name = await parsed(request, body, service, wire.parse_name)
    try:
        models.known_name(service, name, caller_of(request.scope))
    except ModelNotFound as exc:
        msg = f"This service downloads no models for clients. The models here are: {', '.join(exc.known) or 'none'}."
        raise InvalidRequest(msg, param="model") from exc
    return _written({"status": "success"})


def _written(body: object) -> ASGIApp:
    return WrittenResponse.of_json(orjson.dumps(body))


class OllamaController(Controller):
    """What there is."""

    middleware = [RequireKey]  # noqa: RUF012 - Litestar's way
    security = NEEDS_KEY
    tags = [_TITLE]  # noqa: RUF012
    opt = {"dialect": "ollama"}  # noqa: RUF012

    @get("/api/tags")
    async def list_tags(self, request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> dict[str, Any]:
        """All models that embed and that the key may use, by each of their names."""
        return {"models": models.listed(service, caller_of(request.scope))}

    @get("/api/ps")
    async def list_running(self, request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> dict[str, Any]:
        """Those that are loaded."""
        return {"models": models.running(service, caller_of(request.scope))}

    @get("/api/version")
    async def version(self) -> dict[str, str]:
        """The release of Ollama whose API this is."""
        return {"version": _VERSION}

    @post(_NOT_SERVED, include_in_schema=False)
    async def refuse(self, request: Request[Any, Any, Any]) -> None:
        """Refuse what this service does not do.

        Raises:
            InvalidRequest: always.
        """
        msg = f"{request.scope['path']} is not served: this service embeds texts (POST /api/embed) and does no more."
        raise InvalidRequest(msg)


def write_error(failure: Failure) -> dict[str, Any]:
    """Ollama's errors are a text."""
    if isinstance(failure.cause, ModelNotFound):
        return {"error": f'model "{failure.cause.name[:100]}" not found, try pulling it first. {failure.message}'}
    return {"error": failure.message}


async def _answer(
    request: Request[Any, Any, Any], body: bytes, engine: Engine, parse: Callable[..., wire.OllamaCall]
) -> ASGIApp:
    started = time.perf_counter_ns()
    call = await parsed(request, body, engine, parse)
    caller, named = caller_of(request.scope), call.request.model
    request.scope["state"]["model"] = named or None
    asked = evolve(call.request, model=named and models.known_name(engine, named, caller))
    asked = await vectors.with_model(request, engine, asked, call.names)
    loading = time.perf_counter_ns()
    model = await engine.runtime(asked.model, caller).ready()
    load_ns = time.perf_counter_ns() - loading
    embedded = await vectors.embed(request, engine, asked) if asked.inputs else None
    times = wire.Times(time.perf_counter_ns() - started, load_ns)
    return await answer(
        request,
        partial(wire.write, call, embedded, model=named or asked.model, times=times),
        size=0 if embedded is None else embedded.vectors.size * vectors.BYTES_PER_NUMBER,
        fingerprint=model.fingerprint,
        truncated=() if embedded is None else embedded.truncated,
    )


_TEXT = Schema(type=OpenAPIType.STRING)
_LIMIT = Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=MAX_INT32, description="Most tokens of an input.")
_OPTIONS = request_of([], {"num_ctx": _LIMIT}, description="The rest is ignored.")
_MODEL = text("A model's name or alias; `:latest` may follow.", min_length=1)
_KEEP_ALIVE = Schema(description="Anything. Accepted and ignored.")
_EMBED_REQUEST = request_of(
    ["model"],
    description="Without `input`, the model is loaded.",
    properties={
        "model": _MODEL,
        "input": Schema(one_of=[_TEXT, list_of(SOME_TEXT)]),
        "truncate": Schema(type=OpenAPIType.BOOLEAN, description="Whether long texts are cut. Default: true."),
        "dimensions": OPTIONS["dimensions"],
        "options": _OPTIONS,
        "keep_alive": _KEEP_ALIVE,
    },
)
_EMBED_RESPONSE = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "model": text("As it was named."),
        "embeddings": list_of(NUMBERS),
        "total_duration": Schema(type=OpenAPIType.INTEGER, description="In nanoseconds."),
        "load_duration": Schema(type=OpenAPIType.INTEGER, description="In nanoseconds."),
        "prompt_eval_count": Schema(type=OpenAPIType.INTEGER, description="Tokens that went through the model."),
    },
)
_PROMPT_REQUEST = request_of(
    ["model"],
    description="Without `prompt`, the model is loaded.",
    properties={"model": _MODEL, "prompt": _TEXT, "options": _OPTIONS, "keep_alive": _KEEP_ALIVE},
)
_PROMPT_RESPONSE = object_of(["embedding"], embedding=NUMBERS)
_NAME_REQUEST = request_of(
    [],
    {"model": text(_MODEL.description or ""), "name": text("The former name of `model`.")},
    any_of=[Schema(required=[name], properties={name: _MODEL}) for name in ("model", "name")],
)
_OBJECT = Schema(type=OpenAPIType.OBJECT)
_NAME_EXAMPLE = {"model": "all-MiniLM-L6-v2"}

OLLAMA = Dialect(
    name="ollama",
    title=_TITLE,
    description="Ollama's API for embeddings. Texts that are too long are cut, and `x-truncated-inputs` says how many.",
    paths=("/api",),
    write_error=write_error,
    routes=(
        Route(
            ["/api/embed"],
            embed,
            _EMBED_REQUEST,
            _EMBED_RESPONSE,
            {"model": "all-MiniLM-L6-v2", "input": ["A cat.", "A dog."]},
            tasks=["embed"],
        ),
        Route(
            ["/api/embeddings"],
            embed_prompt,
            _PROMPT_REQUEST,
            _PROMPT_RESPONSE,
            {"model": "all-MiniLM-L6-v2", "prompt": "A cat."},
            tasks=["embed"],
        ),
        Route(["/api/show"], show, _NAME_REQUEST, _OBJECT, _NAME_EXAMPLE),
        Route(["/api/pull"], pull, _NAME_REQUEST, _OBJECT, _NAME_EXAMPLE),
    ),
    handlers=(OllamaController,),
)
