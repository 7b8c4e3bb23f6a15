"""What errors say to clients: OpenAI's words where it has them, and the field at fault as the request calls it."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from provider import errors
from provider.domain import DENSE, MULTI_VECTOR, SCORES, SPARSE
from provider.http.routes import CLASSIFY_PATHS, EMBEDDINGS_PATHS, RERANK_PATHS
from provider.settings import ENV_PREFIX


@frozen
class FieldNames:
    """What requests of a dialect call the fields of `EmbedRequest` and `ScoreRequest`.

    Attributes:
        inputs: the texts; one is `inputs[index]`.
        queries: what the texts are paired with; one of several is `queries[index]`, by `one_query`.
        one_query: one of several queries, with the place for its index.
        options: our name to the dialect's, where it has another.
        cut: the field, with its value, that asks for long texts to be cut.
    """

    inputs: str = "input"
    queries: str = "query"
    one_query: str = "query[{}]"
    options: Mapping[str, str] = {}
    cut: str = '"truncate": true'

    def option(self, name: str) -> str:
        """The dialect's name of a field of ours."""
        if name in ("inputs", "texts"):
            return self.inputs
        return self.queries if name == "queries" else self.options.get(name, name)

    def place(self, index: int | None, *, is_query: bool = False) -> str:
        """An input or a query; None is the one query of all texts."""
        if not is_query:
            return f"{self.inputs}[{index}]"
        return self.queries if index is None else self.one_query.format(index)


@frozen
class Phrase:
    """A message, and the field at fault."""

    message: str
    param: str | None = None


def phrase(exc: errors.ProviderError, names: FieldNames) -> Phrase:
    """An error in words for the client of a dialect whose requests have these names."""
    say = next((_PHRASES[kind] for kind in type(exc).__mro__ if kind in _PHRASES), None)
    return Phrase(exc.message) if say is None else say(exc, names)


def apology(state: Mapping[str, Any]) -> str:
    """What clients are told of an error that only the log may explain; `state` is the request's."""
    return (
        "The server had an error while processing your request. Sorry about that! "
        f"The log of the service has the reason under the request ID {state.get('request_id', '')}."
    )


def _invalid(field: str, reason: str) -> Phrase:
    return Phrase(f"Invalid '{field}': {reason}", field)


def _model_not_found(exc: errors.ModelNotFound, _: FieldNames) -> Phrase:
    shown = exc.name[: errors.SHOWN_CHARACTERS]
    message = (
        f"The model `{shown}` does not exist or you do not have access to it. "
        f"The models here are: {', '.join(exc.known) or 'none'}."
    )
    if shown == exc.name:
        message += (
            " If your client cannot ask for one of these, the operator can add the name: "
            f"`aliases: [{json.dumps(exc.name, ensure_ascii=False)}]` under `model` in the configuration, "
            f"or {ENV_PREFIX}MODEL_ALIASES={exc.name}"
        )
    return Phrase(message, "model")


def _prompt_not_found(exc: errors.PromptNotFound, _: FieldNames) -> Phrase:
    known = ", ".join(exc.known) or "none"
    has = f"The model `{exc.model}` has no prompt {_shown(exc.prompt)} to be asked for by name"
    return Phrase(f"{has}. Names with a prompt are: {known}.", "model")


def _scope_missing(exc: errors.ScopeMissing, _: FieldNames) -> Phrase:
    allowed = f" It allows: {', '.join(exc.allowed) or 'no task'}." if exc.scope != "admin" else ""
    message = f"You have insufficient permissions for this operation. Missing scopes: {exc.scope}."
    return Phrase(f"{message} Your key is {exc.caller!r}.{allowed} Ask whoever runs this service for another.")


def _model_forbidden(exc: errors.ModelForbidden, _: FieldNames) -> Phrase:
    shown = exc.name[: errors.SHOWN_CHARACTERS]
    message = f"The key {exc.caller!r} does not have access to the model `{shown}`."
    return Phrase(f"{message} It has access to: {', '.join(exc.allowed)}.", "model")


def _limit_exceeded(exc: errors.LimitExceeded, _: FieldNames) -> Phrase:
    per = f"{exc.unit} per {'min' if exc.period == 'minute' else exc.period}"
    figures = f"on {per}: Limit {exc.limit}, Used {exc.used}, Requested {exc.requested}."
    if exc.requested > exc.limit:
        return Phrase(f"Request too large for the key {exc.caller!r} {figures} Send fewer inputs at once.")
    again = f"Please try again in {exc.retry_after_seconds}s."
    if exc.period == "day":
        return Phrase(f"You exceeded your current quota: the key {exc.caller!r} is at its limit {figures} {again}")
    return Phrase(f"Rate limit reached for the key {exc.caller!r} {figures} {again}")


_SERVED_AT = {
    "embed": f"Send texts to POST {EMBEDDINGS_PATHS[0]}.",
    "rerank": f"Send a query and documents to POST {RERANK_PATHS[0]}.",
    "classify": f"Send texts, or pairs of them, to POST {CLASSIFY_PATHS[0]}.",
}


def _output_not_supported(exc: errors.OutputNotSupported, _: FieldNames) -> Phrase:
    outputs = ", ".join(f'"{each}"' for each in exc.supported)
    with_outputs = f'Send texts to POST {EMBEDDINGS_PATHS[0]} with "output_types": [{outputs}].'
    does = f"its task is {exc.task}, and it gives {', '.join(exc.supported)}."
    message = f"The model `{exc.model}` does not give {exc.output}: {does} {_SERVED_AT.get(exc.task, with_outputs)}"
    return Phrase(message, "model")


def _several_labels(exc: errors.SeveralLabels, _: FieldNames) -> Phrase:
    gives = f"it gives {len(exc.labels)} scores ({', '.join(exc.labels)[:200]}), where this path answers one."
    return Phrase(f"The model `{exc.model}` is a classifier: {gives} {_SERVED_AT['classify']}", "model")


def _input_too_long(exc: errors.InputTooLong, names: FieldNames) -> Phrase:
    field, tokens, limit = names.place(exc.index), f"{'' if exc.is_counted else 'more than '}{exc.tokens}", exc.limit
    if exc.is_requested:
        bound = f"'{names.option('max_tokens')}' allows {limit} tokens, however"
        return _invalid(field, f"{bound} it has {tokens}. Shorten it, raise the limit, or send {names.cut}.")
    if exc.is_pair:
        return _invalid(
            field,
            f"maximum input length is {limit} tokens, however this text has {tokens} tokens, together with what it is "
            f"paired with. Shorten it, or send {names.cut}.",
        )
    # Clients recognise this case by its words: OpenAI's current and former message, in one.
    return _invalid(
        field,
        f"maximum input length is {limit} tokens. This model's maximum context length is {limit} tokens, however input "
        f"{exc.index} has {tokens} tokens. Shorten it, or send {names.cut}. The operator can cut long inputs of "
        f"all clients: `truncate: end` ({ENV_PREFIX}MODEL_TRUNCATE=end).",
    )


def _token_ids_not_accepted(_: errors.TokenIdsNotAccepted, names: FieldNames) -> Phrase:
    message = (
        "This server does not accept token-ID input: token IDs are tokenizer-specific. Send strings. "
        "With LangChain set `check_embedding_ctx_length=False` on OpenAIEmbeddings. "
        "The operator can set `token_input: cl100k` for IDs of OpenAI's tokenizer, as LangChain sends them, or "
        "`token_input: native` for IDs of the model's own."
    )
    return Phrase(message, names.inputs)


def _invalid_dimensions(exc: errors.InvalidDimensions, names: FieldNames) -> Phrase:
    field = names.option(exc.option)
    given = f"Invalid '{field}' = {exc.dimensions}"
    if exc.output == DENSE:
        is_above = exc.dimensions > exc.most
        bound = f"less than or equal to {exc.most}" if is_above else f"greater than or equal to {exc.least}"
        return Phrase(f"{given}. Must be {bound}: this model's vectors have {exc.most} dimensions.", field)
    if exc.output == SPARSE:
        return Phrase(f"{given}: sparse vectors are not cut; leave it out, or ask for other outputs.", field)
    if exc.output == MULTI_VECTOR:
        return Phrase(f"{given}: this model's token vectors have {exc.most}.", field)
    return _invalid(field, "scores have none." if exc.output == SCORES else exc.reason)


def _unknown_prompt(exc: errors.UnknownPrompt, names: FieldNames) -> Phrase:
    prompts = ", ".join(exc.known) or "none"
    return Phrase(f"Invalid value: {_shown(exc.name)}. This model's prompts are: {prompts}.", names.option(exc.option))


def _unknown_input_type(exc: errors.UnknownInputType, names: FieldNames) -> Phrase:
    known = f"{', '.join(exc.roles)}, and this model's prompts: {', '.join(exc.prompts) or 'none'}"
    return Phrase(f"Invalid value: {_shown(exc.input_type)}. Supported values are: {known}.", names.option(exc.option))


def _missing_input_type(exc: errors.MissingInputType, names: FieldNames) -> Phrase:
    field = names.option(exc.option)
    differs = "This model embeds queries and documents differently: say 'query' or 'document'."
    return Phrase(f"Missing required parameter: '{field}'. {differs}", field)


def _embedding_failed(exc: errors.EmbeddingFailed, names: FieldNames) -> Phrase:
    return Phrase(exc.reason if exc.index is None else f"{names.place(exc.index)}: {exc.reason}")


def _shown(value: str) -> str:
    return repr(value[: errors.SHOWN_CHARACTERS])


_PHRASES: Mapping[type[errors.ProviderError], Callable[[Any, FieldNames], Phrase]] = {
    errors.InvalidRequest: lambda exc, _: Phrase(exc.message, exc.param),
    errors.ModelNotFound: _model_not_found,
    errors.PromptNotFound: _prompt_not_found,
    errors.ScopeMissing: _scope_missing,
    errors.ModelForbidden: _model_forbidden,
    errors.LimitExceeded: _limit_exceeded,
    errors.OutputNotSupported: _output_not_supported,
    errors.SeveralLabels: _several_labels,
    errors.InvalidInput: lambda exc, names: _invalid(names.place(exc.index, is_query=exc.is_query), exc.reason),
    errors.InputTooLong: _input_too_long,
    errors.TooManyTokens: lambda exc, _: Phrase(
        f"Requested {'' if exc.is_counted else 'at least '}{exc.tokens} tokens, max {exc.limit} tokens per request"
    ),
    errors.TokenIdsNotAccepted: _token_ids_not_accepted,
    errors.InvalidOption: lambda exc, names: _invalid(names.option(exc.option), exc.reason),
    errors.InvalidDimensions: _invalid_dimensions,
    errors.UnknownPrompt: _unknown_prompt,
    errors.UnknownInputType: _unknown_input_type,
    errors.MissingInputType: _missing_input_type,
    errors.EmbeddingFailed: _embedding_failed,
}
"""By class; a class without a row is said as its parent is. Errors in none of these say their own message."""
