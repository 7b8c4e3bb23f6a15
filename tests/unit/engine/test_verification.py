"""Each way in which a backend can be wrong is caught by the check that says so; what is right passes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from provider.backends import ModelSpec, TokenBatch, Vectors
from provider.engine.batcher import BatchLimits
from provider.engine.hooks import Event, ModelState, ModelVerified
from provider.engine.loading import ModelParts, find_model, load_parts
from provider.engine.neighbours import precision_of
from provider.engine.plan import LanePlan
from provider.engine.tokenizer import Tokenizer
from provider.engine.verification import (
    Check,
    Comparison,
    Contender,
    Corpus,
    ScoredPair,
    Text,
    Thresholds,
    verify,
    verify_briefly,
)
from provider.engine.verification.measures import cosines, misplaced, overlap, spearman
from provider.engine.verification.peer import ids_agree, vectors_agree
from provider.engine.verification.reference import loaded_reference
from provider.engine.verification.speed import speedups
from provider.errors import VerificationFailed
from provider.settings import HubSettings, ModelSettings, Settings
from provider.testing import FakeBackend
from provider.testing.tiny import tiny_bert

DIMENSION = 16


class Drifting(FakeBackend):
    """Every vector is a little off."""

    def vector(self, ids: Any) -> Any:
        noise = np.random.default_rng(len(ids)).standard_normal(DIMENSION)
        return (super().vector(ids) + 0.1 * noise).astype(np.float32)


class DriftingOnOdd(FakeBackend):
    """Texts of one token (and its two special ones) are off."""

    def vector(self, ids: Any) -> Any:
        return super().vector(ids) * np.float32(-1 if len(ids) == 3 else 1)


class Leaking(FakeBackend):
    """The longest row of a batch shows in all of its vectors."""

    def embed(self, batch: TokenBatch) -> Vectors:
        share = (batch.lengths.max() - batch.lengths)[:, None] / batch.lengths.max()
        return (super().embed(batch) + 0.3 * share).astype(np.float32)


class Sorting(FakeBackend):
    """It sorts by length, longest first, and does not undo it."""

    def embed(self, batch: TokenBatch) -> Vectors:
        return super().embed(batch)[np.argsort(-batch.lengths, kind="stable")]


class Overflowing(FakeBackend):
    """Long rows come out as infinity."""

    def embed(self, batch: TokenBatch) -> Vectors:
        vectors = super().embed(batch)
        vectors[batch.lengths > 40] = np.inf
        return vectors


class Raising(FakeBackend):
    """It cannot."""

    def embed(self, batch: TokenBatch) -> Vectors:
        msg = "no such kernel"
        raise NotImplementedError(msg)


class Doubling(FakeBackend):
    """It answers float64."""

    def embed(self, batch: TokenBatch) -> Any:
        return super().embed(batch).astype(np.float64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("tiny") / "bert", prompts={"query": "the ", "document": ""})


@pytest.fixture(scope="module")
def contender(folder: Path) -> Callable[..., Contender]:
    spec = ModelSpec("m", folder, "none", DIMENSION, DIMENSION, 64, 64, ("mean",), "x")
    tokenizer = Tokenizer.from_folder(folder, max_tokens=64)

    def made(kind: type[FakeBackend] = FakeBackend, *, lanes: int = 1, padding_is_free: bool = False) -> Contender:
        limits = BatchLimits(8, 512, padding_is_free=padding_is_free)
        return Contender("fake", spec, tokenizer, kind(DIMENSION), lanes, limits)

    return made


def compared(candidate: Contender, reference: Contender, **more: Any) -> Comparison:
    return Comparison(candidate, reference, Corpus.bundled(), Thresholds.of("float32"), **more)


def failed(comparison: Comparison) -> list[str]:
    checks = [*comparison.vectors_are_sound(), *comparison.vectors_agree()]
    return [check.name for check in checks if not check.passed]


def load(folder: Path, **fields: Any) -> tuple[ModelParts, ModelSettings]:
    settings = ModelSettings(name="m", path=str(folder), **fields)
    found = find_model(settings, HubSettings(), show_progress=False, notify_download=lambda _phase, _detail: None)
    return load_parts(found, settings), settings


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("padding_is_free", [False, True])
def test_equal_backends_pass_however_they_are_batched(contender: Any, lanes: int, padding_is_free: bool) -> None:
    candidate = contender(lanes=lanes, padding_is_free=padding_is_free)
    assert failed(compared(candidate, contender())) == []


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (Drifting, "min_cosine"),
        (DriftingOnOdd, "min_odd_cosine"),
        (Leaking, "min_invariance"),
        (Sorting, "misplaced_rows"),
        (Overflowing, "not_finite"),
    ],
)
def test_the_first_check_that_fails_names_what_is_wrong(contender: Any, kind: Any, first: str) -> None:
    assert failed(compared(contender(kind), contender()))[0] == first


def test_a_backend_that_raises_or_answers_another_type_is_named(contender: Any) -> None:
    with pytest.raises(VerificationFailed, match=r"'fake' failed: NotImplementedError: no such kernel"):
        failed(compared(contender(Raising), contender()))
    with pytest.raises(VerificationFailed, match=r"answered float64 \(\d, 16\), expected float32 \(\d, 16\)"):
        failed(compared(contender(Doubling), contender()))


@pytest.mark.parametrize("limits", [BatchLimits(8, 512), BatchLimits(8, 512, equal_lengths=True), BatchLimits(1, 512)])
def test_every_batch_is_one_that_the_service_would_make(contender: Any, limits: BatchLimits) -> None:
    candidate = attrs.evolve(contender(), limits=limits)
    failed(compared(candidate, contender()))
    for batch in candidate.backend.batches:
        assert batch.rows == 1 or limits.hold(batch.rows, int(batch.lengths.max()), batch.tokens)
    assert max(batch.rows for batch in candidate.backend.batches) == limits.max_rows


def test_what_is_verified_has_the_lanes_threads_and_batches_that_the_service_was_tuned_to(folder: Path) -> None:
    parts, settings = load(folder)
    tuned = attrs.evolve(parts, plan=LanePlan(3, 1), limits=BatchLimits(max_rows=5, max_tokens=256, equal_lengths=True))
    candidate = Contender.of(tuned, settings)
    assert (candidate.lanes, candidate.limits) == (3, tuned.limits)
    assert candidate.backend is parts.backend
    parts.backend.close()


def test_a_budget_leaves_texts_out_but_compares_some(contender: Any) -> None:
    ticks = iter(range(1000))
    comparison = compared(contender(), contender(), budget_seconds=1.5, clock=lambda: next(ticks))
    assert failed(comparison) == []
    assert len(comparison.texts) == len(comparison.answers) == 16


def test_cuts_are_compared_with_the_library_s_own_truncation(contender: Any, folder: Path) -> None:
    right = contender()
    (check,) = compared(right, right).cuts_are_right()
    assert (check.measured, check.passed) == (0, True)
    # A tokenizer that cuts a token earlier than the limit says.
    shorter = attrs.evolve(right, tokenizer=Tokenizer.from_folder(folder, max_tokens=64))
    shorter.tokenizer._suffix = [*shorter.tokenizer._suffix, 3]
    (check,) = compared(shorter, right).cuts_are_right()
    assert (check.measured, check.passed) == (4, False)


def test_search_and_ranks_tell_drift_that_matters_from_drift_that_does_not(contender: Any) -> None:
    right, wrong = contender(), contender(Drifting)
    same = [*compared(contender(), right).retrieval_agrees(), *compared(contender(), right).ranks_agree()]
    assert [check.name for check in same] == ["top10_overlap", "spearman_reference", "spearman", "spearman_drop"]
    assert all(check.passed for check in same)
    off = {check.name: check for check in compared(wrong, right).retrieval_agrees()}
    assert 0 < off["top10_overlap"].measured < 0.99


def test_pairs_whose_texts_are_not_among_the_texts_are_embedded_too(contender: Any) -> None:
    pairs = (ScoredPair("the cat", "the dog", 3), ScoredPair("one", "two", 1), ScoredPair("a man", "the man", 5))
    corpus = Corpus((Text("the cat", "here"), Text("a", "there", "odd")), pairs)
    comparison = Comparison(contender(), contender(), corpus, Thresholds.of("float32"))
    figures = {check.name: check.measured for check in comparison.ranks_agree()}
    assert figures["spearman"] == figures["spearman_reference"]
    assert abs(figures["spearman"]) <= 100


def test_another_implementation_is_compared_and_told_prompt_and_limit(contender: Any) -> None:
    told: list[Any] = []

    class Peer:
        name = "peer 1.0"

        def vectors(self, texts: Any, prompt: str, max_tokens: int) -> Any:
            told.append((prompt, max_tokens))
            right = contender()
            return right.together(right.encode(texts))

        def ids(self, texts: Any, prompt: str, max_tokens: int, *, truncate: Any) -> Any:
            return [each.ids for each in contender().tokenizer.encode(texts, truncate=truncate)]

    def checks(kind: type[FakeBackend]) -> list[Check]:
        of = compared(contender(kind), contender())
        return [
            *ids_agree(Peer(), of.candidate, of.texts, of.inputs),
            *vectors_agree(Peer(), of.candidate, of.texts, of.answers, least=0.9999),
        ]

    assert [check.passed for check in checks(FakeBackend)] == [True, True]
    assert [check.passed for check in checks(Drifting)] == [True, False]
    assert told[0] == ("", 64)


@pytest.mark.parametrize(
    ("change", "count", "named"),
    [
        (lambda text, ids: ids[::-1] if text == "ALL CAPITALS ARE SHOUTING" else ids, 1, "odd[24]"),
        # Six passages, and two texts over the limit, cut at either end.
        (lambda text, ids: ids[1:] if len(ids) == 64 else ids, 10, "passages[0], passages[1], "),
    ],
)
def test_token_ids_that_differ_from_the_other_implementation_s_are_counted_and_named(
    contender: Any, change: Callable[[str, Any], Any], count: int, named: str
) -> None:
    class Peer:
        name = "peer 1.0"

        def vectors(self, texts: Any, prompt: str, max_tokens: int) -> Any:
            raise NotImplementedError

        def ids(self, texts: Any, prompt: str, max_tokens: int, *, truncate: Any) -> Any:
            encoded = contender().tokenizer.encode(texts, truncate=truncate)
            return [change(text, each.ids) for text, each in zip(texts, encoded, strict=True)]

    of = compared(contender(), contender())
    (check,) = ids_agree(Peer(), of.candidate, of.texts, of.inputs)
    assert (check.measured, check.passed) == (count, False)
    assert named in check.advice


def test_speed_is_the_median_of_ratios_within_rounds() -> None:
    now = 0.0

    def work(seconds: float) -> Callable[[], None]:
        def run() -> None:
            nonlocal now
            now += seconds

        return run

    found = speedups(work(1.0), {"slow": work(2.5)}, clock=lambda: now)

    assert (found["slow"].median, found["slow"].least, found["slow"].most) == (2.5, 2.5, 2.5)


def test_spearman_equals_scipy_s_with_ties_and_without() -> None:
    from scipy.stats import spearmanr

    random = np.random.default_rng(3)
    for _ in range(5):
        a, b = random.integers(0, 6, 50).astype(float), random.standard_normal(50)
        assert spearman(a, b) == pytest.approx(100 * spearmanr(a, b).statistic)
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_cosines_are_never_above_one_and_misplaced_rows_are_told_from_wrong_ones() -> None:
    vectors = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    assert cosines(vectors, vectors).max() <= 1
    assert misplaced(vectors[::-1], vectors, same=0.999).all()
    assert not misplaced(vectors, vectors, same=0.999).any()
    assert not misplaced(-vectors, vectors, same=0.999).any()
    assert overlap(np.array([[1, 2, 3, 4]]), np.array([[4, 3, 9, 8]])) == 0.5


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("float32", "float32"), ("bfloat16", "half"), ("f16", "half"), ("int8", "int8"), ("uint8-dynamic", "int8")],
)
def test_thresholds_follow_the_class_of_the_dtype(dtype: str, precision: str) -> None:
    assert precision_of(dtype) == precision


def test_a_smallest_cosine_of_one_s_own_moves_what_follows_from_it() -> None:
    usual = Thresholds.of("int8")
    looser, stricter = usual.with_min_cosine(0.9), usual.with_min_cosine(0.99)
    assert (looser.min_cosine, looser.min_mean_cosine) == (0.9, 0.9)
    assert looser.min_odd_cosine == pytest.approx(0.78)
    assert (stricter.min_cosine, stricter.min_mean_cosine) == (0.99, 0.99)


def test_a_figure_that_could_not_be_measured_does_not_pass() -> None:
    assert not Check("x", "x", float("nan"), 0.5).passed
    assert not Check("x", "x", float("nan"), 0.5, "most").passed
    assert Check("x", "x", float("nan")).passed


def test_the_bundled_texts_are_of_every_kind_each_with_a_place_of_its_own() -> None:
    whole, short = Corpus.bundled(), Corpus.short()
    assert {text.kind for text in whole.texts} == {text.kind for text in short.texts} == {"sentence", "passage", "odd"}
    assert len(whole.texts) > 150
    assert 20 < len(short.texts) < 50
    assert len({text.place for text in whole.texts}) == len({text.text for text in whole.texts}) == len(whole.texts)
    assert len(whole.pairs) > 200
    assert all(0 <= pair.score <= 5 for pair in whole.pairs)
    assert all(len(text.text) > 512 * 8 for text in whole.longer_than(512))


def test_the_reference_s_memory_is_freed_when_it_is_done(folder: Path) -> None:
    parts, settings = load(folder)
    with loaded_reference(parts, settings) as reference:
        backend = reference.backend
        assert (backend.traits.dtype, backend.traits.extra["attention"]) == ("float32", "eager")
    with pytest.raises(RuntimeError, match="closed"):
        backend.embed(TokenBatch.of_rows([np.array([1], np.int32)]))


def test_the_whole_verification_passes_on_a_small_model_and_says_every_figure(folder: Path) -> None:
    parts, settings = load(folder)
    steps: list[str] = []
    report = verify(parts, settings, Corpus.bundled(), Thresholds.of("float32"), on_step=steps.append)
    assert (report.passed, report.first_failure, report.is_reference) == (True, None, False)
    assert report.figures().keys() >= {"min_cosine", "wrong_cuts", "top10_overlap", "spearman_drop", "speedup"}
    assert report.texts == len(report.drift) == len(Corpus.bundled().texts) + 2
    assert "measuring speed" in steps
    assert "text" not in report.document()["worst"][0]
    assert report.document(with_texts=True)["worst"][0]["text"]


def test_the_reference_itself_is_recognised_and_passes_without_a_second_copy(folder: Path) -> None:
    parts, settings = load(folder, options={"attention": "eager", "packed": False})
    report = verify_briefly(parts, settings)
    assert (report.passed, report.is_reference) == (True, True)
    assert "the reference itself" in report.notes[0]
    assert not verify_briefly(*load(folder, options={"attention": "eager"})).is_reference


async def test_a_model_that_drifts_is_not_served_and_the_reason_says_what_to_do(
    open_service: Any, folder: Path
) -> None:
    model = ModelSettings(name="m", path=str(folder), backend="fake", verify_at_start=True)
    events: list[Event] = []
    async with open_service(Settings(model=model), events=events) as service:
        runtime = service.runtimes["m"]
        assert runtime.state is ModelState.FAILED
        reason = runtime.failure.message
        assert "smallest cosine: " in reason
        assert "allowed at least 0.999900" in reason
        assert "model.verify_at_start" in reason
        assert "\n" not in reason
        assert runtime.verified is not None
        (event,) = [each for each in events if isinstance(each, ModelVerified)]
        assert (event.passed, event.figures["failed"]) == (False, "min_cosine")


async def test_a_model_that_agrees_is_served_and_a_looser_bound_lets_others_pass(
    open_service: Any, folder: Path
) -> None:
    right = ModelSettings(name="right", path=str(folder), verify_at_start=True)
    loose = ModelSettings(name="loose", path=str(folder), dtype="bfloat16", verify_at_start=True, verify_min_cosine=0.5)
    off = ModelSettings(name="off", path=str(folder))
    async with open_service(Settings(model=right, models=[loose, off])) as service:
        found = {name: runtime.state for name, runtime in service.runtimes.items()}
        assert set(found.values()) == {ModelState.READY}
        assert service.runtimes["right"].verified.passed
        assert service.runtimes["loose"].verified.thresholds.min_cosine == 0.5
        assert service.runtimes["off"].verified is None
