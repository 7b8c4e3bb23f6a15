"""The comparison of vectors, dense, sparse or one a token: a candidate's beside the reference's, figure by figure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from attrs import define, frozen

from provider.domain import DENSE
from provider.engine.truncation import Encoded
from provider.verification.answers import (
    Answer,
    agreement,
    agreements,
    answer,
    largest_difference,
    misplaced,
)
from provider.verification.comparison import Comparison
from provider.verification.corpus import Text
from provider.verification.measures import Floats
from provider.verification.report import Check, Deviation
from provider.verification.runner import RowOutputs
from provider.verification.thresholds import VectorThresholds

_WORST = 5
# Attention written out takes memory with the square of the length.
_LONGEST_COMPARED = 2048
_CHUNK = 8

Answers = Mapping[str, Sequence[Answer]]
"""By output, the answer for each text."""


@frozen(eq=False)
class Invariance:
    """Whether a text's output depends on its neighbours.

    Attributes:
        misplaced: places of texts whose answer was another text's.
        cosine: of each sampled text alone with itself beside others, the smallest of several tries, (sampled,).
        not_finite: places of texts whose answer holds NaN or infinity.
    """

    misplaced: Sequence[str]
    cosine: Floats
    not_finite: Sequence[str]


@define(eq=False, slots=False)
class VectorComparison(Comparison[VectorThresholds]):
    """See `Comparison`; figures are by output."""

    @cached_property
    def texts(self) -> tuple[Text, ...]:
        """What is compared, as far as the budget allows."""
        return tuple(text for text, _ in self._wanted[: self._reached])

    @cached_property
    def inputs(self) -> list[Encoded]:
        """Their token ids."""
        return [encoded for _, encoded in self._wanted[: self._reached]]

    @cached_property
    def expected(self) -> Answers:
        """The reference's answers."""
        return self.answered(self._reference_rows, self.inputs)

    @cached_property
    def answers(self) -> Answers:
        """The candidate's answers."""
        is_same = self.reference is self.candidate
        return self.expected if is_same else self.answered(self.candidate.run(self.inputs), self.inputs)

    @cached_property
    def cosines(self) -> Mapping[str, Floats]:
        """By output, of each text's two answers the smallest cosine of two vectors; see `answers.agreements`."""
        return {output: self._cosines(output, self.answers[output]) for output in self.answers}

    @property
    def drift(self) -> Mapping[str, Floats]:
        """By output, 1 less the cosine, (texts,)."""
        return {output: 1.0 - each for output, each in self.cosines.items()}

    @property
    def neighbour_drift(self) -> Mapping[str, Floats]:
        """By output, 1 less the cosine of each sampled text alone with itself beside others, (sampled,)."""
        return {output: 1.0 - each.cosine for output, each in self.invariance.items()}

    @cached_property
    def invariance(self) -> Mapping[str, Invariance]:
        """By output, how the candidate's answers depend on the composition of batches."""
        found = {}
        runs = self.compositions
        inputs, places = [self.inputs[i] for i in runs.sample], [self.texts[i].place for i in runs.sample]
        own = self.answered(runs.alone, inputs)
        others = [self.answered(rows, inputs) for rows in runs.beside]
        for output, alone in own.items():
            beside = [each[output] for each in others]
            wrong = {i for each in beside for i in misplaced(each, alone, same=self.thresholds.min_invariance)}
            bad = {i for each in (alone, *beside) for i, one in enumerate(each) if one is None}
            cosine = np.min([[agreement(*pair) for pair in zip(each, alone, strict=True)] for each in beside], axis=0)
            found[output] = Invariance([places[i] for i in sorted(wrong)], cosine, [places[i] for i in sorted(bad)])
        return found

    def vectors_are_sound(self) -> Iterator[Check]:
        """Finite, in order, and independent of what shares the batch."""
        for output, found in self.invariance.items():
            whole = [text.place for text, each in zip(self.texts, self.answers[output], strict=True) if each is None]
            bad = list(dict.fromkeys((*whole, *found.not_finite)))
            advice = "the dtype: float16 overflows first"
            yield self._count(output, "not_finite", "texts whose vectors hold NaN or infinity", bad, advice)
            meaning = "vectors that belong to another text of the batch"
            advice = "the backend, which must undo its own sorting"
            yield self._count(output, "misplaced_rows", meaning, found.misplaced, advice)
            place = self.texts[self.compositions.sample[int(found.cosine.argmin())]].place
            yield Check(
                self.name(output, "min_invariance"),
                self.meaning(output, "a text alone and beside others, smallest cosine"),
                float(found.cosine.min()),
                self.thresholds.min_invariance,
                advice="attention mask, positions and pooling (padding leaks), or int8 scales taken over a whole batch",
                noise=self.noise(output, partial(self._smallest, output, slice(None))),
                place=place,
            )

    def vectors_agree(self) -> Iterator[Check]:
        """Cosines and differences between candidate and reference."""
        for output in self.answers:
            yield from self._agreement(output)

    def _agreement(self, output: str) -> Iterator[Check]:
        is_odd = np.array([text.kind == "odd" for text in self.texts])
        limits, advice = self.thresholds, "the text named here, the dtype, options of the backend"
        usual = ("min_cosine", "same text, smallest cosine", limits.min_cosine, np.flatnonzero(~is_odd))
        odd = ("min_odd_cosine", "the same for odd texts", limits.min_odd_cosine, np.flatnonzero(is_odd))
        for name, meaning, least, chosen in (usual, odd):
            if not len(chosen):
                continue
            cosines = self.cosines[output][chosen]
            yield Check(
                self.name(output, name),
                self.meaning(output, meaning),
                float(cosines.min()),
                least,
                advice=advice,
                noise=self.noise(output, partial(self._smallest, output, chosen)),
                place=self.vector_place(output, int(chosen[cosines.argmin()])),
            )
        yield Check(
            self.name(output, "mean_cosine"),
            self.meaning(output, "same text, mean cosine"),
            float(self.cosines[output].mean()),
            limits.min_mean_cosine,
            advice=advice,
            noise=self.noise(output, lambda answers: float(self._cosines(output, answers).mean())),
        )
        differences = self._differences(output, self.answers[output])
        yield Check(
            self.name(output, "largest_difference"),
            self.meaning(output, "largest difference of a number"),
            float(differences.max()),
            noise=self.noise(output, lambda answers: float(self._differences(output, answers).max()), equal=0.0),
            place=self.texts[int(differences.argmax())].place,
        )

    def worst(self) -> tuple[Deviation, ...]:
        """Of each output the texts whose vectors agree least."""
        found = []
        for output, drift in self.drift.items():
            for i in np.argsort(-drift, kind="stable")[:_WORST]:
                text = self.texts[i]
                found.append(Deviation(output, self.vector_place(output, int(i)), float(drift[i]), text.text))
        return tuple(found)

    def answered(self, rows: Sequence[RowOutputs], inputs: Sequence[Encoded]) -> Answers:
        """What the service answers where a model gave `rows` for `inputs`."""
        return {
            task.output: [answer(task, row[task.output], one.features) for row, one in zip(rows, inputs, strict=True)]
            for task in self.candidate.spec.tasks
        }

    def noise(self, output: str, figure: Callable[[Sequence[Answer]], float], *, equal: float = 1.0) -> float | None:
        """How far `figure` is from that of equal answers, `equal`, for the reference in other batches than `expected`.

        None where that is not measured.
        """
        return max((abs(equal - figure(each)) for each in self._recomposed[output]), default=None)

    def name(self, output: str, figure: str) -> str:
        """A figure's name; those of further outputs begin with the output."""
        return figure if output == self.candidate.spec.task.output else f"{output}_{figure}"

    def meaning(self, output: str, text: str) -> str:
        """What a figure means; dense vectors alone need not be named."""
        return text if self.candidate.spec.outputs == (DENSE,) else f"{output}: {text}"

    def vector_place(self, output: str, i: int) -> str:
        """Where the vector of text `i` stands that agrees least, of several with its number."""
        each = agreements(self.answers[output][i], self.expected[output][i])
        return self.texts[i].place if len(each) == 1 else f"{self.texts[i].place}, vector {int(each.argmin())}"

    def _count(self, output: str, name: str, meaning: str, places: Sequence[str], advice: str) -> Check:
        first = places[0] if places else ""
        name, meaning = self.name(output, name), self.meaning(output, meaning)
        return Check(name, meaning, len(places), 0, "most", advice, digits=0, place=first)

    def _cosines(self, output: str, answers: Sequence[Answer]) -> Floats:
        return np.array([agreement(*pair) for pair in zip(answers, self.expected[output], strict=True)])

    def _smallest(self, output: str, chosen: Any, answers: Sequence[Answer]) -> float:  # noqa: ANN401 - any index
        return float(self._cosines(output, answers)[chosen].min())

    def _differences(self, output: str, answers: Sequence[Answer]) -> Floats:
        return np.array([largest_difference(*pair) for pair in zip(answers, self.expected[output], strict=True)])

    @cached_property
    def _recomposed(self) -> Mapping[str, Sequence[Sequence[Answer]]]:
        """By output, the reference's answers again, those of the sample in batches of each other composition."""
        found: dict[str, list[Sequence[Answer]]] = {output: [] for output in self.expected}
        if not self.measures_noise:
            return found
        runs = self.reference_compositions()
        inputs = [self.inputs[i] for i in runs.sample]
        for rows in (runs.alone, *runs.beside):
            for output, answers in self.answered(rows, inputs).items():
                again = dict(zip(runs.sample, answers, strict=True))
                found[output].append([again.get(i, each) for i, each in enumerate(self.expected[output])])
        return found

    @property
    def _reached(self) -> int:
        return len(self._reference_rows)

    @cached_property
    def _reference_rows(self) -> Sequence[RowOutputs]:
        wanted = [encoded for _, encoded in self._wanted]
        if self.budget_seconds == float("inf"):
            return self.reference.run(wanted)
        started, done = self.clock(), list[RowOutputs]()
        for start in range(0, len(wanted), _CHUNK):
            done += self.reference.run(wanted[start : start + _CHUNK])
            if self.clock() - started > self.budget_seconds:
                break
        return done

    @cached_property
    def _wanted(self) -> Sequence[tuple[Text, Encoded]]:
        """All texts but those that the service refuses: without tokens, or with one that the model has no row for."""
        limit, usual = self.candidate.spec.max_tokens, self.candidate.usual_role
        long = self.corpus.longer_than(limit) if limit <= _LONGEST_COMPARED else ()
        texts = [(text, usual) for text in (*self.corpus.texts, *long)]
        texts += [(text, "query") for text in self.corpus.query_texts]
        encoded = [(text, self.candidate.encode_accepted(text.text, role)) for text, role in texts]
        return [(text, one) for text, one in encoded if one is not None]
