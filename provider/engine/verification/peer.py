"""A second opinion: another implementation that reads the same folder by itself."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from provider.domain import Ids, Truncation, Vectors
from provider.engine.tokenizer import Encoded
from provider.engine.verification.contender import Contender
from provider.engine.verification.corpus import Text
from provider.engine.verification.measures import cleaned, cosines
from provider.engine.verification.report import Check

_MOST_NAMED = 5


class Peer(Protocol):
    """The other implementation, its own tokenizer and truncation included."""

    @property
    def name(self) -> str:
        """As shown to users."""
        ...

    def vectors(self, texts: Sequence[str], prompt: str, max_tokens: int) -> Vectors:
        """(texts, dimension) float32; what is longer than `max_tokens` is cut at the end."""
        ...

    def ids(self, texts: Sequence[str], prompt: str, max_tokens: int, *, truncate: Truncation) -> list[Ids]:
        """Token ids of each text, special tokens included; `truncate` says which end is cut, "start" or "end"."""
        ...


def ids_agree(peer: Peer, candidate: Contender, texts: Sequence[Text], inputs: Sequence[Encoded]) -> Iterator[Check]:
    """The token ids of every text; of those over the limit also cut at their start.

    Args:
        peer: the other implementation.
        candidate: what is verified.
        texts: all of them.
        inputs: the candidate's token ids of each.
    """
    spec = candidate.spec
    long = [text for text in texts if text.kind == "long"]
    places = [*(text.place for text in texts), *(f"{text.place} cut at its start" for text in long)]
    # Where the start is cut, the service keeps the prompt, so that there is none.
    ours = [*inputs, *candidate.tokenizer.encode([text.text for text in long], truncate="start")]
    theirs = [
        *peer.ids([text.text for text in texts], spec.default_prompt, spec.max_tokens, truncate="end"),
        *peer.ids([text.text for text in long], "", spec.max_tokens, truncate="start"),
    ]
    pairs = zip(places, ours, theirs, strict=True)
    wrong = [place for place, mine, other in pairs if not np.array_equal(mine.ids, other)]
    named = ", ".join([*wrong[:_MOST_NAMED], *(["…"] if len(wrong) > _MOST_NAMED else [])])
    yield Check(
        "wrong_ids",
        f"texts whose token ids are not those of {peer.name}",
        len(wrong),
        0,
        "most",
        f"the tokenizer's files ({named})" if wrong else "",
        digits=0,
    )


def vectors_agree(
    peer: Peer, candidate: Contender, texts: Sequence[Text], answers: Vectors, *, least: float
) -> Iterator[Check]:
    """The vectors of all texts but the odd ones.

    Args:
        peer: the other implementation.
        candidate: what is verified.
        texts: all of them.
        answers: the candidate's vectors of each, (texts, dimension).
        least: the smallest cosine allowed.
    """
    theirs = peer.vectors([text.text for text in texts], candidate.spec.default_prompt, candidate.spec.max_tokens)
    chosen = np.array([text.kind != "odd" for text in texts])
    smallest = cosines(cleaned(answers), theirs)[chosen].min(initial=1.0)
    yield Check(
        "min_cosine_peer",
        f"same text, smallest cosine with {peer.name}",
        float(smallest),
        least,
        advice="how the model's files are read: modules.json, pooling, prompts",
    )
