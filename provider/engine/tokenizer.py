"""Texts to token ids: exact counts, the length limit, truncation, prompts.

One `tokenizers.Tokenizer` a model is shared by all requests and never changed after loading: truncation and padding are
off, and ids are cut here. Switching them on a shared tokenizer is what gives "Already borrowed" under concurrency.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

import tokenizers
from attrs import evolve

from provider.domain import Features, Ids, QueryInput, TokenizerSpec, Truncation
from provider.engine.text_encoder import Content, TextEncoder, chunks_of, placed_behind
from provider.engine.tokenizer_loading import BuiltTokenizer, load_tokenizer, named_special_ids
from provider.engine.truncation import Encoded, TokenLimit
from provider.engine.vocabulary import Filling, Vocabulary
from provider.errors import InvalidInput, InvalidModel, InvalidOption, PromptTooLong

# Encodings of single texts that are kept; a few hundred bytes each.
_REMEMBERED_TEXTS = 4096


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads at the same time.

    Attributes:
        max_tokens: most tokens of one input, special tokens included.
        vocabulary: which ids the model knows.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        max_tokens: int,
        pools_prompt: bool = True,
        named_special: Collection[int] = (),
        ids: int | None = None,
        embedding_rows: int | None = None,
        queries: "Tokenizer | None" = None,
        documents: "Tokenizer | None" = None,
        is_query: bool = False,
        built: BuiltTokenizer | None = None,
        filling: QueryInput | None = None,
        cuts_start: bool = False,
    ) -> None:
        """Take over a loaded tokenizer.

        Args:
            tokenizer: without truncation and padding; nobody may change it afterwards.
            max_tokens: most tokens of one input, special tokens included.
            pools_prompt: False where prompt tokens are left out of pooling.
            named_special: ids of the special tokens that the model's files name; needed without `pools_prompt`.
            ids: the largest id of a text's tokens plus one, if it is known already.
            embedding_rows: rows of the model's table of token embeddings; None if unknown.
            queries: that of queries, where it differs.
            documents: the same of inputs that are said to be documents.
            is_query: whether this is one for queries alone.
            built: transformers' tokenizer that it was taken from, if any.
            filling: what shorter inputs are filled up with; None for nothing.
            cuts_start: where inputs are cut that are too long, if nothing else is asked for.

        Raises:
            InvalidModel: the special tokens do not stand around the text, or have a type, or no row in the table.
        """
        self._tokenizer, self._built = tokenizer, built
        self.max_tokens = max_tokens
        self._pools_prompt, self._cuts_start = pools_prompt, cuts_start
        self._queries, self._documents, self._is_query = queries, documents, is_query
        self._named_special = frozenset(named_special)
        self._encoder = TextEncoder(tokenizer, max_tokens)
        self.vocabulary = Vocabulary.of(tokenizer, known=ids, embeddings=embedding_rows)
        self._filling = Filling.of(filling, self.vocabulary)
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
        queries: "Tokenizer | None" = None,
        documents: "Tokenizer | None" = None,
        is_query: bool = False,
        filling: QueryInput | None = None,
    ) -> Self:
        """Load the tokenizer in `folder`, by default its `tokenizer.json` as it is; arguments as above.

        Raises:
            InvalidModel: no tokenizer can be loaded from the folder.
        """
        tokenizer, built = load_tokenizer(folder, spec)
        return cls(
            tokenizer,
            max_tokens=max_tokens,
            pools_prompt=pools_prompt,
            named_special=() if pools_prompt else named_special_ids(folder, spec),
            ids=spec.ids,
            embedding_rows=embedding_rows,
            built=built,
            queries=queries,
            documents=documents,
            is_query=is_query,
            filling=filling,
            cuts_start=spec.cuts_start,
        )

    @property
    def library(self) -> tokenizers.Tokenizer:
        """The library's tokenizer; not to be changed."""
        return self._tokenizer

    @property
    def gives_types(self) -> bool:
        """Whether transformers' tokenizer, if it was built, gives types of tokens to the model."""
        return self._built is not None and self._built.gives_types

    def renderer(self, messages: Literal["flat", "structured"]) -> Callable[[str, str, str], str]:
        """What writes an instruction, a query and a document into one text by the model's chat template.

        Raises:
            InvalidModel: transformers' tokenizer was not built.
        """
        if self._built is None:
            msg = "the model's chat template needs transformers' tokenizer, which was not built"
            raise InvalidModel(msg)
        return self._built.renderer(messages)

    @property
    def queries(self) -> "Tokenizer":
        """That of queries: another one where they are treated differently."""
        return self._queries or self

    @property
    def documents(self) -> "Tokenizer":
        """That of inputs that are said to be documents: another one where these have a limit of their own."""
        return self._documents or self

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str = "",
        truncate: Truncation = "none",
        max_tokens: int | None = None,
    ) -> list[Encoded]:
        """Token ids of each text, `prompt` put before it.

        Args:
            texts: the inputs.
            prompt: counts as tokens like the text itself; kept when `start` cuts the text's start.
            truncate: what happens to inputs over the limit.
            max_tokens: most tokens of an input, special tokens and prompt included; None for the model's limit.

        Raises:
            InputTooLong: an input is over the limit and `truncate` is "none".
            InvalidInput: an input is not valid Unicode, has no tokens at all, or one without a row in the model's
                table.
            InvalidOption: the prompt cannot be tokenised, or has too many characters (PromptTooLong), or `max_tokens`
                leaves no room for text.
        """
        chunks = self.chunks(texts, prompt=prompt, truncate=truncate, max_tokens=max_tokens)
        return [each for chunk in chunks for each in chunk]

    def chunks(
        self,
        texts: Sequence[str],
        *,
        prompt: str = "",
        truncate: Truncation = "none",
        max_tokens: int | None = None,
    ) -> Iterator[list[Encoded]]:
        """As `encode`, a bounded number of characters at a time: what comes behind an error is never read."""
        limit = self.limit(truncate, max_tokens, self.vocabulary.special_tokens)
        before = self._prompt_ids(prompt) if prompt else []
        skip = 0 if self._pools_prompt or not prompt else self._left_out(before)
        kept = len(before) if limit.keeps_prompt else 0
        for part in chunks_of([len(prompt) + len(text) for text in texts]):
            with placed_behind(part.start):
                chunk = self._encode_chunk([prompt + text for text in texts[part]], kept, skip, limit)
            yield chunk

    def limit(self, truncate: Truncation, max_tokens: int | None, needed: int) -> TokenLimit:
        """See `TokenLimit.of`; `needed` tokens stand around every text."""
        return TokenLimit.of(
            truncate, max_tokens, model_tokens=self.max_tokens, needed=needed, cuts_start=self._cuts_start
        )

    def _encode_chunk(self, joined: list[str], prompt_tokens: int, skip: int, limit: TokenLimit) -> list[Encoded]:
        encoded = []
        for index, ids in enumerate(self._encoder.short(joined)):
            if ids is None:
                one = self._encode_long(index, joined[index], prompt_tokens, limit)
            elif len(ids) > limit.tokens:
                content = ids[len(self.vocabulary.prefix) : len(ids) - len(self.vocabulary.suffix)]
                one = self._cut(index, content, len(ids), prompt_tokens, limit)
            else:
                one = Encoded(self._filling.features(ids))
            if not len(one.ids):
                raise InvalidInput(
                    index, "this model's tokenizer finds no tokens in it. Leave it out, or send a text with words."
                )
            self.vocabulary.check_text(index, one.ids)
            encoded.append(one.with_skip(skip) if skip else one)
        return self._with_role(encoded)

    def _prompt_ids(self, prompt: str) -> list[int]:
        """The ids of a prompt without special tokens."""
        most = self._encoder.short_characters
        if len(prompt) > most:
            # It is put before every input, so that its length counts thousands of times.
            raise PromptTooLong(len(prompt), limit=most)
        try:
            return self._encoder.content(0, prompt)
        except InvalidInput as exc:
            raise InvalidOption(option="prompt", reason=exc.reason) from exc

    def _left_out(self, prompt: list[int]) -> int:
        """Leading tokens that a prompt takes out of pooling, as `_get_prompt_length` of sentence-transformers counts.

        It encodes the prompt alone, and takes the last token off if the model's files name it as a special token.
        """
        alone = [*self.vocabulary.prefix, *prompt, *self.vocabulary.suffix]
        return len(alone) - (bool(alone) and alone[-1] in self._named_special)

    def contents(self, texts: Sequence[str], *, from_end: bool = False) -> list[Content]:
        """Token ids of each text without special tokens.

        Args:
            texts: may be empty.
            from_end: which part of a text that is much too long is tokenised: its start or its end.

        Raises:
            InvalidInput: a text is not valid Unicode, or has a token without a row in the model's table.
        """
        contents = self._encoder.contents(texts, from_end=from_end)
        for index, content in enumerate(contents):
            self.vocabulary.check_text(index, content.ids)
        return contents

    def _encode_one(self, text: str, prompt: str, truncate: Truncation, max_tokens: int | None) -> Encoded:
        """As `encode`, for one text. `remembered` is this with a memory: a query comes again more often than not."""
        return self.encode((text,), prompt=prompt, truncate=truncate, max_tokens=max_tokens)[0]

    def check_ids(
        self, inputs: Sequence[Ids], *, truncate: Truncation = "none", max_tokens: int | None = None
    ) -> list[Encoded]:
        """Token ids that the caller made with this model's own tokenizer, special tokens included, used as they are.

        Raises:
            InvalidInput: an id outside the vocabulary.
            InputTooLong: as for texts.
        """
        encoded = []
        limit = self.limit(truncate, max_tokens, 0)
        for index, ids in enumerate(inputs):
            self.vocabulary.check_ids(index, ids)
            if len(ids) <= limit.tokens:
                encoded.append(Encoded(Features(ids)))
                continue
            limit.check(index, len(ids))
            encoded.append(Encoded(Features(limit.kept(ids, limit.tokens)), was_cut=True, original_tokens=len(ids)))
        return self._with_role(encoded)

    def _with_role(self, encoded: list[Encoded]) -> list[Encoded]:
        if not self._is_query:
            return encoded
        return [evolve(each, features=evolve(each.features, is_query=True)) for each in encoded]

    def _encode_long(self, index: int, text: str, prompt_tokens: int, limit: TokenLimit) -> Encoded:
        content, is_whole = self._encoder.long(index, text, from_end=limit.cuts_start)
        if not is_whole:
            if limit.cuts_start and prompt_tokens:
                # The prompt stands at the text's start, which this part does not reach.
                content = self._encoder.start_of_long(index, text)[:prompt_tokens] + content
            return self._cut(index, content, None, prompt_tokens, limit)
        total = len(content) + self.vocabulary.special_tokens
        if total <= limit.tokens:
            return Encoded(self._filling.features([*self.vocabulary.prefix, *content, *self.vocabulary.suffix]))
        return self._cut(index, content, total, prompt_tokens, limit)

    def _cut(self, index: int, content: list[int], total: int | None, prompt_tokens: int, limit: TokenLimit) -> Encoded:
        limit.check(index, len(content) if total is None else total, is_counted=total is not None)
        room = limit.tokens - self.vocabulary.special_tokens
        lead = content[: min(prompt_tokens, room)] if limit.cuts_start else []
        kept = lead + limit.kept(content, room - len(lead))
        ids = [*self.vocabulary.prefix, *kept, *self.vocabulary.suffix]
        return Encoded(self._filling.features(ids), was_cut=True, original_tokens=total)
