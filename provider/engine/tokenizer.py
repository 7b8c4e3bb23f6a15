"""Texts to token ids: exact counts, the length limit, truncation, prompts.

One `tokenizers.Tokenizer` a model is shared by all requests and never changed after loading: truncation and padding are
off, and ids are cut here. Switching them on a shared tokenizer is what gives "Already borrowed" under concurrency.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers
from attrs import frozen

from provider.domain import Ids, TokenizerSpec, Truncation
from provider.engine.tokenizer_loading import load_tokenizer
from provider.errors import InputTooLong, InvalidInput, InvalidModel, InvalidRequest
from provider.models.tokenizer_json import special_ids

# A text longer than this many characters a token is not tokenised whole when a part of it settles the matter.
_CHARACTERS_PER_TOKEN = 32
# Encodings of single texts that are kept; a few hundred bytes each.
_REMEMBERED_TEXTS = 4096
# A text that is still short of the limit after this many characters is refused: tokenising takes some 70 bytes each.
_MOST_CHARACTERS = 1_000_000


@frozen(eq=False)
class Encoded:
    """One input's token ids, ready for the model.

    Attributes:
        ids: special tokens included, at most the model's limit.
        skip: leading tokens that take no part in pooling.
        was_cut: whether tokens were left out.
        original_tokens: tokens before the cut; None where the text was too long to count them all.
    """

    ids: Ids
    skip: int = 0
    was_cut: bool = False
    original_tokens: int | None = None


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads at the same time."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        max_tokens: int,
        pools_prompt: bool = True,
        ids: int | None = None,
        embedding_rows: int | None = None,
    ) -> None:
        """Take over a loaded tokenizer.

        Args:
            tokenizer: without truncation and padding; nobody may change it afterwards.
            max_tokens: most tokens of one input, special tokens included.
            pools_prompt: False where prompt tokens are left out of pooling.
            ids: the largest id of a text's tokens plus one, if it is known already.
            embedding_rows: rows of the model's table of token embeddings; None if unknown.

        Raises:
            InvalidModel: the special tokens do not stand around the text, or have a type, or no row in the table.
        """
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._pools_prompt = pools_prompt
        own = tokenizer.post_processor
        try:
            self._prefix, self._suffix = special_ids(None if own is None else json.loads(own.__getstate__()))
        except ValueError as exc:
            msg = f"the model's tokenizer is not supported: {exc}; choose another model"
            raise InvalidModel(msg) from exc
        known = ids or 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        special = (*self._prefix, *self._suffix)
        known = max(known, 1 + max(special, default=-1))
        self.vocabulary_size = known if embedding_rows is None else min(known, embedding_rows)
        # A tokenizer may know tokens that the model was never given a row for.
        self.ids_without_row = known - self.vocabulary_size
        if (lost := max(special, default=-1)) >= self.vocabulary_size:
            msg = (
                f"the special token {self._name(lost)} of every text has no row in the model's table of "
                f"{embedding_rows} embeddings; the files do not belong together"
            )
            raise InvalidModel(msg)
        self.remembered = lru_cache(_REMEMBERED_TEXTS)(self._encode_one)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        max_tokens: int,
        pools_prompt: bool = True,
        embedding_rows: int | None = None,
        spec: TokenizerSpec = TokenizerSpec(),  # noqa: B008 - it is frozen
    ) -> Self:
        """Load the tokenizer in `folder`, by default its `tokenizer.json` as it is; arguments as above.

        Raises:
            InvalidModel: no tokenizer can be loaded from the folder.
        """
        tokenizer = load_tokenizer(folder, spec)
        return cls(
            tokenizer, max_tokens=max_tokens, pools_prompt=pools_prompt, ids=spec.ids, embedding_rows=embedding_rows
        )

    def encode(self, texts: Sequence[str], *, prompt: str = "", truncate: Truncation = "none") -> list[Encoded]:
        """Token ids of each text, `prompt` put before it.

        Args:
            texts: the inputs.
            prompt: counts as tokens like the text itself; kept when the text's start is cut.
            truncate: what happens to inputs over the limit.

        Raises:
            InputTooLong: an input is over the limit and `truncate` is "none".
            InvalidRequest: an input is not valid Unicode, has no tokens at all, or one without a row in the model's
                table; the prompt is too long.
        """
        whole_up_to = self._max_tokens * _CHARACTERS_PER_TOKEN
        if len(prompt) > whole_up_to:
            # It is put before every input, so that its length counts thousands of times.
            msg = f"Invalid 'prompt': it has {len(prompt)} characters, at most {whole_up_to} are allowed."
            raise InvalidRequest(msg, param="prompt", code="string_above_max_length")
        prompt_tokens = len(self._content(prompt)) if prompt else 0
        # sentence-transformers measures the prompt with its special tokens and takes the last one off.
        special = len(self._prefix) + max(len(self._suffix) - 1, 0)
        skip = 0 if self._pools_prompt or not prompt else special + prompt_tokens
        joined = [prompt + text for text in texts]
        short = [text for text in joined if len(text) <= whole_up_to]
        encodings = iter(self._encode_batch(short, joined))
        encoded = []
        for index, text in enumerate(joined):
            if len(text) <= whole_up_to:
                ids = next(encodings).ids
                if len(ids) > self._max_tokens:
                    content = ids[len(self._prefix) : len(ids) - len(self._suffix)]
                    one = self._cut(index, content, len(ids), prompt_tokens, truncate)
                else:
                    one = Encoded(np.array(ids, np.int32))
            else:
                one = self._encode_long(index, text, prompt_tokens, truncate)
            if not len(one.ids):
                raise InvalidInput(index, "this model's tokenizer finds no tokens in it.")
            if self.ids_without_row:
                self._check_rows(index, one.ids)
            encoded.append(_with_skip(one, skip) if skip else one)
        return encoded

    def _encode_one(self, text: str, prompt: str, truncate: Truncation) -> Encoded:
        """As `encode`, for one text. `remembered` is this with a memory: a query comes again more often than not."""
        return self.encode((text,), prompt=prompt, truncate=truncate)[0]

    def cut_by_library(self, texts: Sequence[str], *, truncate: Truncation) -> list[Ids]:
        """The ids of each text with the library's own truncation, on a copy: what `encode` can be checked against.

        Args:
            texts: with their prompt, if any.
            truncate: which end is cut off.
        """
        copy = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        # `to_str` leaves this out.
        copy.encode_special_tokens = self._tokenizer.encode_special_tokens
        copy.enable_truncation(self._max_tokens, direction="left" if truncate == "start" else "right")
        return [np.array(encoding.ids, np.int32) for encoding in copy.encode_batch_fast(list(texts))]

    def check_ids(self, inputs: Sequence[Ids], *, truncate: Truncation = "none") -> list[Encoded]:
        """Token ids that the caller made with this model's own tokenizer, special tokens included, used as they are.

        Raises:
            InvalidRequest: an id outside the vocabulary.
            InputTooLong: as for texts.
        """
        encoded = []
        for index, ids in enumerate(inputs):
            outside = ids[(ids < 0) | (ids >= self.vocabulary_size)]
            if len(outside):
                reason = (
                    f"token id {int(outside[0])} is outside this model's vocabulary (0 to {self.vocabulary_size - 1}). "
                    "Token ids must come from this model's own tokenizer."
                )
                raise InvalidInput(index, reason)
            if len(ids) <= self._max_tokens:
                encoded.append(Encoded(ids))
                continue
            if truncate == "none":
                raise InputTooLong(index, tokens=len(ids), limit=self._max_tokens)
            kept = ids[: self._max_tokens] if truncate == "end" else ids[-self._max_tokens :]
            encoded.append(Encoded(kept, was_cut=True, original_tokens=len(ids)))
        return encoded

    def _encode_batch(self, texts: list[str], all_texts: list[str]) -> list[tokenizers.Encoding]:
        try:
            return self._tokenizer.encode_batch_fast(texts)
        except Exception as exc:
            for index, text in enumerate(all_texts):
                _check_unicode(index, text, exc)
            # What is left: a character that is not in the vocabulary, where there is no token for unknown ones.
            for index, text in enumerate(all_texts):
                if text in texts:
                    self._part(index, text)
            raise

    def _content(self, text: str) -> list[int]:
        # Not `encode`: that one keeps the interpreter lock, and with a long text everything else stands still.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def _encode_long(self, index: int, text: str, prompt_tokens: int, truncate: Truncation) -> Encoded:
        """Tokenise as much of a long text as it takes to know the answer, doubling until it is known.

        The part ends where a word ends, if there is a blank in its outer half, so that its tokens but the outermost are
        the same as in the whole text. Twice the limit is asked for, so that the outermost do not matter.
        """
        characters = self._max_tokens * _CHARACTERS_PER_TOKEN
        while characters < len(text):
            part = _start_of(text, characters) if truncate != "start" else _end_of(text, characters)
            content = self._part(index, part)
            if len(content) > 2 * self._max_tokens:
                if truncate == "start" and prompt_tokens:
                    # The prompt stands at the text's start, which this part does not reach.
                    prompt = self._part(index, _start_of(text, characters))[:prompt_tokens]
                    content = prompt + content
                return self._cut(index, content, None, prompt_tokens, truncate)
            if characters >= _MOST_CHARACTERS:
                reason = (
                    f"it has {len(text)} characters, of which the first {characters} are only {len(content)} tokens. "
                    "Remove what carries no text, such as blanks or encoded data."
                )
                raise InvalidInput(index, reason, code="string_above_max_length")
            characters = min(2 * characters, _MOST_CHARACTERS)
        content = self._part(index, text)
        total = len(self._prefix) + len(content) + len(self._suffix)
        if total <= self._max_tokens:
            return Encoded(np.array([*self._prefix, *content, *self._suffix], np.int32))
        return self._cut(index, content, total, prompt_tokens, truncate)

    def _part(self, index: int, text: str) -> list[int]:
        try:
            return self._content(text)
        except Exception as exc:
            _check_unicode(index, text, exc)
            raise InvalidInput(index, f"this model's tokenizer cannot encode it ({exc}).") from exc

    def _cut(
        self, index: int, content: list[int], total: int | None, prompt_tokens: int, truncate: Truncation
    ) -> Encoded:
        if truncate == "none":
            tokens = len(content) if total is None else total
            raise InputTooLong(index, tokens=tokens, limit=self._max_tokens, is_counted=total is not None)
        room = self._max_tokens - len(self._prefix) - len(self._suffix)
        if truncate == "end":
            kept = content[:room]
        else:
            lead = content[: min(prompt_tokens, room)]
            kept = lead + content[len(content) - (room - len(lead)) :]
        ids = np.array([*self._prefix, *kept, *self._suffix], np.int32)
        return Encoded(ids, was_cut=True, original_tokens=total)

    def _check_rows(self, index: int, ids: Ids) -> None:
        lost = ids[ids >= self.vocabulary_size]
        if len(lost):
            msg = (
                f"the token {self._name(int(lost[0]))} in it has no embedding in this model (ids 0 to "
                f"{self.vocabulary_size - 1} have one). Remove or respell that part of the text."
            )
            raise InvalidInput(index, msg)

    def _name(self, token: int) -> str:
        known = self._tokenizer.id_to_token(token)
        return f"id {token}" if known is None else f"{known!r} (id {token})"


def _with_skip(encoded: Encoded, skip: int) -> Encoded:
    # At least one token is pooled, even if the text behind the prompt is empty.
    return Encoded(encoded.ids, min(skip, len(encoded.ids) - 1), encoded.was_cut, encoded.original_tokens)


def _start_of(text: str, characters: int) -> str:
    blank = text.rfind(" ", characters // 2, characters)
    return text[: blank if blank > 0 else characters]


def _end_of(text: str, characters: int) -> str:
    start = len(text) - characters
    blank = text.find(" ", start, start + characters // 2)
    return text[blank if blank > 0 else start :]


def _check_unicode(index: int, text: str, cause: Exception) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(index, "it is not valid Unicode (an unpaired surrogate).") from cause
