"""The comparison itself: a candidate's vectors beside the reference's, figure by figure."""

import time
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
from attrs import define, frozen

from provider.domain import Vectors
from provider.engine.tokenizer import Encoded
from provider.engine.verification.contender import Contender
from provider.engine.verification.corpus import Corpus, Text
from provider.engine.verification.measures import (
    Floats,
    cleaned,
    cosines,
    finite_rows,
    misplaced,
    neighbours,
    overlap,
    spearman,
    unit,
)
from provider.engine.verification.peer import Peer
from provider.engine.verification.report import Check, Worst
from provider.engine.verification.speed import speedups
from provider.engine.verification.thresholds import Thresholds
from provider.errors import InvalidInput

_NEAREST = 10
_WORST = 5
_MOST_TIMED = 96
# Attention written out takes memory with the square of the length.
_LONGEST_COMPARED = 2048
_CHUNK = 8


@frozen(eq=False)
class Invariance:
    """Whether a text's vector depends on its neighbours.

    Attributes:
        misplaced: answers that were another text's vector.
        cosine: of each sampled text alone with itself beside others, the smallest of several tries, (sampled,).
        not_finite: answers with NaN or infinity.
    """

    misplaced: int
    cosine: Floats
    not_finite: int


@define(eq=False, slots=False)
class Comparison:
    """Two loaded sides and the texts. Figures are computed when they are asked for, each once.

    Attributes:
        candidate: what is verified.
        reference: what it is measured against; the candidate itself where it is the reference.
        corpus: the texts.
        thresholds: what has to be reached.
        budget_seconds: how long the reference may embed; the texts that it has not come to then are left out.
        most_sampled: how many texts are also embedded alone and in several orders.
        clock: seconds, monotonic.
    """

    candidate: Contender
    reference: Contender
    corpus: Corpus
    thresholds: Thresholds
    budget_seconds: float = float("inf")
    most_sampled: int = 48
    clock: Callable[[], float] = time.monotonic

    @cached_property
    def texts(self) -> tuple[Text, ...]:
        """What is compared, as far as the budget allows."""
        return self._wanted[: len(self.expected)]

    @cached_property
    def inputs(self) -> list[Encoded]:
        """Their token ids."""
        return self._encoded[: len(self.expected)]

    @cached_property
    def expected(self) -> Vectors:
        """The reference's vectors, (texts, dimension)."""
        if self.budget_seconds == float("inf"):
            return self.reference.together(self._encoded)
        started, done = self.clock(), []
        for start in range(0, len(self._encoded), _CHUNK):
            done.append(self.reference.together(self._encoded[start : start + _CHUNK]))
            if self.clock() - started > self.budget_seconds:
                break
        return np.concatenate(done)

    @cached_property
    def answers(self) -> Vectors:
        """The candidate's vectors, (texts, dimension)."""
        return self.candidate.together(self.inputs) if self.reference is not self.candidate else self.expected

    @cached_property
    def cosine(self) -> Floats:
        """Of each text's two vectors, (texts,); 0 where one is not finite."""
        return cosines(cleaned(self.answers), cleaned(self.expected))

    @cached_property
    def invariance(self) -> Invariance:
        """The candidate on a sample of the texts: alone, in one request, and twice as requests in any order."""
        chosen = np.unique(np.linspace(0, len(self.inputs) - 1, self.most_sampled).astype(int))
        inputs = [self.inputs[i] for i in chosen]
        order = np.random.default_rng(0).permutation(len(inputs)).tolist()
        alone = self.candidate.alone(inputs)
        beside = (
            self.candidate.together(inputs),
            self.candidate.apart(inputs, order),
            self.candidate.apart(inputs, order[::-1]),
        )
        same, own = self.thresholds.min_invariance, cleaned(alone)
        wrong = [misplaced(cleaned(each), own, same=same) for each in beside]
        return Invariance(
            misplaced=int(sum(each.sum() for each in wrong)),
            cosine=np.min([cosines(cleaned(each), own) for each in beside], axis=0),
            not_finite=sum(int((~finite_rows(each)).sum()) for each in (alone, *beside)),
        )

    def vectors_are_sound(self) -> Iterator[Check]:
        """Finite, in order, and independent of what shares the batch."""
        bad = int((~finite_rows(self.answers)).sum()) + self.invariance.not_finite
        yield Check(
            "not_finite",
            "vectors with NaN or infinity",
            bad,
            0,
            "most",
            "the dtype: float16 overflows first",
            digits=0,
        )
        yield Check(
            "misplaced_rows",
            "vectors that belong to another text of the batch",
            self.invariance.misplaced,
            0,
            "most",
            "the backend, which must undo its own sorting",
            digits=0,
        )
        yield Check(
            "min_invariance",
            "a text alone and beside others, smallest cosine",
            float(self.invariance.cosine.min()),
            self.thresholds.min_invariance,
            advice="attention mask, positions and pooling (padding leaks), or int8 scales taken over a whole batch",
        )

    def cuts_are_right(self) -> Iterator[Check]:
        """Texts over the limit become the ids that the tokenizer library itself makes of them, from either end."""
        tokenizer, spec = self.candidate.tokenizer, self.candidate.spec
        long = [text.text for text in self.corpus.longer_than(spec.max_tokens)]
        prompted = [spec.default_prompt + text for text in long]
        pairs = [
            *zip(self.candidate.encode(long), tokenizer.cut_by_library(prompted, truncate="end"), strict=True),
            *zip(
                tokenizer.encode(long, truncate="start"),
                tokenizer.cut_by_library(long, truncate="start"),
                strict=True,
            ),
        ]
        wrong = sum(not np.array_equal(ours.ids, theirs) for ours, theirs in pairs)
        meaning, advice = "texts over the limit, cut elsewhere than by the tokenizer", "tokenizer.json"
        yield Check("wrong_cuts", meaning, wrong, 0, "most", advice, digits=0)

    def vectors_agree(self) -> Iterator[Check]:
        """Cosines and differences between candidate and reference."""
        is_odd = np.array([text.kind == "odd" for text in self.texts])
        advice = "the texts named above, the dtype, options of the backend"
        limits = self.thresholds
        if not is_odd.all():
            least = float(self.cosine[~is_odd].min())
            yield Check("min_cosine", "same text, smallest cosine", least, limits.min_cosine, advice=advice)
        if is_odd.any():
            least = float(self.cosine[is_odd].min())
            yield Check("min_odd_cosine", "the same for odd texts", least, limits.min_odd_cosine, advice=advice)
        yield Check(
            "mean_cosine", "same text, mean cosine", float(self.cosine.mean()), limits.min_mean_cosine, advice=advice
        )
        difference = np.abs(unit(cleaned(self.answers)) - unit(cleaned(self.expected))).max()
        yield Check("largest_difference", "largest difference of a number", float(difference))

    def retrieval_agrees(self) -> Iterator[Check]:
        """Whether a search finds the same documents."""
        documents = [i for i, text in enumerate(self.texts) if text.kind in ("sentence", "passage")]
        if not self.corpus.queries or not documents:
            return
        queries = self.candidate.encode(self.corpus.queries, input_type="query")
        stored = self.candidate.encode([self.texts[i].text for i in documents], input_type="document")
        # Without a prompt of their own, documents are the very texts that have been embedded already.
        is_done = all(np.array_equal(each.ids, self.inputs[i].ids) for each, i in zip(stored, documents, strict=True))
        nearest = []
        for side, have in ((self.candidate, self.answers), (self.reference, self.expected)):
            found = have[documents] if is_done else side.together(stored)
            nearest.append(neighbours(cleaned(side.together(queries)), cleaned(found), _NEAREST))
        yield Check(
            "top10_overlap",
            "search, share of the nearest ten that is the same",
            overlap(*nearest),
            self.thresholds.min_overlap,
            advice="the dtype",
            digits=3,
        )

    def ranks_agree(self) -> Iterator[Check]:
        """Rank correlation with people's scores."""
        if not self.corpus.pairs:
            return
        known = {text.text: i for i, text in enumerate(self.texts)}
        sentences = dict.fromkeys(text for pair in self.corpus.pairs for text in (pair.first, pair.second))
        missing = [text for text in sentences if text not in known]
        inputs, place = self.candidate.encode(missing), {text: i for i, text in enumerate(missing, len(self.texts))}
        place = known | place
        points = []
        for side, have in ((self.candidate, self.answers), (self.reference, self.expected)):
            vectors = cleaned(np.concatenate([have, side.together(inputs)]) if missing else have)
            first = vectors[[place[pair.first] for pair in self.corpus.pairs]]
            second = vectors[[place[pair.second] for pair in self.corpus.pairs]]
            points.append(spearman(cosines(first, second), [pair.score for pair in self.corpus.pairs]))
        ours, theirs = points
        yield Check("spearman_reference", "Spearman with people's scores, reference", theirs, digits=2)
        yield Check("spearman", "Spearman with people's scores", ours, digits=2)
        yield Check(
            "spearman_drop",
            "points of it lost to the reference",
            theirs - ours,
            self.thresholds.max_spearman_drop,
            "most",
            "the dtype",
            digits=2,
        )

    def speed(self, peer: Peer | None) -> Iterator[Check]:
        """Times as fast as the reference, and as the peer, from text to vector."""
        timed = [i for i, text in enumerate(self.texts) if text.kind == "sentence"][:_MOST_TIMED]
        texts = [self.texts[i].text for i in timed]
        others: dict[str, Callable[[], object]] = {}
        if self.reference is not self.candidate:
            others["reference"] = lambda: self.reference.together(self.reference.encode(texts))
        if peer is not None:
            spec = self.candidate.spec
            others["peer"] = lambda: peer.vectors(texts, spec.default_prompt, spec.max_tokens)
        if not timed or not others:
            return
        found_by_name = speedups(lambda: self.candidate.together(self.candidate.encode(texts)), others)
        for name, found in found_by_name.items():
            whom = "the reference" if name == "reference" else peer.name if peer else name
            yield Check(
                "speedup" if name == "reference" else "speedup_peer",
                f"times as fast as {whom} ({found.least:.2f} to {found.most:.2f})",
                found.median,
                self.thresholds.min_speedup if name == "reference" else None,
                advice="backend, dtype and number of lanes",
                digits=2,
            )

    def worst(self) -> tuple[Worst, ...]:
        """The texts whose vectors agree least."""
        order = np.argsort(self.cosine, kind="stable")[:_WORST]
        return tuple(Worst(self.texts[i].place, float(self.cosine[i]), self.texts[i].text) for i in order)

    @cached_property
    def _wanted(self) -> tuple[Text, ...]:
        """Texts that the service refuses are left out: without tokens, or with one that the model has no row for."""
        limit = self.candidate.spec.max_tokens
        long = self.corpus.longer_than(limit) if limit <= _LONGEST_COMPARED else ()
        return tuple(text for text in (*self.corpus.texts, *long) if self._takes(text))

    def _takes(self, text: Text) -> bool:
        try:
            self.candidate.encode([text.text])
        except InvalidInput:
            return False
        return True

    @cached_property
    def _encoded(self) -> list[Encoded]:
        return self.candidate.encode([text.text for text in self._wanted])
