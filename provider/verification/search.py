"""What the drift of vectors does to searches, and to ranks beside people's scores."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from provider.domain import DENSE, MULTI_VECTOR, SPARSE
from provider.verification.answers import Answer, relevance
from provider.verification.measures import nearest, overlap, spearman
from provider.verification.report import Check
from provider.verification.vectors import VectorComparison

_NEAREST = 10
# Outputs whose relevance is known.
_SEARCHED = (DENSE, SPARSE, MULTI_VECTOR)


def search_agrees(comparison: VectorComparison) -> Iterator[Check]:
    """Whether a search finds the same documents, by each output."""
    of = comparison
    queries = [i for i, text in enumerate(of.texts) if text.kind == "query"]
    documents = [i for i, text in enumerate(of.texts) if text.kind in ("sentence", "passage")]
    if not queries or not documents:
        return
    stored = of.candidate.encode([of.texts[i].text for i in documents], "document")
    # Without a prompt of their own, documents are the very texts that have been run already.
    is_done = all(np.array_equal(each.ids, of.inputs[i].ids) for each, i in zip(stored, documents, strict=True))
    ours, theirs = (
        {output: [each[i] for i in documents] for output, each in answers.items()}
        if is_done
        else of.answered(model.run(stored), stored)
        for model, answers in ((of.candidate, of.answers), (of.reference, of.expected))
    )
    for output in filter(_SEARCHED.__contains__, of.answers):
        asked, expected = ([answers[output][i] for i in queries] for answers in (of.answers, of.expected))
        found = _nearest(expected, theirs[output])

        def figure(answers: Sequence[Answer], found: Any = found) -> float:  # noqa: ANN401 - an array of indices
            return overlap(_nearest([answers[i] for i in queries], [answers[i] for i in documents]), found)

        yield Check(
            of.name(output, "top10_overlap"),
            of.meaning(output, "search, share of the nearest ten that is the same"),
            overlap(_nearest(asked, ours[output]), found),
            of.thresholds.min_overlap,
            advice="the dtype",
            digits=3,
            noise=of.noise(output, figure) if is_done else None,
        )


def ranks_agree(comparison: VectorComparison) -> Iterator[Check]:
    """Rank correlation with people's scores, by each output."""
    of, pairs = comparison, comparison.corpus.pairs
    if not pairs:
        return
    known = {text.text: i for i, text in enumerate(of.texts) if text.kind != "query"}
    missing = [
        text for text in dict.fromkeys(t for pair in pairs for t in (pair.first, pair.second)) if text not in known
    ]
    place = known | {text: i for i, text in enumerate(missing, len(of.texts))}
    inputs = of.candidate.encode(missing, of.candidate.usual_role)
    more = [of.answered(model.run(inputs), inputs) if missing else {} for model in (of.candidate, of.reference)]
    scores = [pair.score for pair in pairs]

    def points(rest: Sequence[Answer], own: Sequence[Answer]) -> float:
        answers = [*own, *rest]
        found = [relevance([answers[place[pair.first]]], [answers[place[pair.second]]])[0, 0] for pair in pairs]
        return spearman(found, scores)

    def drop(rest: Sequence[Answer], reference: float, own: Sequence[Answer]) -> float:
        return reference - points(rest, own)

    for output in filter(_SEARCHED.__contains__, of.answers):
        ours, theirs = (
            points(extra.get(output, ()), answers[output])
            for answers, extra in zip((of.answers, of.expected), more, strict=True)
        )
        meaning = "Spearman with people's scores"
        name = of.name(output, "spearman")
        yield Check(f"{name}_reference", of.meaning(output, f"{meaning}, reference"), theirs, digits=2)
        yield Check(name, of.meaning(output, meaning), ours, digits=2)
        yield Check(
            of.name(output, "spearman_drop"),
            of.meaning(output, "points of it lost to the reference"),
            theirs - ours,
            of.thresholds.max_spearman_drop,
            "most",
            "the dtype",
            digits=2,
            noise=of.noise(output, partial(drop, more[1].get(output, ()), theirs), equal=0.0),
        )


def _nearest(queries: Sequence[Answer], documents: Sequence[Answer]) -> Any:  # noqa: ANN401 - an array of indices
    return nearest(relevance(queries, documents), _NEAREST)
