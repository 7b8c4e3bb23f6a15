"""The comparison of scores: a candidate's beside the reference's, of a few queries with a few documents each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from attrs import define
from numpy.typing import NDArray

from provider.domain import SCORES, Vectors
from provider.engine.truncation import Encoded
from provider.errors import InvalidInput
from provider.tasks.scores import activate
from provider.verification.comparison import Comparison
from provider.verification.corpus import Corpus, Text
from provider.verification.measures import Floats, kendall
from provider.verification.report import Check, Deviation
from provider.verification.runner import RowOutputs
from provider.verification.thresholds import ScoreThresholds

_QUERIES, _DOCUMENTS = 16, 16
_WORST = 5
# Scores that are closer than this are the same: rounding alone decides their order.
_TIE = 1e-5


@define(eq=False, slots=False)
class ScoreComparison(Comparison[ScoreThresholds]):
    """See `Comparison`; the texts are paired, and inputs are pairs."""

    @cached_property
    def documents(self) -> tuple[Text, ...]:
        """What every query is paired with: of each kind some, one of them over the model's limit."""
        texts = [text for text in self.corpus.texts if self._takes(text.text)]
        chosen = np.unique(np.linspace(0, len(texts) - 1, _DOCUMENTS - 1).astype(int))
        return (*(texts[i] for i in chosen), self.corpus.longer_than(self.candidate.spec.max_tokens)[0])

    @cached_property
    def queries(self) -> tuple[str, ...]:
        """As far as the budget allows."""
        return self._queries[: len(self.expected) // len(self.documents)]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs, a query's documents side by side."""
        return [(query, text.text) for query in self.queries for text in self.documents]

    @cached_property
    def inputs(self) -> list[Encoded]:
        """Token ids of all pairs."""
        return [each for query in self.queries for each in self._encode(query)]

    @cached_property
    def expected(self) -> Vectors:
        """The reference's logits, (pairs, labels)."""
        started, done = self.clock(), []
        for query in self._queries:
            done.append(self._logits(self.reference.run(self._encode(query))))
            if self.clock() - started > self.budget_seconds:
                break
        return np.concatenate(done)

    @cached_property
    def answers(self) -> Vectors:
        """The candidate's logits, (pairs, labels)."""
        return self._logits(self.candidate.run(self.inputs))

    @property
    def drift(self) -> Mapping[str, Floats]:
        """Of each pair's scores, the largest difference to the reference's, (pairs,)."""
        return {SCORES: self._difference}

    @cached_property
    def neighbour_drift(self) -> Mapping[str, Floats]:
        """Of the sampled pairs, each alone and beside others, (sampled,)."""
        alone = self._logits(self.compositions.alone)
        beside = [self._differences(self._logits(rows), alone) for rows in self.compositions.beside]
        return {SCORES: np.max(beside, axis=0)}

    def place(self, i: int) -> str:
        """Where pair `i` stands."""
        count = len(self.documents)
        return f"queries[{i // count}] with {self.documents[i % count].place}"

    def scores_are_sound(self) -> Iterator[Check]:
        """Finite, and independent of what shares the batch."""
        runs = self.compositions
        sampled = [self._logits(rows) for rows in (runs.alone, *runs.beside)]
        bad = set(np.flatnonzero(~_finite(self.answers)).tolist())
        bad |= {runs.sample[i] for each in sampled for i in np.flatnonzero(~_finite(each)).tolist()}
        meaning, advice = "pairs whose scores are NaN or infinite", "the dtype: float16 overflows first"
        place = self.place(min(bad)) if bad else ""
        yield Check("not_finite", meaning, len(bad), 0, "most", advice, digits=0, place=place)
        drift = self.neighbour_drift[SCORES]
        yield Check(
            "max_invariance_difference",
            "a pair alone and beside others, largest difference of a score",
            float(drift.max()),
            self.thresholds.max_score_difference,
            "most",
            "attention mask, positions and types of tokens, or int8 scales taken over a whole batch",
            noise=self._noise(lambda logits: float(self._differences(logits, self.expected).max()), equal=0.0),
            place=self.place(runs.sample[int(drift.argmax())]),
        )

    def scores_agree(self) -> Iterator[Check]:
        """Differences of scores, and what they do to the order of documents."""
        limits, drift = self.thresholds, self._difference
        yield Check(
            "max_score_difference",
            "same pair, largest difference of a score",
            float(drift.max()),
            limits.max_score_difference,
            "most",
            "the pair named here, the dtype, options of the backend",
            noise=self._noise(lambda logits: float(self._differences(logits, self.expected).max()), equal=0.0),
            place=self.place(int(drift.argmax())),
        )
        yield Check(
            "mean_score_difference",
            "same pair, mean difference of a score",
            float(drift.mean()),
            noise=self._noise(lambda logits: float(self._differences(logits, self.expected).mean()), equal=0.0),
        )
        yield Check(
            "flips",
            f"share of {self._told_apart} pairs of documents in another order",
            self._flips(self.answers),
            limits.max_flips,
            "most",
            "the dtype",
            digits=4,
            noise=self._noise(self._flips, equal=0.0),
        )
        yield Check(
            "kendall_tau",
            "order of a query's documents, Kendall's tau, mean",
            self._tau(self.answers),
            limits.min_kendall_tau,
            advice="the dtype",
            digits=4,
            noise=self._noise(self._tau, equal=1.0),
        )

    def peer_agrees(self, name: str, logits: Vectors) -> Iterator[Check]:
        """The logits (pairs, labels) of another implementation called `name`, from text to score."""
        differences = self._differences(self.answers, logits.reshape(self.answers.shape))
        yield Check(
            "max_score_difference_peer",
            f"same pair, largest difference of a score to {name}",
            float(differences.max()),
            self.thresholds.max_score_difference,
            "most",
            "how the model's files are read: tokenizer, types of tokens, chat template, activation",
            place=self.place(int(differences.argmax())),
        )

    def worst(self) -> tuple[Deviation, ...]:
        """The pairs whose scores agree least."""
        order = np.argsort(-self._difference, kind="stable")[:_WORST]
        return tuple(Deviation(SCORES, self.place(i), float(self._difference[i]), self.pairs[i][1]) for i in order)

    def _encode(self, query: str) -> list[Encoded]:
        return self.candidate.encode_pairs([query], [text.text for text in self.documents])

    @property
    def _queries(self) -> tuple[str, ...]:
        return (self.corpus.queries or Corpus.bundled().queries)[:_QUERIES]

    def _takes(self, text: str) -> bool:
        try:
            self.candidate.encode_pairs(self._queries[:1], [text])
        except InvalidInput:
            return False
        return True

    def _logits(self, rows: Sequence[RowOutputs]) -> Vectors:
        return np.array([row[SCORES] for row in rows], np.float32).reshape(len(rows), -1)

    def _noise(self, figure: Callable[[Vectors], float], *, equal: float) -> float | None:
        """How far `figure` is from that of equal logits for the reference in batches of other compositions."""
        return max((abs(equal - figure(each)) for each in self._recomposed), default=None)

    @cached_property
    def _recomposed(self) -> Sequence[Vectors]:
        """The reference's logits again, those of the sample in batches of each other composition."""
        if not self.measures_noise:
            return ()
        runs = self.reference_compositions()
        found = []
        for rows in (runs.alone, *runs.beside):
            found.append(self.expected.copy())
            found[-1][runs.sample] = self._logits(rows)
        return found

    def _scores(self, logits: Vectors) -> Floats:
        # What is not finite is counted by itself, and must not make every other figure NaN.
        cleaned = np.where(_finite(logits)[:, None], logits, np.float32(0))
        return activate(cleaned, self.candidate.spec.scores.activation).astype(np.float64)

    @cached_property
    def _difference(self) -> Floats:
        return self._differences(self.answers, self.expected)

    def _differences(self, ours: Vectors, theirs: Vectors) -> Floats:
        # Logits have any scale: they are compared in units of how far the reference's lie apart.
        unbounded = self.candidate.spec.scores.activation == "identity"
        scale = max(1.0, float(self._scores(self.expected).std())) if unbounded else 1.0
        found: Floats = np.abs(self._scores(ours) - self._scores(theirs)).max(axis=1) / scale
        return found

    def _rankings(self, logits: Vectors) -> Iterator[tuple[Floats, Floats]]:
        """Of each query and label: the scores of the documents by `logits` and by the reference."""
        shape = (len(self.queries), len(self.documents), -1)
        ours, theirs = (self._scores(each).reshape(shape) for each in (logits, self.expected))
        for query in range(shape[0]):
            for label in range(ours.shape[2]):
                yield ours[query, :, label], theirs[query, :, label]

    @cached_property
    def _told_apart(self) -> int:
        """Pairs of documents that the reference orders clearly."""
        return sum(int(self._above(theirs).sum()) for _, theirs in self._rankings(self.expected))

    def _above(self, scores: Floats) -> NDArray[np.bool_]:
        return np.subtract.outer(scores, scores) > self.thresholds.max_score_difference

    def _flips(self, logits: Vectors) -> float:
        """The share of them that `logits` order otherwise."""
        ranked = self._rankings(logits)
        flips = sum(int((np.subtract.outer(ours, ours)[self._above(theirs)] < 0).sum()) for ours, theirs in ranked)
        return flips / max(self._told_apart, 1)

    def _tau(self, logits: Vectors) -> float:
        return float(np.mean([kendall(*each, tie=_TIE) for each in self._rankings(logits)]))


def _finite(logits: Vectors) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(logits).all(axis=1))
