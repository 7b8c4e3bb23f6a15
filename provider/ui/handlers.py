"""`/ui`: the page's files, how a model reads texts (`/ui/tokens`), and what token ids stand for (`/ui/words`)."""

import hashlib
from collections.abc import Sequence
from functools import cache, partial
from importlib import resources
from typing import Any, cast

import msgspec
import orjson
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.types import ASGIApp, ControllerRouterHandler

from provider.dialects.fields import BodyReader
from provider.dialects.inputs import Inputs, inputs_of
from provider.dialects.phrases import FieldNames
from provider.dialects.tokens import readings_of, texts_of
from provider.dialects.truncation import truncation
from provider.domain import EmbedRequest, Ids
from provider.engine.engine import Engine
from provider.engine.token_texts import ReadToken
from provider.http.admission import Admission
from provider.http.auth import RequireKey
from provider.http.exchange import answer, parsed, whole_body
from provider.http.routes import UI_PATH

_PAGE = "index.html"
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    # Nothing from elsewhere, nothing written into the page, and no text is ever made HTML.
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    # Names stay when the files change: a browser asks whether they have.
    "cache-control": "no-cache",
}
_BYTES_PER_TOKEN = 100


class _TokensFields(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None
    input: str | list[str] | None = None
    input_type: str | None = None
    truncate: bool | str | None = None


class _WordsFields(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None
    ids: list[int] | None = None


_tokens, _words = BodyReader(_TokensFields, {}), BodyReader(_WordsFields, {})


@get(UI_PATH, include_in_schema=False, sync_to_thread=False)
def page(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page. Its links are relative: a path prefix does no harm."""
    if not request.scope["raw_path"].endswith(b"/"):
        # A browser resolves them from the last slash.
        return Response(b"", status_code=307, headers={"location": f"{UI_PATH[1:]}/"})
    return _file(request, _PAGE)


@get(f"{UI_PATH}/{{name:str}}", include_in_schema=False, sync_to_thread=False)
def page_file(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """A file of the page."""
    return _file(request, name)


@post(f"{UI_PATH}/tokens", status_code=200, include_in_schema=False, middleware=[RequireKey, Admission])
async def tokens(request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> ASGIApp:
    """How a model reads texts: each token, whether truncation cuts it, and the place of its vector."""
    asked = await parsed(request, await whole_body(request.scope, request.receive), service, _parse_tokens)
    model, limit, rows = await readings_of(request, service, asked, FieldNames())
    size = _BYTES_PER_TOKEN * sum(map(len, rows))
    write = partial(_write_tokens, rows, limit)
    return await answer(request, write, size=size, fingerprint=model.fingerprint, truncated=())


@post(f"{UI_PATH}/words", status_code=200, include_in_schema=False, middleware=[RequireKey, Admission])
async def words(request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> ASGIApp:
    """What each of a model's token ids stands for."""
    name, ids = await parsed(request, await whole_body(request.scope, request.receive), service, _parse_words)
    model, texts = await texts_of(request, service, name, ids, FieldNames("ids"), skip_special_tokens=False)
    write = partial(orjson.dumps, {"data": texts})
    return await answer(request, write, size=sum(map(len, texts)), fingerprint=model.fingerprint, truncated=())


UI_HANDLERS: Sequence[ControllerRouterHandler] = (page, page_file, tokens, words)
"""The page's routes. Files need no key."""


@cache
def _files() -> dict[str, bytes]:
    """The built files by name."""
    built = resources.files("provider.ui") / "built"
    return {each.name: each.read_bytes() for each in built.iterdir() if each.is_file()}


def _file(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
    content, kind = _files().get(name), _TYPES.get(name[name.rfind(".") :])
    if content is None or kind is None:
        raise NotFoundException
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = _HEADERS | {"etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(b"", status_code=304, headers=headers)
    # As a header: Litestar would add a second charset to a media type.
    return Response(content, headers=headers | {"content-type": kind})


def _parse_tokens(body: bytes, *, max_inputs: int, needs_model: bool) -> EmbedRequest:  # noqa: ARG001 - as for other dialects of tokens
    fields = _tokens.read(body)
    inputs = inputs_of(cast("Inputs | None", fields.input), "input", max_inputs)
    cut = truncation(fields.truncate)
    return EmbedRequest(fields.model or "", inputs, input_type=fields.input_type or None, truncate=cut)


def _parse_words(body: bytes, *, max_inputs: int, needs_model: bool) -> tuple[str, tuple[Ids, ...]]:  # noqa: ARG001
    fields = _words.read(body)
    rows = None if fields.ids is None else [[each] for each in fields.ids]
    return fields.model or "", cast("tuple[Ids, ...]", inputs_of(cast("Inputs | None", rows), "ids", max_inputs))


def _write_tokens(rows: Sequence[Sequence[ReadToken]], limit: int) -> bytes:
    data = [
        [
            {
                "id": each.token.id,
                "text": each.token.text,
                "special": each.token.is_special,
                "prompt": each.is_prompt,
                "cut": each.is_cut,
                "vector": each.vector,
            }
            for each in row
        ]
        for row in rows
    ]
    return orjson.dumps({"limit": limit, "data": data})
