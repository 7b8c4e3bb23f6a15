"""What is embedded to compare two ways of computing: texts, scored pairs and queries, each text with its place.

The bundled files in `data` were written for this purpose. The scores of the pairs, 0 (unrelated) to 5 (the same
meaning), are on the scale of the STS benchmark (https://ixa2.si.ehu.eus/stswiki), and are their author's judgement.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from typing import Literal, Self

import attrs
from attrs import frozen

Kind = Literal["sentence", "passage", "odd", "long", "query"]

# A text of so many characters a token is longer than any limit, in every script.
_CHARACTERS_PER_TOKEN = 8
# The short set has every n-th sentence and odd text, and so many passages and queries.
_SHORT_STEP, _SHORT_PASSAGES, _SHORT_QUERIES = 5, 2, 4


@frozen
class Text:
    """A text and where it stands, so that it can be named without being shown.

    Attributes:
        kind: `sentence` and `passage` are what a model is made for, `odd` is what users send besides (a letter, digits,
            other scripts), `long` is over the model's limit, `query` is what is searched for.
        place: such as `sentences[17]` or `texts.txt, line 4`.
    """

    text: str
    place: str
    kind: Kind = "sentence"


@frozen
class ScoredPair:
    """Two sentences, and how alike a person finds them; higher is more alike, on any scale."""

    first: str
    second: str
    score: float


@frozen
class Corpus:
    """Everything that is embedded.

    Attributes:
        texts: what the two ways are compared on; texts over the model's limit are made on the way.
        pairs: for the rank correlation with people's scores; may be empty.
        queries: for retrieval among the sentences and passages; may be empty.
    """

    texts: tuple[Text, ...]
    pairs: tuple[ScoredPair, ...] = ()
    queries: tuple[str, ...] = ()

    @property
    def query_texts(self) -> tuple[Text, ...]:
        """The queries, each with its place."""
        return tuple(Text(text, f"queries[{i}]", "query") for i, text in enumerate(self.queries))

    @classmethod
    def bundled(cls) -> Self:
        """The texts that ship with the service: a few hundred."""
        pairs = tuple(_bundled_pairs())
        sentences = dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second))
        passages = _lines("passages.txt")
        odd = json.loads(_file("odd.json"))
        texts = (
            *(Text(text, f"sentences[{i}]") for i, text in enumerate(sentences)),
            *(Text(text, f"passages[{i}]", "passage") for i, text in enumerate(passages)),
            *(Text(text, f"odd[{i}]", "odd") for i, text in enumerate(odd)),
        )
        return cls(texts, pairs, tuple(_lines("queries.txt")))

    @classmethod
    def short(cls) -> Self:
        """A few dozen of the bundled texts, of every kind: seconds instead of a minute. No pairs."""
        bundled = cls.bundled()
        whole = bundled.texts
        kinds = [[text for text in whole if text.kind == kind] for kind in ("sentence", "odd")]
        passages = [text for text in whole if text.kind == "passage"][:_SHORT_PASSAGES]
        # Passages first: if time runs out, the few texts that were compared should be those that tell most.
        texts = (*passages, *(text for kind in kinds for text in kind[::_SHORT_STEP]))
        return cls(texts, queries=bundled.queries[:_SHORT_QUERIES])

    def with_sentences(self, texts: Iterable[Text]) -> Self:
        """The same with other sentences and passages; the odd texts stay."""
        return attrs.evolve(self, texts=(*texts, *(text for text in self.texts if text.kind == "odd")))

    def longer_than(self, max_tokens: int) -> tuple[Text, ...]:
        """Texts that are over a limit of `max_tokens`, made of those there are."""
        least = max_tokens * _CHARACTERS_PER_TOKEN
        prose = [text for text in self.texts if text.kind == "passage"] or list(self.texts)
        ends = (" ".join(_endless(prose[start:] + prose[:start], least)) for start in (0, len(prose) // 2))
        return tuple(Text(text, f"long[{i}]", "long") for i, text in enumerate(ends))


def _endless(texts: Sequence[Text], least: int) -> Iterator[str]:
    length = 0
    while length <= least:
        for each in texts:
            # A text without a visible character would never make it longer in tokens.
            yield f"{each.text} and"
            length += len(each.text) + 1


def _bundled_pairs() -> Iterator[ScoredPair]:
    for line in _lines("pairs.tsv"):
        first, second, score = line.split("\t")
        yield ScoredPair(first, second, float(score))


def _lines(name: str) -> list[str]:
    return _file(name).splitlines()


def _file(name: str) -> str:
    return (resources.files(__package__) / "data" / name).read_text(encoding="utf-8")
