"""From a request to what goes into the model: prompts, pairs, token ids, truncation."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from attrs import define, evolve, field, frozen

from provider.domain import DENSE, SCORES, EmbedRequest, Features, Ids, ModelSpec, ScoreRequest, Truncated, Truncation
from provider.engine.cache import SeenTexts
from provider.engine.cl100k import OPENAI_MODELS, decode
from provider.engine.loading import ModelParts
from provider.engine.pairs import PairOptions
from provider.engine.prompts import are_queries, prompt_for, role_of
from provider.engine.text_encoder import CHARACTERS_PER_TOKEN
from provider.engine.tokenizer import Tokenizer
from provider.engine.truncation import Encoded
from provider.errors import InvalidOption, Overloaded, PromptTooLong, TokenIdsNotAccepted, TooManyTokens
from provider.settings import ModelSettings

Waiting = Callable[[Coroutine[Any, Any, None]], Coroutine[Any, Any, None]]
"""Put around what may take long: the caller's chance to end it."""

# Below this many characters, tokenising takes less time than handing it to a thread and back.
_INLINE_CHARACTERS = 4_000
# More than most tokens have, in most languages.
_CHARACTERS_OF_A_TOKEN = 6
# Longer texts would make the memory of encodings large, and come again less often.
_REMEMBERED_CHARACTERS = 500
# Bounds the memory of encodings under way: each thread works on one chunk, which the library spreads over the cores.
_threads = ThreadPoolExecutor(2, "tokenise")


async def encode_inputs(
    model: ModelParts,
    settings: ModelSettings,
    request: EmbedRequest,
    *,
    max_tokens: int,
    room: "Room",
    waiting: Waiting | None = None,
) -> Sequence[Encoded]:
    """Token ids of each input of `request`, chunk by chunk in threads if there are many.

    Args:
        model: loaded.
        settings: of the model.
        request: what to embed.
        max_tokens: most tokens of all inputs together; tokenising ends when there are more.
        room: asked before much is tokenised. Where outputs are cached, the ids of short single texts are kept, too.
        waiting: put around what may take long.

    Raises:
        InputTooLong: an input is over the limit, and was not to be cut.
        InvalidInput: an input cannot be tokenised.
        InvalidOption: the prompt or the input type is none of the model's.
        Overloaded: the queue has no room, and needs some.
        TokenIdsNotAccepted: token ids came, and the model is not configured for them.
        TooManyTokens: the inputs have more than `max_tokens`.
    """
    most = request.max_tokens
    truncate = request.truncate or (settings.truncate if most is None else _where_limited(settings))
    tokenizer = tokenizer_for(request, model.spec, model.tokenizer)
    encoded: Sequence[Encoded]
    texts: Sequence[str] = cast("Sequence[str]", request.inputs)
    ids: Sequence[Ids] = ()
    if not isinstance(request.inputs[0], str):
        texts, ids = (), cast("Sequence[Ids]", request.inputs)
        if _token_input(settings, request.model) == "cl100k":
            texts, ids = await _decoded(ids, max_tokens), ()
    if ids:
        _check_token_ids(settings, request, model.spec)
        encoded = tokenizer.check_ids(ids, truncate=truncate, max_tokens=most)
    else:
        prompt = prompt_for(request, model.spec)
        if room.seen is not None and len(texts) == 1 and len(prompt) + len(texts[0]) <= _REMEMBERED_CHARACTERS:
            encoded = (tokenizer.remembered(texts[0], prompt, truncate, most),)
            room.seen.add(texts)
        else:
            _check_prompt(prompt, len(texts), max_tokens)
            lengths = [len(prompt) + len(text) for text in texts]
            limit = min(tokenizer.max_tokens, most or tokenizer.max_tokens)
            gather = _Gathering(texts, lengths, limit, max_tokens, request.outputs, room, waiting)
            options: dict[str, Any] = {"prompt": prompt, "truncate": truncate, "max_tokens": most}
            return await gather.all(lambda inputs: tokenizer.chunks(texts[inputs], **options))
    if (tokens := sum([len(each.features.ids) for each in encoded])) > max_tokens:
        raise TooManyTokens(tokens, limit=max_tokens)
    return _giving(request.outputs, encoded)


@frozen
class Room:
    """What is asked for room in the queue.

    Attributes:
        check: raises Overloaded if there is none for at least so many tokens.
        is_at_hand: whether the outputs of an input are cached, or on their way: it needs no room.
        seen: texts that came before; None where nothing is cached.
    """

    check: Callable[[int], None]
    is_at_hand: Callable[[Features], bool]
    seen: SeenTexts | None


def _where_limited(settings: ModelSettings) -> Truncation:
    """Who only says how many tokens may stay wants longer inputs cut."""
    return "auto" if settings.truncate == "none" else settings.truncate


def truncations(encoded: Sequence[Encoded]) -> tuple[Truncated, ...]:
    """The inputs that were cut."""
    return tuple([Truncated(i, len(each.ids), each.original_tokens) for i, each in enumerate(encoded) if each.was_cut])


def _check_prompt(prompt: str, inputs: int, max_tokens: int) -> None:
    # It is tokenised with every input.
    most = max_tokens * CHARACTERS_PER_TOKEN // inputs
    if len(prompt) > most:
        raise PromptTooLong(len(prompt), limit=most)


def _giving(outputs: tuple[str, ...], encoded: Sequence[Encoded]) -> Sequence[Encoded]:
    if outputs == (DENSE,):
        return encoded
    return [evolve(each, features=evolve(each.features, outputs=outputs)) for each in encoded]


@define
class _Gathering:
    """The inputs of a request as they are tokenised, a chunk at a time.

    Attributes:
        texts: the inputs.
        lengths: characters of each input, with what is put before it.
        most: tokens of an input.
        max_tokens: of all inputs: none is tokenised behind the one that exceeds it.
        outputs: what the model is to give.
        refusal: the queue has no room. Only a request that needs none is tokenised further.
    """

    texts: Sequence[str]
    lengths: Sequence[int]
    most: int
    max_tokens: int
    outputs: tuple[str, ...]
    room: Room
    waiting: Waiting | None
    encoded: list[Encoded] = field(factory=list)
    tokens: int = 0
    refusal: Overloaded | None = None

    async def all(self, chunks: Callable[[slice], Iterator[Sequence[Encoded]]]) -> Sequence[Encoded]:
        """Every input; `chunks` tokenises some of them. Large work is done in threads, and ends with its caller.

        Raises:
            TooManyTokens, Overloaded: as `encode_inputs`, and whatever `chunks` does.
        """
        try:
            # Rather too few than too many.
            self.room.check(sum([min(self.most, 2 + length // _CHARACTERS_OF_A_TOKEN) for length in self.lengths]))
        except Overloaded as exc:
            if self.room.seen is None or self.texts[0] not in self.room.seen:
                raise
            self.refusal = exc
            # Only a request that is cached as a whole is worth more than this.
            await self._add_all(chunks(slice(1)), self.lengths[0])
            self.encoded, self.tokens = [], 0
        await self._add_all(chunks(slice(None)), sum(self.lengths))
        if self.room.seen is not None:
            self.room.seen.add(self.texts)
        return self.encoded

    async def _add_all(self, chunks: Iterator[Sequence[Encoded]], characters: int) -> None:
        if characters <= _INLINE_CHARACTERS:
            for chunk in chunks:
                self._add(chunk)
        else:
            work = self._add_in_threads(chunks)
            await (work if self.waiting is None else self.waiting(work))

    async def _add_in_threads(self, chunks: Iterator[Sequence[Encoded]]) -> None:
        # Others take the threads in turn.
        loop = asyncio.get_running_loop()
        while chunk := await loop.run_in_executor(_threads, next, chunks, None):
            self._add(chunk)

    def _add(self, chunk: Sequence[Encoded]) -> None:
        chunk = _giving(self.outputs, chunk)
        if self.refusal is not None and not all(self.room.is_at_hand(each.features) for each in chunk):
            raise self.refusal
        self.encoded += chunk
        self.tokens += sum(len(each.ids) for each in chunk)
        if self.tokens > self.max_tokens:
            is_counted = len(self.encoded) == len(self.lengths)
            raise TooManyTokens(self.tokens, limit=self.max_tokens, is_counted=is_counted)


def tokenizer_for(request: EmbedRequest, spec: ModelSpec, tokenizer: Tokenizer) -> Tokenizer:
    """The part of a model's tokenizer that the inputs of `request` go through.

    Raises:
        MissingInputType: as `are_queries`.
    """
    if are_queries(request, spec):
        return tokenizer.queries
    is_document = request.input_type is not None and role_of(request.input_type) == "document"
    return tokenizer.documents if is_document else tokenizer


def _token_input(settings: ModelSettings, name: str) -> str:
    """How token ids of a request that names the model so are read."""
    if settings.token_input != "auto":  # noqa: S105 - tokens of text
        return settings.token_input
    return "cl100k" if name in OPENAI_MODELS else "reject"


async def _decoded(ids: Sequence[Ids], max_tokens: int) -> Sequence[str]:
    # A short id may stand for many characters, so their number is checked before they are decoded.
    if (tokens := sum(map(len, ids))) > max_tokens:
        raise TooManyTokens(tokens, limit=max_tokens)
    return await asyncio.get_running_loop().run_in_executor(_threads, decode, ids)


def _check_token_ids(settings: ModelSettings, request: EmbedRequest, spec: ModelSpec) -> None:
    if _token_input(settings, request.model) == "reject":
        raise TokenIdsNotAccepted
    # Where queries and documents go different ways, the input type says more than which prompt.
    is_prompt = request.input_type and (spec.queries is None or prompt_for(request, spec))
    if request.prompt or request.prompt_name or is_prompt:
        reason = (
            "a prompt cannot be put before token-ID input. Send strings, or put the prompt's tokens into the input."
        )
        raise InvalidOption(option="inputs", reason=reason)


async def encode_scored(
    model: ModelParts,
    settings: ModelSettings,
    request: ScoreRequest,
    *,
    max_tokens: int,
    room: Room,
    waiting: Waiting | None = None,
) -> Sequence[Encoded]:
    """Token ids of each text of `request`, with its query where there are queries; as `encode_inputs`.

    Raises:
        InputTooLong: one is over the limit, and was not to be cut.
        InvalidInput: a text or a query cannot be tokenised.
        InvalidOption: the request does not fit this model.
        TooManyTokens: the texts have more than `max_tokens`.
    """
    _check_scored(model, request)
    texts, queries = request.texts, request.queries or ()
    # One query goes with every text, and tokenising it is part of the work.
    lengths = [len(text) + len(queries[i % len(queries)] if queries else "") for i, text in enumerate(texts)]
    most = request.max_tokens
    truncate = request.truncate or (settings.truncate if most is None else _where_limited(settings))
    limit = min(model.tokenizer.max_tokens, most or model.tokenizer.max_tokens)
    gather = _Gathering(texts, lengths, limit, max_tokens, (SCORES,), room, waiting)
    return await gather.all(partial(_scored_chunks, model, request, truncate))


def _check_scored(model: ModelParts, request: ScoreRequest) -> None:
    has_template = model.spec.scores.messages is not None
    queries, limit = request.queries, request.max_document_tokens
    if not request.texts:
        raise InvalidOption(option="texts", reason="expected at least one text, got none.")
    if request.instruction is not None and not has_template:
        reason = "this model's template has no place for an instruction. Leave it out, or put it into the query."
        raise InvalidOption(option="instruction", reason=reason)
    if limit is not None and limit < 1:
        raise InvalidOption(option="max_document_tokens", reason=f"{limit} is less than 1.")
    if queries is None and has_template:
        raise InvalidOption(option="queries", reason="this model scores pairs of a query and a text. Send a query.")
    if queries is None and limit is not None:
        raise InvalidOption(
            option="max_document_tokens", reason="it is for pairs of a query and a document. Leave it out."
        )
    if queries is not None and len(queries) not in {1, len(request.texts)}:
        reason = f"got {len(queries)} queries and {len(request.texts)} texts. Send one query, or one for each text."
        raise InvalidOption(option="queries", reason=reason)


def _scored_chunks(
    model: ModelParts, request: ScoreRequest, truncate: Truncation, inputs: slice
) -> Iterator[Sequence[Encoded]]:
    prompt = model.spec.default_prompt if request.instruction is None else request.instruction
    texts, queries = request.texts[inputs], request.queries
    if queries is None:
        return model.tokenizer.chunks(texts, prompt=prompt, truncate=truncate, max_tokens=request.max_tokens)
    if model.pairs is None:
        msg = f"the model {model.spec.name!r} was loaded without a tokenizer for pairs"
        raise AssertionError(msg)
    options = PairOptions(prompt, truncate, request.max_tokens, request.max_document_tokens)
    return model.pairs.chunks(queries if len(queries) == 1 else queries[inputs], texts, options)
