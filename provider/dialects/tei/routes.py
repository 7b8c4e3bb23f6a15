"""TEI's routes: each reads a body, asks the engine, and writes a bare list."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import orjson
from attrs import evolve
from litestar import Request
from litestar.types import ASGIApp

from provider.dialects import vectors
from provider.dialects.openai.wire import numbers
from provider.dialects.scores.controller import answer_scored, scored_by
from provider.dialects.tei import bodies
from provider.dialects.tokens import BYTES_PER_TOKEN, texts_of, tokens_of
from provider.domain import DENSE, MULTI_VECTOR, SCORES, SPARSE, Embedded, Scored
from provider.engine.engine import Engine
from provider.engine.token_texts import Token
from provider.http.auth import caller_of, require_task
from provider.http.exchange import answer, parsed

_BYTES_PER_LABEL = 60


async def answer_embed(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Dense vectors, or of a source sentence its cosine similarity to others."""
    call = await parsed(request, body, service, bodies.parse_embed)
    return await _embedded(request, service, call, _write_similarities if call.is_similarity else _write_dense)


async def answer_root(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """As the path of the model's kind: `/embed`, `/embed_sparse` or `/predict`; with `texts`, as `/rerank`."""
    caller = caller_of(request.scope)
    runtimes = [each for name, each in service.runtimes.items() if caller.may_use(name)]
    outputs = (await runtimes[0].ready()).spec.outputs if len(runtimes) == 1 else (DENSE,)
    if outputs == (SCORES,):
        require_task(request.scope, "classify")
        return await answer_predict(request, body, service)
    require_task(request.scope, "embed")
    if DENSE not in outputs and SPARSE in outputs:
        return await answer_embed_sparse(request, body, service)
    return await answer_embed(request, body, service)


async def answer_similarity(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """The cosine similarity of a source sentence to each of others."""
    call = await parsed(request, body, service, bodies.parse_similarity)
    return await _embedded(request, service, call, _write_similarities)


async def answer_embed_sparse(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Sparse vectors: the weights of vocabulary entries."""
    call = await parsed(request, body, service, partial(bodies.parse_embed, outputs=(SPARSE,)))
    return await _embedded(request, service, call, _write_sparse)


async def answer_embed_all(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """A vector for each token, of models that give token vectors."""
    call = await parsed(request, body, service, partial(bodies.parse_embed, outputs=(MULTI_VECTOR,)))
    return await _embedded(request, service, call, _write_tokens)


async def answer_predict(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """The score of each of the model's labels, the highest first."""
    asked, cut, is_one = await parsed(request, body, service, bodies.parse_predict)
    _, scored = await scored_by(request, service, asked, bodies.PREDICT_NAMES, one_label=False, cut=cut)
    write = partial(_write_labels, scored, is_one=is_one)
    return await answer_scored(request, write, scored, _BYTES_PER_LABEL * scored.scores.size)


async def answer_tokenize(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """The tokens of each text, with their places in it."""
    asked, add_special_tokens = await parsed(request, body, service, bodies.parse_tokenize)
    model, rows = await tokens_of(request, service, asked, bodies.NAMES, add_special_tokens=add_special_tokens)
    size = BYTES_PER_TOKEN * sum(map(len, rows))
    return await answer(
        request, partial(_write_token_rows, rows), size=size, fingerprint=model.fingerprint, truncated=()
    )


async def answer_decode(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """The text of token ids."""
    name, rows, skip_special_tokens = await parsed(request, body, service, bodies.parse_decode)
    model, texts = await texts_of(
        request, service, name, rows, bodies.DECODE_NAMES, skip_special_tokens=skip_special_tokens
    )
    size = sum(map(len, texts))
    return await answer(request, partial(orjson.dumps, texts), size=size, fingerprint=model.fingerprint, truncated=())


async def _embedded(
    request: Request[Any, Any, Any], service: Engine, call: bodies.EmbedCall, write: Callable[[Embedded], bytes]
) -> ASGIApp:
    names = bodies.SimilarityNames() if call.is_similarity else bodies.NAMES
    asked = await vectors.with_model(request, service, call.request, names)
    configured = service.runtime(asked.model, caller_of(request.scope)).settings.truncate
    embedded = await vectors.embed(request, service, evolve(asked, truncate=call.cut.resolved(configured)))
    size = vectors.BYTES_PER_NUMBER * sum(map(numbers, embedded.outputs.values()))
    return await answer(
        request, partial(write, embedded), size=size, fingerprint=embedded.fingerprint, truncated=embedded.truncated
    )


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _write_dense(embedded: Embedded) -> bytes:
    return _json(np.ascontiguousarray(embedded.vectors))


def _write_similarities(embedded: Embedded) -> bytes:
    source, *others = embedded.vectors
    return _json([np.dot(source, each) for each in others])


def _write_sparse(embedded: Embedded) -> bytes:
    return _json(
        [
            [{"index": index, "value": value} for index, value in zip(each.ids.tolist(), each.weights, strict=True)]
            for each in embedded.sparse
        ]
    )


def _write_tokens(embedded: Embedded) -> bytes:
    return _json([np.ascontiguousarray(each) for each in embedded.multi_vector])


def _write_labels(scored: Scored, *, is_one: bool) -> bytes:
    rows = [
        [{"score": row[label], "label": scored.labels[label]} for label in np.argsort(-row, kind="stable").tolist()]
        for row in scored.scores
    ]
    return _json(rows[0] if is_one else rows)


def _write_token_rows(rows: list[list[Token]]) -> bytes:
    return orjson.dumps(
        [
            [
                {"id": each.id, "text": each.text, "special": each.is_special, "start": each.start, "stop": each.stop}
                for each in row
            ]
            for row in rows
        ]
    )
