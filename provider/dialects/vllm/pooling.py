"""`POST /pooling`: vectors, token vectors or probabilities, as `task` says; without it, what the model gives."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import orjson
from litestar import Request
from litestar.types import ASGIApp

from provider.dialects import vectors
from provider.dialects.fields import BodyReader, model_of, refusal
from provider.dialects.openai import wire
from provider.dialects.openai.fields import FOREIGN, OwnFields
from provider.dialects.phrases import FieldNames
from provider.dialects.scores import vllm as scores
from provider.dialects.scores.common import cuts
from provider.dialects.scores.controller import answer_scored, scored_by
from provider.domain import DENSE, MULTI_VECTOR, SCORES, Embedded, ModelSpec, Scored
from provider.engine.engine import Engine
from provider.errors import InvalidRequest
from provider.http.auth import caller_of, require_task
from provider.http.exchange import answer, model_for, parsed

_TASK = "task"
_OUTPUTS = {"embed": DENSE, "token_embed": MULTI_VECTOR, "classify": SCORES}
_NAMES = FieldNames()


class TaskFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields that say which kind of answer is wanted."""

    model: str | None = None
    task: str | None = None


_task_reader = BodyReader(TaskFields, {})
# Elsewhere `task` is Jina's word for `input_type`.
_READER = BodyReader(OwnFields, {name: each for name, each in FOREIGN.items() if name != _TASK})


async def pool(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """A vector (`embed`), vectors of tokens (`token_embed`) or the probability of each label (`classify`), a text."""
    asked = await parsed(request, body, service, _parse_task)
    output = _OUTPUTS[asked.task] if asked.task else await _own_output(request, service, asked.model or "")
    require_task(request.scope, "classify" if output == SCORES else "embed")
    if output == SCORES:
        return await _classify(request, body, service)
    call = await parsed(request, body, service, partial(wire.parse, reader=_READER))
    if output == MULTI_VECTOR and call.encoding_format != "float":
        msg = "Invalid 'encoding_format': the vectors of tokens are written as numbers only. Leave it out."
        raise InvalidRequest(msg, param="encoding_format", code="invalid_value")
    call = call.giving(output)
    wanted = await vectors.with_model(request, service, call.request, _NAMES)
    embedded = await vectors.embed(request, service, wanted)
    found = await vectors.ranges(request, wanted, embedded, call.element_type)
    ranges = None if found is None else found[output]
    return await answer(
        request,
        lambda: _write(request, wanted.model, wire.column(embedded, output, call, ranges), embedded),
        size=wire.numbers(embedded.outputs[output]) * vectors.BYTES_PER_NUMBER,
        fingerprint=embedded.fingerprint,
        truncated=embedded.truncated,
    )


async def _classify(request: Request[Any, Any, Any], body: bytes, engine: Engine) -> ASGIApp:
    call = await parsed(request, body, engine, scores.parse_classify)
    model, scored = await scored_by(request, engine, call, scores.CLASSIFY_NAMES, one_label=False)
    return await answer_scored(
        request,
        lambda: _write(request, model, [*scored.scores], scored),
        scored,
        scored.scores.size * vectors.BYTES_PER_NUMBER,
    )


def _parse_task(body: bytes, *, max_inputs: int, needs_model: bool) -> TaskFields:  # noqa: ARG001 - no inputs
    fields = _task_reader.read(body)
    model_of(fields.model, is_needed=needs_model)
    if fields.task and fields.task not in _OUTPUTS:
        raise refusal(_TASK, fields.task, tuple(_OUTPUTS), "")
    return fields


async def _own_output(request: Request[Any, Any, Any], engine: Engine, named: str) -> str:
    """The first output of the model that this route can answer."""

    def fitting(spec: ModelSpec) -> list[str]:
        return [output for output in spec.outputs if output in _OUTPUTS.values()]

    caller = caller_of(request.scope)
    model = named or await model_for(engine, caller, "pool", lambda spec: bool(fitting(spec)))
    found = fitting((await engine.runtime(model, caller).ready()).spec)
    # The engine tells what is wrong with the first of all.
    return found[0] if found else DENSE


def _write(request: Request[Any, Any, Any], model: str, column: Sequence[Any], done: Embedded | Scored) -> bytes:
    tokens = done.usage.tokens
    body: dict[str, Any] = {
        "id": f"pool-{request.scope['state']['request_id']}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [{"index": i, "object": "pooling", "data": value} for i, value in enumerate(column)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    if done.truncated:
        body["truncated"] = cuts(done.truncated)
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
