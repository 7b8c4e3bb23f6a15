"""Texts to token ids by the library, reading of a long text only as much as settles what becomes of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import tokenizers
from attrs import frozen

from provider.domain import Ids
from provider.engine.tokenizer_loading import panics_raised
from provider.errors import InputTooLong, InvalidInput, TooManyCharacters

# A text longer than this many characters a token is not tokenised whole when a part of it settles the matter.
CHARACTERS_PER_TOKEN = 32
# A text that is still short of the limit after this many characters is refused: tokenising takes some 70 bytes each.
MOST_CHARACTERS = 1_000_000
# Texts are tokenised in chunks of so many characters: some 20 ms and 7 MB each.
_CHUNK_CHARACTERS = 100_000


def chunks_of(lengths: Sequence[int]) -> Iterator[slice]:
    """Neighbouring texts that are tokenised at once, by how many characters each has: the work between two looks."""
    start = characters = 0
    for index, length in enumerate(lengths):
        characters += length
        if characters >= _CHUNK_CHARACTERS:
            yield slice(start, index + 1)
            start, characters = index + 1, 0
    if start < len(lengths):
        yield slice(start, len(lengths))


@contextmanager
def placed_behind(inputs: int) -> Iterator[None]:
    """Errors of a chunk name the place in the request, where so many `inputs` come before the chunk."""
    try:
        yield
    except (InvalidInput, InputTooLong) as exc:
        if not inputs:
            raise
        raise exc.behind(inputs) from exc


@frozen(eq=False)
class Content:
    """A text's token ids without special tokens.

    Attributes:
        ids: shape (tokens,), int32.
        is_whole: False where the text is so long that only a part was tokenised; that has more than twice as many
            tokens as the model takes.
    """

    ids: Ids
    is_whole: bool = True


@frozen(eq=False)
class TextEncoder:
    """The library's tokenizer, whose failures name the text at fault. Safe to use from several threads.

    Attributes:
        max_tokens: most tokens of one input.
    """

    _tokenizer: tokenizers.Tokenizer
    max_tokens: int

    @property
    def short_characters(self) -> int:
        """Texts of at most so many characters are short: they are tokenised whole."""
        return self.max_tokens * CHARACTERS_PER_TOKEN

    def short(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[int] | None]:
        """The ids of each short text; None for those that are longer.

        Raises:
            InvalidInput: a text, short or long, is not valid Unicode; a short one cannot be tokenised.
        """
        most = self.short_characters
        short = [text for text in texts if len(text) <= most]
        try:
            with panics_raised():
                encodings = iter(self._tokenizer.encode_batch_fast(short, add_special_tokens=add_special_tokens))
        except Exception as exc:
            for index, text in enumerate(texts):
                _check_unicode(index, text, exc)
            # What is left: a character that is not in the vocabulary, where there is no token for unknown ones.
            for index, text in enumerate(texts):
                if len(text) <= most:
                    self.content(index, text)
            raise
        return [next(encodings).ids if len(text) <= most else None for text in texts]

    def contents(self, texts: Sequence[str], *, from_end: bool) -> list[Content]:
        """Token ids of each text without special tokens; of a long one a part, as `long` has it."""
        found = []
        for index, ids in enumerate(self.short(list(texts), add_special_tokens=False)):
            content, is_whole = (ids, True) if ids is not None else self.long(index, texts[index], from_end=from_end)
            found.append(Content(np.array(content, np.int32), is_whole))
        return found

    def content(self, index: int, text: str) -> list[int]:
        """The ids of a text without special tokens; `index` is its place in the request.

        Raises:
            InvalidInput: it is not valid Unicode, or cannot be tokenised.
        """
        try:
            # Not `encode`: that one keeps the interpreter lock, and with a long text everything else stands still.
            with panics_raised():
                (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        except Exception as exc:
            _check_unicode(index, text, exc)
            raise InvalidInput(index, f"this model's tokenizer cannot encode it ({exc}).") from exc
        ids: list[int] = encoding.ids
        return ids

    def start_of_long(self, index: int, text: str) -> list[int]:
        """The ids of a long text's start, as `content`."""
        return self.content(index, _start_of(text, self.short_characters))

    def long(self, index: int, text: str, *, from_end: bool) -> tuple[list[int], bool]:
        """Tokenise as much of a long text as it takes to know the answer, doubling until it is known.

        The part ends where a word ends, if there is a blank in its outer half, so that its tokens but the outermost are
        the same as in the whole text. Twice the limit is wanted, so that the outermost do not matter.

        Args:
            index: its place in the request.
            text: the text.
            from_end: which part is tokenised: its start or its end.

        Returns:
            The ids without special tokens, and whether they are those of the whole text.

        Raises:
            InvalidInput: as `content`.
            TooManyCharacters: its first million characters are fewer tokens than are wanted.
        """
        characters = self.short_characters
        while characters < len(text):
            content = self.content(index, (_end_of if from_end else _start_of)(text, characters))
            if len(content) > 2 * self.max_tokens:
                return content, False
            if characters >= MOST_CHARACTERS:
                reason = (
                    f"it has {len(text)} characters, of which the first {characters} are only {len(content)} tokens. "
                    "Remove what carries no text, such as blanks or encoded data."
                )
                raise TooManyCharacters(index, reason)
            characters = min(2 * characters, MOST_CHARACTERS)
        return self.content(index, text), True


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
