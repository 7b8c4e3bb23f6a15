"""Token ids beside those of others: the tokenizer library's own truncation, and another implementation's ids."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from provider.domain import Ids, Truncation
from provider.engine.tokenizer import Tokenizer
from provider.verification.peer import ScorePeer, VectorPeer
from provider.verification.report import Check
from provider.verification.runner import Role
from provider.verification.scores import ScoreComparison
from provider.verification.vectors import VectorComparison

_MOST_NAMED = 5


def cuts_are_right(comparison: VectorComparison) -> Iterator[Check]:
    """Texts over the limit become the ids that the tokenizer library itself makes of them, from either end."""
    model = comparison.candidate
    tokenizer, role = model.tokenizer, model.usual_role
    long = comparison.corpus.longer_than(model.spec.max_tokens)
    texts = [text.text for text in long]
    prompted = [model.prompt(role) + text for text in texts]
    wrong = [
        *_different(
            [text.place for text in long],
            [each.ids for each in model.encode(texts, role)],
            _cut_by_library(tokenizer, prompted, truncate="end"),
        ),
        *_different(
            [f"{text.place} cut at its start" for text in long],
            [each.ids for each in tokenizer.encode(texts, truncate="start")],
            _cut_by_library(tokenizer, texts, truncate="start"),
        ),
    ]
    yield _check("wrong_cuts", "texts over the limit, cut elsewhere than by the tokenizer", wrong, "tokenizer.json")


def _cut_by_library(tokenizer: Tokenizer, texts: Sequence[str], *, truncate: Truncation) -> list[Ids]:
    """The ids of each text, prompt included, with the library's own truncation, on a copy."""
    library = tokenizer.library
    copy = type(library).from_str(library.to_str())
    # `to_str` leaves this out.
    copy.encode_special_tokens = library.encode_special_tokens
    copy.enable_truncation(tokenizer.max_tokens, direction="left" if truncate == "start" else "right")
    return [np.array(encoding.ids, np.int32) for encoding in copy.encode_batch_fast(list(texts))]


def ids_agree(peer: VectorPeer, comparison: VectorComparison) -> Iterator[Check]:
    """The token ids of every text, as document and as query; of those over the limit also cut at their start."""
    model, texts = comparison.candidate, comparison.texts
    usual = model.usual_role
    wrong: list[str] = []
    by_role: dict[Role | None, list[tuple[str, str]]] = {usual: [], "query": []}
    for text in texts:
        if text.kind != "query":
            by_role[usual].append((text.place, text.text))
        by_role["query"].append((text.place if text.kind == "query" else f"{text.place} as query", text.text))
    for role, named in by_role.items():
        encoded = [(place, text, model.encode_accepted(text, role)) for place, text in named]
        taken = [(place, text, each.ids) for place, text, each in encoded if each is not None]
        limit = model.tokenizer_of(role).max_tokens
        theirs = peer.ids([text for _, text, _ in taken], model.prompt(role), limit, role, truncate="end")
        wrong += _different([place for place, _, _ in taken], [ids for _, _, ids in taken], theirs)
    # Where the start is cut, the service keeps the prompt, so that there is none.
    long = [text for text in texts if text.kind == "long"]
    plain = [text.text for text in long]
    wrong += _different(
        [f"{text.place} cut at its start" for text in long],
        [each.ids for each in model.tokenizer.encode(plain, truncate="start")],
        peer.ids(plain, "", model.tokenizer.max_tokens, usual, truncate="start"),
    )
    yield _check("wrong_ids", f"texts whose token ids are not those of {peer.name}", wrong, "the tokenizer's files")


def pair_ids_agree(peer: ScorePeer, comparison: ScoreComparison) -> Iterator[Check]:
    """The token ids of every pair, and which text each token belongs to."""
    model = comparison.candidate
    theirs = peer.ids(comparison.pairs, model.spec.default_prompt, model.spec.max_tokens)
    places = [comparison.place(i) for i in range(len(comparison.inputs))]
    wrong = _different(places, [each.ids for each in comparison.inputs], [ids for ids, _ in theirs])
    if not wrong:
        types = [(each.features.type_ids, other) for each, (_, other) in zip(comparison.inputs, theirs, strict=True)]
        # A model that is told no types has none to compare.
        known = [(place, *each) for place, each in zip(places, types, strict=True) if each[1] is not None]
        wrong = _different(
            [f"{place} (types of tokens)" for place, _, _ in known],
            [np.zeros_like(other) if own is None else own for _, own, other in known],
            [other for _, _, other in known],
        )
    yield _check("wrong_ids", f"pairs whose token ids are not those of {peer.name}", wrong, "the tokenizer's files")


def _different(places: Iterable[str], ours: Sequence[Any], theirs: Sequence[Any]) -> list[str]:
    return [place for place, *pair in zip(places, ours, theirs, strict=True) if not np.array_equal(*pair)]


def _check(name: str, meaning: str, wrong: Sequence[str], advice: str) -> Check:
    named = ", ".join([*wrong[:_MOST_NAMED], *(["…"] if len(wrong) > _MOST_NAMED else [])])
    return Check(name, meaning, len(wrong), 0, "most", advice, digits=0, place=named)
