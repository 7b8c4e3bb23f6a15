"""The texts that are embedded: endless, and never the same twice.

A server that keeps vectors would answer a text that it has seen without any work, and the measurement would be one of
its cache. So the words of every text are put into another order: other ids, as many of them, the same work. Even two
contenders get different orders of the same sentences, because both may be the same server.
"""

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from attrs import frozen

from provider.bench.messages import Texts

SHIPPED = Path(__file__).with_name("sentences.txt")

# Words that about every tokenizer has whole, so that as many words make as many tokens.
_PLAIN_WORD = re.compile(r"[a-z]{2,5}")
# Two lengths between which tokens grow by a word's worth for every word; both fit into any model.
_FEW, _MANY = 8, 40
_SAMPLE = 32
# The words of a shorter text have too few orders; it gets other words.
_SHORT = 10
# Words of the query that documents are scored with.
_QUERY_WORDS = 6


@frozen
class TextPool:
    """Sentences, and what can be made of them.

    Attributes:
        sentences: the words of each.
        words: what texts of a given length are drawn from.
        repeat: whether texts come as they are, again and again.
    """

    sentences: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]
    repeat: bool = False

    @classmethod
    def of(cls, texts: Texts) -> Self:
        """Take `texts` apart."""
        sentences = tuple(tuple(each.split()) or (each,) for each in texts.sentences)
        every = [word for sentence in sentences for word in sentence]
        return cls(
            sentences, tuple(word for word in every if _PLAIN_WORD.fullmatch(word)) or tuple(every), texts.repeat
        )

    def draw(self, seed: int, salt: int = 0, words: int | None = None) -> Iterator[str]:
        """Texts without end. Neither number changes anything where texts are repeated.

        Args:
            seed: decides which sentence comes when, and with that how long the texts are.
            salt: decides, with the seed, the order of the words in them.
            words: of each text; None for the sentences as they are, all of them before any comes again.
        """
        turns = random.Random(seed)  # noqa: S311 - no secret
        chance = random.Random("" if self.repeat else f"{seed} {salt}")  # noqa: S311
        if words is not None:
            fixed = [self._drawn(chance, words) for _ in range(len(self.sentences))] if self.repeat else []
            while True:
                yield from fixed or [self._drawn(chance, words)]
        order = list(self.sentences)
        while True:
            if not self.repeat:
                turns.shuffle(order)
            for sentence in order:
                yield " ".join(sentence if self.repeat else self._varied(chance, sentence))

    def _varied(self, chance: random.Random, sentence: tuple[str, ...]) -> list[str]:
        return (
            chance.choices(self.words, k=len(sentence))
            if len(sentence) < _SHORT
            else chance.sample(sentence, len(sentence))
        )

    def _drawn(self, chance: random.Random, words: int) -> str:
        return " ".join(chance.choices(self.words, k=words))

    def query(self, seed: int) -> str:
        """The query of a slice: documents change, so no two pairs are the same."""
        return self._drawn(random.Random(seed), _QUERY_WORDS)  # noqa: S311

    def words_for(self, tokens: int, count: Callable[[tuple[str, ...]], int]) -> int:
        """How many words make a text of `tokens`, by a straight line through two lengths.

        Args:
            tokens: wanted, special tokens included.
            count: tokens of some texts together, by the tokenizer in question.
        """
        few, many = (self._mean_tokens(words, count) for words in (_FEW, _MANY))
        of_a_word = (many - few) / (_MANY - _FEW)
        special = few - _FEW * of_a_word
        return max(1, round((tokens - special) / of_a_word))

    def _mean_tokens(self, words: int, count: Callable[[tuple[str, ...]], int]) -> float:
        draw = self.draw(0, words=words)
        return count(tuple(next(draw) for _ in range(_SAMPLE))) / _SAMPLE
