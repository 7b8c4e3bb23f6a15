"""`POST /tokenize` and `/detokenize`: a text to the token ids of a model, and back."""

from functools import partial
from typing import Any, cast

import msgspec
import numpy as np
import orjson
from litestar import Request
from litestar.types import ASGIApp

from provider.dialects.fields import BodyReader, ForeignField, model_of, only
from provider.dialects.inputs import Inputs, inputs_of
from provider.dialects.phrases import FieldNames
from provider.dialects.scores.common import missing
from provider.dialects.tokens import BYTES_PER_TOKEN, texts_of, tokens_of
from provider.domain import EmbedRequest, Ids
from provider.engine.engine import Engine
from provider.http.exchange import answer, parsed


class TokenizeFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /tokenize`."""

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /detokenize`."""

    model: str | None = None
    tokens: list[int] | None = None


class _TokenizeNames(FieldNames):
    """The only input is `prompt`."""

    def place(self, index: int | None, *, is_query: bool = False) -> str:  # noqa: ARG002 - there are no queries
        """`prompt`."""
        return "prompt"


class _DetokenizeNames(FieldNames):
    """The only input is `tokens`."""

    def place(self, index: int | None, *, is_query: bool = False) -> str:  # noqa: ARG002 - there are no queries
        """`tokens`."""
        return "tokens"


_NO_CHAT = ForeignField(Any, only(instead='These models have no chat template: send a text as "prompt".'))
_tokenize = BodyReader(TokenizeFields, {"messages": _NO_CHAT})
_detokenize = BodyReader(DetokenizeFields, {})


async def answer_tokenize(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """The token ids of a text, their number, and the most that the model takes."""
    asked, fields = await parsed(request, body, service, _parse_tokenize)
    special = fields.add_special_tokens is not False
    model, (row,) = await tokens_of(request, service, asked, _TokenizeNames(), add_special_tokens=special)
    names = [model.tokenizer.library.id_to_token(each.id) for each in row] if fields.return_token_strs else None
    write = partial(
        orjson.dumps,
        {
            "count": len(row),
            "max_model_len": model.spec.max_tokens,
            "tokens": [each.id for each in row],
            "token_strs": names,
        },
    )
    size = BYTES_PER_TOKEN * len(row)
    return await answer(request, write, size=size, fingerprint=model.fingerprint, truncated=())


async def answer_detokenize(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """The text of token ids, special tokens included."""
    named, rows = await parsed(request, body, service, _parse_detokenize)
    model, (text,) = await texts_of(request, service, named, rows, _DetokenizeNames(), skip_special_tokens=False)
    write = partial(orjson.dumps, {"prompt": text})
    return await answer(request, write, size=len(text), fingerprint=model.fingerprint, truncated=())


def _parse_tokenize(
    body: bytes,
    *,
    max_inputs: int,  # noqa: ARG001 - there is one
    needs_model: bool,
) -> tuple[EmbedRequest, TokenizeFields]:
    fields = _tokenize.read(body)
    if fields.prompt is None:
        raise missing(param="prompt")
    return EmbedRequest(model_of(fields.model, is_needed=needs_model), (fields.prompt,)), fields


def _parse_detokenize(
    body: bytes,
    *,
    max_inputs: int,
    needs_model: bool,
) -> tuple[str, tuple[Ids, ...]]:
    fields = _detokenize.read(body)
    if fields.tokens is None:
        raise missing(param="tokens")
    rows = inputs_of(cast("Inputs", fields.tokens), "tokens", max_inputs) if fields.tokens else ((),)
    return model_of(fields.model, is_needed=needs_model), tuple(np.asarray(row, np.int32) for row in rows)
