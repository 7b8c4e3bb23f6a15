"""Texts to tokens that people can read, and token ids back to texts: what tokenise and decode routes answer."""

import asyncio
from collections.abc import Sequence
from functools import partial

import tokenizers
from attrs import frozen

from provider.domain import Ids
from provider.engine.loading import ModelParts
from provider.engine.text_encoder import MOST_CHARACTERS, chunks_of
from provider.engine.tokenizer_loading import panics_raised
from provider.errors import InvalidInput, TooManyCharacters, TooManyTokens


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


async def tokenise(
    model: ModelParts, texts: Sequence[str], *, prompt: str = "", add_special_tokens: bool = True, max_tokens: int
) -> list[list[Token]]:
    """The tokens of each text, `prompt` put before it; none is cut.

    Args:
        model: loaded.
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
        work = partial(_tokenise, model.tokenizer.library, joined[part], part.start, add_special_tokens)
        found += await asyncio.to_thread(work)
        tokens += sum(map(len, found[part.start :]))
        if tokens > max_tokens:
            raise TooManyTokens(tokens, limit=max_tokens, is_counted=len(found) == len(texts))
    return found


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
