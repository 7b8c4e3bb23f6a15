"""The two ways to verify a loaded model: everything, for a person who asks, and the essential, before it is served."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from provider.engine.loading import ModelParts
from provider.engine.neighbours import precision_of
from provider.engine.verification.comparison import Comparison
from provider.engine.verification.contender import Contender
from provider.engine.verification.corpus import Corpus
from provider.engine.verification.peer import Peer, ids_agree, vectors_agree
from provider.engine.verification.reference import is_reference, loaded_reference
from provider.engine.verification.report import Check, Report, Side
from provider.engine.verification.thresholds import Thresholds
from provider.errors import VerificationFailed
from provider.settings import ModelSettings

# At the start: for so long the reference may embed.
_BRIEF_SECONDS = 4.0
_BRIEF_SAMPLE = 16
_SAME = "the configuration is the reference itself; its vectors are compared with themselves"

Steps = Iterator[tuple[str, Callable[[], Iterator[Check]]]]


def verify(
    parts: ModelParts,
    settings: ModelSettings,
    corpus: Corpus,
    thresholds: Thresholds,
    *,
    peer: Peer | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measure a loaded model against the reference in every way there is.

    Args:
        parts: the model; stays the caller's to close.
        settings: of the model.
        corpus: the texts.
        thresholds: what has to be reached.
        peer: another implementation to compare with.
        on_step: told what begins, for a progress display.

    Raises:
        VerificationFailed: a backend raised, or broke the protocol.
        BackendError, InvalidModel: the reference cannot be loaded.
    """

    def steps(comparison: Comparison) -> Steps:
        yield "comparing with the reference", comparison.vectors_are_sound
        yield "cutting long texts", comparison.cuts_are_right
        if peer is not None:
            yield (
                f"comparing token ids with {peer.name}",
                partial(ids_agree, peer, comparison.candidate, comparison.texts, comparison.inputs),
            )
        yield "comparing vectors", comparison.vectors_agree
        if peer is not None:
            least = thresholds.min_cosine
            yield (
                f"comparing with {peer.name}",
                partial(vectors_agree, peer, comparison.candidate, comparison.texts, comparison.answers, least=least),
            )
        yield "searching", comparison.retrieval_agrees
        yield "ranking", comparison.ranks_agree
        yield "measuring speed", lambda: comparison.speed(peer)

    on_step("loading the reference")
    candidate = Contender.of(parts, settings)
    with _reference(parts, settings, candidate, one_lane=False) as reference:
        return _report(parts, settings, Comparison(candidate, reference, corpus, thresholds), steps, on_step)


def verify_briefly(parts: ModelParts, settings: ModelSettings) -> Report:
    """Measure a loaded model on a few dozen texts, in a few seconds.

    No other thread may use the backend meanwhile. The reference's memory is free again afterwards.

    Raises:
        VerificationFailed: the backend raised, or broke the protocol.
        BackendError, InvalidModel: the reference cannot be loaded.
    """

    def steps(comparison: Comparison) -> Steps:
        yield "", comparison.vectors_are_sound
        yield "", comparison.cuts_are_right
        yield "", comparison.vectors_agree

    thresholds = Thresholds.of(parts.backend.traits.dtype)
    if settings.verify_min_cosine is not None:
        thresholds = thresholds.with_min_cosine(settings.verify_min_cosine)
    candidate = Contender.of(parts, settings)
    with _reference(parts, settings, candidate, one_lane=True) as reference:
        comparison = Comparison(
            candidate, reference, Corpus.short(), thresholds, budget_seconds=_BRIEF_SECONDS, most_sampled=_BRIEF_SAMPLE
        )
        return _report(parts, settings, comparison, steps, lambda _: None)


def check_passed(report: Report) -> None:
    """Refuse a model whose report is not good enough.

    Raises:
        VerificationFailed: naming the figure, what is allowed, and what to do.
    """
    failed = report.first_failure
    if failed is None:
        return
    msg = (
        f"the model {report.model!r} on backend {report.candidate.backend!r} with dtype {report.candidate.dtype} "
        f"drifts from its float32 reference: {failed.sentence}. `emb-provider verify` shows every figure; choose "
        "another dtype or backend, lower model.verify_min_cosine, or set model.verify_at_start to false"
    )
    raise VerificationFailed(msg)


def _reference(
    parts: ModelParts, settings: ModelSettings, candidate: Contender, *, one_lane: bool
) -> AbstractContextManager[Contender]:
    if is_reference(settings, parts.backend):
        return nullcontext(candidate)
    return loaded_reference(parts, settings, one_lane=one_lane)


def _report(
    parts: ModelParts,
    settings: ModelSettings,
    comparison: Comparison,
    steps: Callable[[Comparison], Steps],
    on_step: Callable[[str], None],
) -> Report:
    started = time.monotonic()
    checks: list[Check] = []
    for name, measure in steps(comparison):
        on_step(name)
        checks += measure()
    candidate, reference = comparison.candidate, comparison.reference
    is_same = reference is candidate
    return Report(
        model=settings.served_name,
        fingerprint=parts.fingerprint,
        candidate=_side(candidate),
        reference=_side(reference),
        is_reference=is_same,
        precision=precision_of(candidate.backend.traits.dtype),
        thresholds=comparison.thresholds,
        texts=len(comparison.texts),
        checks=tuple(checks),
        worst=comparison.worst(),
        drift=1.0 - comparison.cosine,
        neighbour_drift=1.0 - comparison.invariance.cosine,
        notes=(_SAME,) if is_same else (),
        seconds=time.monotonic() - started,
    )


def _side(contender: Contender) -> Side:
    traits = contender.backend.traits
    return Side(contender.name, traits.device, traits.dtype, dict(traits.extra))
