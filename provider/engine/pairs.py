"""Pairs of a query and a text to token ids, exactly as sentence-transformers' CrossEncoder joins and cuts them."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from attrs import frozen

from provider.domain import Features, Ids, ScoreTask, Truncation
from provider.engine.text_encoder import MOST_CHARACTERS, Content, chunks_of, placed_behind
from provider.engine.tokenizer import Tokenizer
from provider.engine.tokenizer_loading import panics_raised
from provider.engine.truncation import Encoded, TokenLimit
from provider.errors import InvalidInput, InvalidModel, InvalidOption
from provider.models.tokenizer_json import pair_parts

Render = Callable[[str, str, str], str]
"""From an instruction ("" for none), a query and a document to the text that a chat template makes of them."""

# As in sentence-transformers: two renderings whose common end is the template's own.
_FILLERS = ("0", "1 2 3 4")
# Of a document, so many characters for each token of its own limit are usually more than that limit.
_CHARACTERS_PER_TOKEN = 64


@frozen
class PairOptions:
    """How pairs are written and cut.

    Attributes:
        prompt: put before each query, or the instruction of a chat template; "" for none.
        truncate: what happens to pairs over the limit.
        max_tokens: most tokens of a pair, all included; None for the model's limit.
        max_document_tokens: texts are cut to so many tokens first; such a cut is reported, not refused.
    """

    prompt: str = ""
    truncate: Truncation = "none"
    max_tokens: int | None = None
    max_document_tokens: int | None = None


class PairTokenizer(ABC):
    """How a model's pairs become token ids. Safe to use from several threads at the same time."""

    def encode(
        self,
        queries: Sequence[str],
        texts: Sequence[str],
        options: PairOptions = PairOptions(),
    ) -> list[Encoded]:
        """Token ids of each pair.

        Args:
            queries: one for all texts, or one for each.
            texts: the documents.
            options: how they are written and cut.

        Raises:
            InputTooLong: a pair is over the limit and is not to be cut.
            InvalidInput: a text or a query is not valid Unicode, or has a token without a row in the model's table.
            InvalidOption: pairs of this model cannot be cut at their start, or the limit leaves no room for text.
        """
        return [each for chunk in self.chunks(queries, texts, options) for each in chunk]

    @abstractmethod
    def chunks(self, queries: Sequence[str], texts: Sequence[str], options: PairOptions) -> Iterator[list[Encoded]]:
        """As `encode`, a bounded number of characters at a time: what comes behind an error is never read."""


def pair_tokenizer(tokenizer: Tokenizer, task: ScoreTask, *, gives_types: bool | None, name: str) -> PairTokenizer:
    """The one that the model's files ask for.

    Args:
        tokenizer: the model's.
        task: whether a chat template writes the pairs.
        gives_types: whether the model is told which text a token belongs to; None for what the loaded tokenizer says.
        name: of the model, for messages.

    Raises:
        InvalidModel: the chat template does not take pairs, or the tokenizer joins them in an unknown way.
    """
    if task.messages is None:
        typed = tokenizer.gives_types if gives_types is None else gives_types
        return SegmentPairs(tokenizer, gives_types=typed)
    render = tokenizer.renderer(task.messages)
    _check_template(render, name)
    return RenderedPairs(tokenizer, render)


class SegmentPairs(PairTokenizer):
    """Query and text are tokenised each by itself and joined by special tokens; a query of many pairs only once."""

    def __init__(self, tokenizer: Tokenizer, *, gives_types: bool) -> None:
        """See `pair_tokenizer`."""
        own = tokenizer.library.post_processor
        try:
            self._parts = pair_parts(None if own is None else json.loads(own.__getstate__()))
        except ValueError as exc:
            msg = f"the model's tokenizer is not supported for pairs: {exc}; choose another model"
            raise InvalidModel(msg) from exc
        self._tokenizer, self._gives_types = tokenizer, gives_types
        self._special = sum(len(part.ids) for part in self._parts)

    def chunks(self, queries: Sequence[str], texts: Sequence[str], options: PairOptions) -> Iterator[list[Encoded]]:
        """See `PairTokenizer.chunks`."""
        limit = self._tokenizer.limit(options.truncate, options.max_tokens, self._special)
        from_end, document_tokens = limit.cuts_start, options.max_document_tokens
        alone = len(queries) == 1
        asked = [options.prompt + query for query in queries]
        firsts = _queries(self._tokenizer, asked, alone=True, from_end=from_end) if alone else []
        for part in chunks_of([len(text) + (0 if alone else len(asked[i])) for i, text in enumerate(texts)]):
            with placed_behind(part.start):
                if not alone:
                    firsts = _queries(self._tokenizer, asked[part], alone=False, from_end=from_end)
                # A document is cut at its end; only what is left may be cut at its start.
                seconds = self._tokenizer.contents(texts[part], from_end=from_end and document_tokens is None)
                pairs = zip(firsts * (len(seconds) if alone else 1), seconds, strict=True)
                chunk = [self._pair(i, *pair, limit, document_tokens) for i, pair in enumerate(pairs)]
            yield chunk

    def _pair(
        self, index: int, first: Content, second: Content, limit: TokenLimit, document_tokens: int | None
    ) -> Encoded:
        query, text = first.ids, second.ids
        is_counted = first.is_whole and second.is_whole
        original = self._special + len(query) + len(text)
        was_cut = document_tokens is not None and len(text) > document_tokens
        if was_cut:
            text = text[:document_tokens]
        tokens = self._special + len(query) + len(text)
        if tokens > limit.tokens:
            limit.check(index, tokens, is_counted=is_counted, is_pair=True)
            was_cut = True
            kept = longest_first(len(query), len(text), limit.tokens - self._special)
            query, text = limit.kept(query, kept[0]), limit.kept(text, kept[1])
        features = self._joined(query, text)
        if not was_cut:
            return Encoded(features)
        return Encoded(features, was_cut=True, original_tokens=original if is_counted else None)

    def _joined(self, query: Ids, text: Ids) -> Features:
        texts = (query, text)
        parts = [part.ids if part.text is None else texts[part.text] for part in self._parts]
        ids = np.concatenate([np.asarray(part, np.int32) for part in parts])
        if not self._gives_types:
            return Features(ids)
        lengths = [len(part) for part in parts]
        return Features(ids, type_ids=np.repeat(np.array([part.type_id for part in self._parts], np.int32), lengths))


class RenderedPairs(PairTokenizer):
    """A chat template writes query and text into one text, which is tokenised as a whole."""

    def __init__(self, tokenizer: Tokenizer, render: Render) -> None:
        """See `pair_tokenizer`."""
        self._tokenizer, self._render = tokenizer, render
        self._end = lru_cache(64)(self._end_of_template)

    def chunks(self, queries: Sequence[str], texts: Sequence[str], options: PairOptions) -> Iterator[list[Encoded]]:
        """See `PairTokenizer.chunks`."""
        if options.truncate == "start":
            reason = "this model's pairs can be cut at the end only: a chat template stands at their start."
            raise InvalidOption(option="truncate", reason=reason)
        end = self._end(options.prompt)
        limit = self._tokenizer.limit(options.truncate, options.max_tokens, len(end))
        alone = len(queries) == 1
        asked = [*queries] * (len(texts) if alone else 1)
        for part in chunks_of([len(query) + len(text) for query, text in zip(asked, texts, strict=True)]):
            with placed_behind(part.start):
                # What cannot be tokenised is told by itself: in the rendered text it could be anywhere.
                _queries(self._tokenizer, queries if alone else asked[part], alone=alone, from_end=False)
                chunk = self._rendered(asked[part], texts[part], options, limit, end)
            yield chunk

    def _rendered(
        self, queries: Sequence[str], texts: Sequence[str], options: PairOptions, limit: TokenLimit, end: Ids
    ) -> list[Encoded]:
        prompt, shortened = options.prompt, self._shortened(texts, options.max_document_tokens)
        pairs = list(zip(queries, shortened, strict=True))
        rendered = self._tokenizer.contents([self._render(prompt, *pair) for pair in pairs], from_end=limit.cuts_start)
        encoded = []
        for index, content in enumerate(rendered):
            ids = content.ids
            was_cut = shortened[index] != texts[index]
            original = len(ids) if content.is_whole else None
            if was_cut:
                (whole,) = self._tokenizer.contents([self._render(prompt, pairs[index][0], texts[index])])
                original = len(whole.ids) if whole.is_whole else None
            if len(ids) > limit.tokens:
                limit.check(index, len(ids), is_counted=content.is_whole, is_pair=True)
                ids = np.concatenate([limit.kept(ids, limit.tokens)[: limit.tokens - len(end)], end])
                was_cut = True
            encoded.append(Encoded(Features(ids), was_cut=was_cut, original_tokens=original if was_cut else None))
        return encoded

    def _shortened(self, texts: Sequence[str], limit: int | None) -> Sequence[str]:
        """Each text up to the end of its token number `limit`."""
        if limit is None:
            return texts
        parts = [text[: limit * _CHARACTERS_PER_TOKEN] for text in texts]
        try:
            ends = self._ends(parts, limit)
            # A part settles where its text ends, unless its tokens are unusually long.
            open_ = [i for i, part in enumerate(parts) if ends[i] is None and len(part) < len(texts[i])]
            longer = [texts[i][:MOST_CHARACTERS] for i in open_]
            ends |= dict(zip(open_, self._ends(longer, limit).values(), strict=True))
        except Exception:
            # It names the text at fault.
            self._tokenizer.contents(texts)
            raise
        return [text if ends[i] is None else text[: ends[i]] for i, text in enumerate(texts)]

    def _ends(self, texts: Sequence[str], limit: int) -> dict[int, int | None]:
        """By place in `texts`, the character behind token number `limit`; None where there are no more tokens."""
        with panics_raised():
            found = self._tokenizer.library.encode_batch(list(texts), add_special_tokens=False)
        return {
            i: int(encoding.offsets[limit - 1][1]) if len(encoding.ids) > limit else None
            for i, encoding in enumerate(found)
        }

    def _end_of_template(self, prompt: str) -> Ids:
        """The tokens that every pair ends with, which a cut must not take: the model answers behind them."""
        renderings = [self._render(prompt, filler, filler) for filler in _FILLERS]
        first, second = (content.ids for content in self._tokenizer.contents(renderings))
        count = 0
        while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
            count += 1
        return first[len(first) - count :] if count < min(len(first), len(second)) else first[:0]


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text of a pair stay, as the `tokenizers` library cuts by `longest_first`."""
    shorter, longer = sorted((first, second))
    longer = shorter if shorter > room else max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room // 2 + room % 2
    return (longer, shorter) if first > second else (shorter, longer)


def _queries(tokenizer: Tokenizer, queries: Sequence[str], *, alone: bool, from_end: bool) -> list[Content]:
    try:
        return tokenizer.contents(queries, from_end=from_end)
    except InvalidInput as exc:
        raise exc.of_query(None if alone else exc.index) from exc


def _check_template(render: Render, name: str) -> None:
    """See that a query and a document both reach the rendered text."""
    try:
        base, other_query, other_document = (
            render("", *pair) for pair in (("alpha", "bravo"), ("charlie", "bravo"), ("alpha", "foxtrot"))
        )
    except Exception as exc:  # noqa: BLE001 - whatever a template raises
        failure = f"it raises {type(exc).__name__}: {exc}"
    else:
        lost = [role for role, text in (("query", other_query), ("document", other_document)) if text == base]
        if not lost:
            return
        failure = f"the {' and the '.join(lost)} does not reach the rendered text"
    msg = (
        f"the chat template of the model {name!r} does not take a pair with the roles 'query' and 'document' "
        f"({failure}); add a chat_template.jinja that does, as published rerankers have"
    )
    raise InvalidModel(msg)
