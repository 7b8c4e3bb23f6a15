"""The two ways to verify a loaded model: everything, for a person who asks, and the essential, before it is served."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import cast

from attrs import evolve

from provider.domain import ScoreTask
from provider.engine.loading import ModelParts
from provider.engine.neighbours import precision_of
from provider.settings import ModelSettings
from provider.verification.corpus import Corpus
from provider.verification.peer import Peer, ScorePeer, VectorPeer, vectors_agree
from provider.verification.reference import is_reference, loaded_reference
from provider.verification.report import BackendFacts, Check, VerificationReport
from provider.verification.runner import ModelRunner
from provider.verification.scores import ScoreComparison
from provider.verification.search import ranks_agree, search_agrees
from provider.verification.speed import speed_checks
from provider.verification.thresholds import ScoreThresholds, Thresholds, VectorThresholds, thresholds_for
from provider.verification.token_ids import cuts_are_right, ids_agree, pair_ids_agree
from provider.verification.vectors import VectorComparison

# At the start: for so long the reference may run.
_BRIEF_SECONDS = 4.0
_BRIEF_SAMPLE = 16
_MOST_TIMED = 96
_SAME = "the configuration is the reference itself; its outputs are compared with themselves"

AnyComparison = VectorComparison | ScoreComparison
Step = tuple[str, Callable[[], Iterator[Check]]]
"""What is done, and the figures that come of it."""


def verify(
    parts: ModelParts,
    settings: ModelSettings,
    corpus: Corpus,
    thresholds: Thresholds,
    *,
    peer: Peer | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> VerificationReport:
    """Measure a loaded model against the reference in every way there is.

    Args:
        parts: the model; stays the caller's to close.
        settings: of the model.
        corpus: the texts.
        thresholds: what has to be reached, of the kind that `thresholds_for` gives for this model.
        peer: another implementation to compare with, for this model's task; see `load_peer`.
        on_step: told what begins, for a progress display.

    Raises:
        VerificationFailed: a backend raised, or broke the protocol.
        BackendError, InvalidModel: the reference cannot be loaded.
    """
    on_step("loading the reference")
    candidate = ModelRunner.of(parts, settings)
    with _reference(parts, settings, candidate, one_lane=False) as reference:
        comparison = _comparison(candidate, reference, corpus, thresholds)
        if isinstance(comparison, ScoreComparison):
            steps = _score_steps(comparison, cast("ScorePeer | None", peer))
        else:
            steps = _vector_steps(comparison, cast("VectorPeer | None", peer))
        return _report(parts, settings, comparison, steps, on_step=on_step)


def verify_briefly(parts: ModelParts, settings: ModelSettings) -> VerificationReport:
    """Measure a loaded model on a few dozen texts, in a few seconds.

    No other thread may use the backend meanwhile. The reference's memory is free again afterwards.

    Raises:
        SettingsError: a bound for another task is set.
        VerificationFailed: the backend raised, or broke the protocol.
        BackendError, InvalidModel: the reference cannot be loaded.
    """
    thresholds = thresholds_for(parts.spec, parts.backend.traits.dtype, settings)
    candidate = ModelRunner.of(parts, settings)
    with _reference(parts, settings, candidate, one_lane=True) as reference:
        whole = _comparison(candidate, reference, Corpus.short(), thresholds)
        brief = evolve(whole, budget_seconds=_BRIEF_SECONDS, most_sampled=_BRIEF_SAMPLE, measures_noise=False)
        if isinstance(brief, ScoreComparison):
            checks = [brief.scores_are_sound, brief.scores_agree]
        else:
            checks = [brief.vectors_are_sound, partial(cuts_are_right, brief), brief.vectors_agree]
        return _report(parts, settings, brief, [("", check) for check in checks], on_step=lambda _: None)


def _comparison(
    candidate: ModelRunner, reference: ModelRunner, corpus: Corpus, thresholds: Thresholds
) -> AnyComparison:
    scores = candidate.spec.find(ScoreTask) is not None
    if isinstance(thresholds, ScoreThresholds) and scores:
        return ScoreComparison(candidate, reference, corpus, thresholds)
    if isinstance(thresholds, VectorThresholds) and not scores:
        return VectorComparison(candidate, reference, corpus, thresholds)
    msg = f"{type(thresholds).__name__} is not for the model {candidate.spec.name!r}; use thresholds_for"
    raise TypeError(msg)


def _vector_steps(of: VectorComparison, peer: VectorPeer | None) -> Iterator[Step]:
    yield "comparing with the reference", of.vectors_are_sound
    yield "cutting long texts", partial(cuts_are_right, of)
    if peer is not None:
        yield f"comparing token ids with {peer.name}", partial(ids_agree, peer, of)
    yield "comparing vectors", of.vectors_agree
    if peer is not None:
        yield f"comparing with {peer.name}", partial(vectors_agree, peer, of)
    yield "searching", partial(search_agrees, of)
    yield "ranking", partial(ranks_agree, of)
    yield "measuring speed", partial(_vector_speed, of, peer)


def _score_steps(of: ScoreComparison, peer: ScorePeer | None) -> Iterator[Step]:
    yield "comparing with the reference", of.scores_are_sound
    if peer is not None:
        yield f"comparing token ids with {peer.name}", partial(pair_ids_agree, peer, of)
    yield "comparing scores", of.scores_agree
    if peer is not None:
        spec = of.candidate.spec
        logits = partial(peer.logits, of.pairs, spec.default_prompt, spec.max_tokens)
        yield f"comparing with {peer.name}", lambda: of.peer_agrees(peer.name, logits())
    yield "measuring speed", partial(_score_speed, of, peer)


def _vector_speed(of: VectorComparison, peer: VectorPeer | None) -> Iterator[Check]:
    """From text to vectors."""
    role = of.candidate.usual_role
    texts = [text.text for text in of.texts if text.kind == "sentence"][:_MOST_TIMED]
    if not texts:
        return iter(())

    def run(model: ModelRunner) -> object:
        return model.run(model.encode(texts, role))

    def run_peer() -> object:
        return peer and peer.outputs(texts, of.candidate.prompt(role), of.candidate.spec.max_tokens, role)

    return speed_checks(
        partial(run, of.candidate),
        None if of.reference is of.candidate else partial(run, of.reference),
        None if peer is None else (peer.name, run_peer),
        least=of.thresholds.min_speedup,
    )


def _score_speed(of: ScoreComparison, peer: ScorePeer | None) -> Iterator[Check]:
    """From texts to scores, of one query's pairs."""
    query, texts, spec = of.queries[0], [text.text for text in of.documents], of.candidate.spec
    pairs = [(query, text) for text in texts]

    def run(model: ModelRunner) -> object:
        return model.run(model.encode_pairs([query], texts))

    return speed_checks(
        partial(run, of.candidate),
        None if of.reference is of.candidate else partial(run, of.reference),
        None if peer is None else (peer.name, partial(peer.logits, pairs, spec.default_prompt, spec.max_tokens)),
        least=of.thresholds.min_speedup,
    )


def _reference(
    parts: ModelParts, settings: ModelSettings, candidate: ModelRunner, *, one_lane: bool
) -> AbstractContextManager[ModelRunner]:
    if is_reference(settings, parts.backend):
        return nullcontext(candidate)
    return loaded_reference(parts, settings, one_lane=one_lane)


def _report(
    parts: ModelParts,
    settings: ModelSettings,
    comparison: AnyComparison,
    steps: Iterable[Step],
    *,
    on_step: Callable[[str], None],
) -> VerificationReport:
    started = time.monotonic()
    checks: list[Check] = []
    for name, measure in steps:
        on_step(name)
        checks += measure()
    candidate, reference = comparison.candidate, comparison.reference
    is_same = reference is candidate
    return VerificationReport(
        model=settings.served_name,
        fingerprint=parts.fingerprint,
        candidate=_facts(candidate),
        reference=_facts(reference),
        is_reference=is_same,
        precision=precision_of(candidate.backend.traits.dtype),
        thresholds=comparison.thresholds,
        texts=len(comparison.inputs),
        checks=tuple(checks),
        worst=comparison.worst(),
        drift=comparison.drift,
        neighbour_drift=comparison.neighbour_drift,
        notes=(*((_SAME,) if is_same else ()), *_beyond(checks)),
        seconds=time.monotonic() - started,
    )


def _beyond(checks: list[Check]) -> Iterator[str]:
    """Sentences about bounds that the reference itself would not keep."""
    for check in checks:
        if check.allowed is None or check.noise is None:
            continue
        room = abs((1.0 if check.bound == "least" else 0.0) - check.allowed)
        if check.noise > room:
            yield f"{check.name}: the reference's own noise is {check.noise:.1g}, and the bound leaves {room:.1g}"


def _facts(model: ModelRunner) -> BackendFacts:
    traits = model.backend.traits
    return BackendFacts(model.name, traits.device, traits.dtype, dict(traits.extra))
