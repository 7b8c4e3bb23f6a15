"""Texts to tokens that people can read, and token ids back to texts: what tokenise and decode routes answer."""

import asyncio
from collections.abc import Sequence
from functools import partial

import tokenizers
from attrs import frozen

from provider.domain import EmbedRequest, Features, Ids, MultiVectorTask, Truncation
from provider.engine.encoding import tokenizer_for
from provider.engine.loading import ModelParts
from provider.engine.prompts import prompt_for
from provider.engine.text_encoder import MOST_CHARACTERS, chunks_of
from provider.engine.tokenizer import Tokenizer
from provider.engine.tokenizer_loading import panics_raised
from provider.engine.truncation import Encoded, TokenLimit
from provider.errors import InvalidInput, TooManyCharacters, TooManyTokens
from provider.tasks.multi_vector import kept_tokens


@frozen
class Token:
    """One token of a text.

    Attributes:
        text: the characters that it stands for; a special token's name.
        is_special: whether it is one that the tokenizer adds.
        start, stop: its characters in the text; None for special tokens.
    """

    id: int
    text: str
    is_special: bool
    start: int | None
    stop: int | None


@frozen
class ReadToken:
    """One token of a text as a model reads it.

    Attributes:
        token: what it is; those that fill up a query are special ones.
        is_prompt: whether it belongs to the prompt before the text.
        is_cut: whether truncation leaves it out.
        vector: place of its vector among those that the answer has for the text; None for none.
    """

    token: Token
    is_prompt: bool = False
    is_cut: bool = False
    vector: int | None = None


async def tokenise(
    tokenizer: Tokenizer, texts: Sequence[str], *, prompt: str = "", add_special_tokens: bool = True, max_tokens: int
) -> list[list[Token]]:
    """The tokens of each text, `prompt` put before it; none is cut.

    Args:
        tokenizer: the model's.
        texts: the inputs.
        prompt: what stands before each; offsets count it.
        add_special_tokens: whether the tokens that the model needs around a text are among them.
        max_tokens: most tokens of all texts together.

    Raises:
        InvalidInput: a text cannot be tokenised, or is too long for it (TooManyCharacters).
        TooManyTokens: the texts have more than `max_tokens`.
    """
    found: list[list[Token]] = []
    tokens = 0
    joined = [prompt + text for text in texts]
    for index, text in enumerate(joined):
        if len(text) > MOST_CHARACTERS:
            raise TooManyCharacters(index, f"it has {len(text)} characters, at most {MOST_CHARACTERS} are tokenised.")
    for part in chunks_of([len(text) for text in joined]):
        work = partial(_tokenise, tokenizer.library, joined[part], part.start, add_special_tokens)
        found += await asyncio.to_thread(work)
        tokens += sum(map(len, found[part.start :]))
        if tokens > max_tokens:
            raise TooManyTokens(tokens, limit=max_tokens, is_counted=len(found) == len(texts))
    return found


async def read_texts(model: ModelParts, request: EmbedRequest, *, max_tokens: int) -> list[list[ReadToken]]:
    """How `model` would read each text of `request`: all of its tokens, those that are cut too.

    Args:
        model: loaded.
        request: texts, with what chooses their prompt and says which end is cut; `none` is taken for `auto`.
        max_tokens: most tokens of all texts together, before they are cut.

    Raises:
        InvalidInput, TooManyTokens: as `tokenise`.
        InvalidOption: the prompt or the input type is none of the model's.
    """
    tokenizer, prompt = tokenizer_for(request, model.spec, model.tokenizer), prompt_for(request, model.spec)
    texts = [str(each) for each in request.inputs]
    rows = await tokenise(tokenizer, texts, prompt=prompt, max_tokens=max_tokens)
    truncate: Truncation = "auto" if request.truncate in (None, "none") else request.truncate
    limit = tokenizer.limit(truncate, request.max_tokens, tokenizer.vocabulary.special_tokens)
    encode = partial(tokenizer.encode, prompt=prompt, truncate=truncate, max_tokens=request.max_tokens)
    encoded = await asyncio.to_thread(encode, texts)
    read = partial(_read, model, tokenizer, len(prompt), limit=limit)
    return [read(row, each) for row, each in zip(rows, encoded, strict=True)]


def _read(
    model: ModelParts, tokenizer: Tokenizer, prompt: int, row: list[Token], encoded: Encoded, *, limit: TokenLimit
) -> list[ReadToken]:
    vocabulary = tokenizer.vocabulary
    prompt_tokens = sum(each.stop is not None and each.stop <= prompt for each in row)
    first, cut = len(row), len(row) - len(encoded.ids) if encoded.was_cut else 0
    if cut:
        kept = min(prompt_tokens, len(row) - vocabulary.special_tokens - cut) if limit.keeps_prompt else 0
        first = len(vocabulary.prefix) + kept if limit.cuts_start else len(row) - len(vocabulary.suffix) - cut
    filling = encoded.ids[len(row) - cut :].tolist()
    name = tokenizer.library.id_to_token
    names = [Token(each, name(each) or "", is_special=True, start=None, stop=None) for each in filling]
    places = iter(_places(model, encoded.features))
    read = []
    for index, token in enumerate([*row, *names]):
        is_cut = first <= index < first + cut
        is_prompt = token.stop is not None and token.stop <= prompt
        read.append(ReadToken(token, is_prompt, is_cut, None if is_cut else next(places)))
    return read


def _places(model: ModelParts, features: Features) -> list[int | None]:
    """For each token, the place of its vector in the answer."""
    spec = model.spec.find(MultiVectorTask)
    if spec is None:
        return [None] * len(features.ids)
    kept = kept_tokens(spec, features)
    return [int(place) if is_kept else None for place, is_kept in zip(kept.cumsum() - 1, kept, strict=True)]


async def detokenise(model: ModelParts, inputs: Sequence[Ids], *, skip_special_tokens: bool = True) -> list[str]:
    """The text of each row of token ids, (tokens,) int32.

    Raises:
        InvalidInput: an id is outside the vocabulary.
    """
    for index, ids in enumerate(inputs):
        model.tokenizer.vocabulary.check_ids(index, ids)
    rows = [ids.tolist() for ids in inputs]
    decode = partial(model.tokenizer.library.decode_batch, rows, skip_special_tokens=skip_special_tokens)
    return list(await asyncio.to_thread(decode))


def _tokenise(
    tokenizer: tokenizers.Tokenizer,
    texts: list[str],
    before: int,
    add_special_tokens: bool,  # noqa: FBT001
) -> list[list[Token]]:
    try:
        with panics_raised():
            encodings = tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
    except Exception as exc:
        if len(texts) == 1:
            raise InvalidInput(before, f"this model's tokenizer cannot encode it ({exc}).") from exc
        one_by_one = (_tokenise(tokenizer, [text], before + i, add_special_tokens) for i, text in enumerate(texts))
        return [row for rows in one_by_one for row in rows]
    return [_tokens(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]


def _tokens(text: str, encoding: tokenizers.Encoding) -> list[Token]:
    rows = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
    return [
        Token(id_, name, is_special=True, start=None, stop=None)
        if is_special
        else Token(id_, text[start:stop], is_special=False, start=start, stop=stop)
        for id_, name, is_special, (start, stop) in rows
    ]
