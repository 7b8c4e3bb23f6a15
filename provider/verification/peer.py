"""A second opinion: another implementation that reads the same folder by itself."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from provider.cores import available_cores
from provider.domain import Ids, RowOutput, ScoreTask, Truncation, Vectors
from provider.engine.loading import ModelParts
from provider.errors import BackendUnavailable
from provider.verification.answers import Answer, agreement, as_long
from provider.verification.report import Check
from provider.verification.runner import Role
from provider.verification.vectors import VectorComparison


class VectorPeer(Protocol):
    """Another implementation of models that give vectors, its own tokenizer and truncation included."""

    @property
    def name(self) -> str:
        """As shown to users."""
        ...

    @property
    def output(self) -> str:
        """Which of the model's outputs it gives."""
        ...

    def outputs(self, texts: Sequence[str], prompt: str, max_tokens: int, role: Role | None) -> Sequence[RowOutput]:
        """What it answers for each text: (dimension,) float32, a `SparseVector`, or (tokens, dimension) float32.

        Args:
            texts: the inputs.
            prompt: put before each; "" for none, the model's own default included.
            max_tokens: longer texts are cut at the end.
            role: what the texts are, for models that treat queries differently.
        """
        ...

    def ids(
        self, texts: Sequence[str], prompt: str, max_tokens: int, role: Role | None, *, truncate: Truncation
    ) -> list[Ids]:
        """Token ids of each text, special tokens included; `truncate` says which end is cut, "start" or "end"."""
        ...


class ScorePeer(Protocol):
    """Another implementation of models that score pairs."""

    @property
    def name(self) -> str:
        """As shown to users."""
        ...

    def logits(self, pairs: Sequence[tuple[str, str]], prompt: str, max_tokens: int) -> Vectors:
        """(pairs, labels) float32; what is longer than `max_tokens` is cut at the end."""
        ...

    def ids(self, pairs: Sequence[tuple[str, str]], prompt: str, max_tokens: int) -> list[tuple[Ids, Ids | None]]:
        """Token ids of each pair, and which text each token belongs to; None where the model is not told."""
        ...


Peer = VectorPeer | ScorePeer


def load_peer(parts: ModelParts) -> tuple[Peer | None, str | None]:
    """sentence-transformers' class for the model, if there is one, and a sentence about what it does not cover."""
    from provider.backends.torch import peer  # noqa: PLC0415 - it takes seconds, and only `verify` needs it

    spec = parts.spec
    kind = peer.CrossEncoderPeer if spec.find(ScoreTask) else peer.VECTOR_PEERS.get(spec.task.output)
    if kind is None:
        return None, f"sentence-transformers has no models with the task {spec.task.word!r} to compare with"
    try:
        found = kind.load(parts.source.folder, threads=available_cores())
    except BackendUnavailable as exc:
        return None, f"not compared with sentence-transformers: {exc.message}"
    others = " and ".join(output for output in spec.outputs if output != spec.task.output)
    note = f"{others}: compared with the reference alone; sentence-transformers gives {spec.task.output}"
    return found, note if others else None


def vectors_agree(peer: VectorPeer, comparison: VectorComparison) -> Iterator[Check]:
    """The vectors of all texts but the odd ones, queries as queries."""
    of, output = comparison, peer.output
    task = next(task for task in of.candidate.spec.tasks if task.output == output)
    chosen = [i for i, text in enumerate(of.texts) if text.kind != "odd"]
    theirs: dict[int, Answer] = {}
    for role in (of.candidate.usual_role, "query"):
        places = [i for i in chosen if (of.texts[i].kind == "query") == (role == "query")]
        limit = of.candidate.tokenizer_of(role).max_tokens
        found = peer.outputs([of.texts[i].text for i in places], of.candidate.prompt(role), limit, role)
        theirs |= {i: as_long(task, each) for i, each in zip(places, found, strict=True)}
    cosines = np.array([agreement(of.answers[output][i], theirs[i]) for i in chosen])
    yield Check(
        of.name(output, "min_cosine_peer"),
        of.meaning(output, f"same text, smallest cosine with {peer.name}"),
        float(cosines.min(initial=1.0)),
        of.thresholds.min_cosine,
        advice="how the model's files are read: modules.json, pooling, prompts",
        place=of.texts[chosen[int(cosines.argmin())]].place if chosen else "",
    )
