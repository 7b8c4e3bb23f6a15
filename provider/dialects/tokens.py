"""What dialects that show tokens do between reading a request and writing its answer."""

from collections.abc import Sequence
from typing import Any

from attrs import evolve
from litestar import Request

from provider.dialects import vectors
from provider.dialects.phrases import FieldNames
from provider.domain import EmbedRequest, Ids
from provider.engine.encoding import tokenizer_for
from provider.engine.engine import Engine
from provider.engine.loading import ModelParts
from provider.engine.prompts import prompt_for, with_named
from provider.engine.token_texts import ReadToken, Token, detokenise, read_texts, tokenise
from provider.http.auth import caller_of

BYTES_PER_TOKEN = 80
"""Of a token with its text and place in JSON, about."""


async def tokens_of(
    request: Request[Any, Any, Any],
    engine: Engine,
    asked: EmbedRequest,
    names: FieldNames,
    *,
    add_special_tokens: bool,
) -> tuple[ModelParts, list[list[Token]]]:
    """The model of a request, and the tokens of each of its texts, with the prompt that it chooses.

    Args:
        request: whose log line and errors show the model, and the fields as the dialect names them.
        engine: what has the models.
        asked: its inputs are texts; its model may be empty.
        names: the dialect's names of its fields.
        add_special_tokens: whether the tokens that the model needs around a text are among them.

    Raises:
        RequestError: the request cannot be answered as it is.
        NotAvailable: the model is not loaded.
    """
    model, asked = await _prompted(request, engine, asked, names)
    rows = await tokenise(
        model.tokenizer,
        [str(each) for each in asked.inputs],
        prompt=prompt_for(asked, model.spec),
        add_special_tokens=add_special_tokens,
        max_tokens=engine.limits.max_request_tokens,
    )
    return model, rows


async def readings_of(
    request: Request[Any, Any, Any], engine: Engine, asked: EmbedRequest, names: FieldNames
) -> tuple[ModelParts, int, list[list[ReadToken]]]:
    """The model of a request, how many tokens it takes of a text, and how it would read each; as `tokens_of`."""
    model, asked = await _prompted(request, engine, asked, names)
    rows = await read_texts(model, asked, max_tokens=engine.limits.max_request_tokens)
    return model, tokenizer_for(asked, model.spec, model.tokenizer).max_tokens, rows


async def texts_of(
    request: Request[Any, Any, Any],
    engine: Engine,
    named: str,
    rows: Sequence[Ids],
    names: FieldNames,
    *,
    skip_special_tokens: bool,
) -> tuple[ModelParts, list[str]]:
    """The model that is `named`, which may be empty, and the text of each row of token ids, (tokens,) int32.

    Raises:
        RequestError, NotAvailable: as `tokens_of`.
    """
    model = await _model(request, engine, named, names)
    return model, await detokenise(model, rows, skip_special_tokens=skip_special_tokens)


async def _model(request: Request[Any, Any, Any], engine: Engine, named: str, names: FieldNames) -> ModelParts:
    request.scope["state"]["field_names"] = names
    name = await vectors.chosen(request, engine, named)
    return await engine.runtime(name, caller_of(request.scope)).ready()


async def _prompted(
    request: Request[Any, Any, Any], engine: Engine, asked: EmbedRequest, names: FieldNames
) -> tuple[ModelParts, EmbedRequest]:
    """The model of a request, and the request with the prompt that the model's name asks for."""
    model = await _model(request, engine, asked.model, names)
    name, prompt = engine.split(asked.model)
    if prompt is not None:
        asked = with_named(evolve(asked, model=name), prompt, model.spec)
    return model, asked
