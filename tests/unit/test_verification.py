"""Each way in which a backend can be wrong is caught by the check that says so; what is right passes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from provider.backends import ModelSpec, TokenBatch, Vectors
from provider.domain import DenseTask
from provider.engine.finding import find_model
from provider.engine.hooks import Event, ModelState, ModelVerified
from provider.engine.limits import BatchLimits
from provider.engine.loading import ModelParts, load_parts
from provider.engine.neighbours import precision_of
from provider.engine.plan import LanePlan
from provider.engine.tokenizer import Tokenizer
from provider.errors import VerificationFailed
from provider.settings import HubSettings, ModelSettings, Settings
from provider.testing import FakeBackend
from provider.testing.tiny import tiny_bert
from provider.verification import (
    Check,
    Corpus,
    ScoredPair,
    Text,
    VectorComparison,
    VectorThresholds,
    verify,
    verify_briefly,
)
from provider.verification.answers import agreements, misplaced
from provider.verification.measures import overlap, spearman
from provider.verification.peer import vectors_agree
from provider.verification.reference import loaded_reference
from provider.verification.runner import ModelRunner
from provider.verification.search import ranks_agree, search_agrees
from provider.verification.speed import speedups
from provider.verification.token_ids import cuts_are_right, ids_agree

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

    def vectors(self, batch: TokenBatch) -> Vectors:
        share = (batch.lengths.max() - batch.lengths)[:, None] / batch.lengths.max()
        return (super().vectors(batch) + 0.3 * share).astype(np.float32)


class Sorting(FakeBackend):
    """It sorts by length, longest first, and does not undo it."""

    def vectors(self, batch: TokenBatch) -> Vectors:
        return super().vectors(batch)[np.argsort(-batch.lengths, kind="stable")]


class Overflowing(FakeBackend):
    """Long rows come out as infinity."""

    def vectors(self, batch: TokenBatch) -> Vectors:
        vectors = super().vectors(batch)
        vectors[batch.lengths > 40] = np.inf
        return vectors


class Raising(FakeBackend):
    """It cannot."""

    def vectors(self, batch: TokenBatch) -> Vectors:
        msg = "no such kernel"
        raise NotImplementedError(msg)


class Doubling(FakeBackend):
    """It answers float64."""

    def vectors(self, batch: TokenBatch) -> Any:
        return super().vectors(batch).astype(np.float64)


class CuttingEarly(Tokenizer):
    """It loses the last token before the special one."""

    def encode(self, texts: Any, **options: Any) -> Any:
        encoded = super().encode(texts, **options)
        return [
            attrs.evolve(each, features=attrs.evolve(each.features, ids=np.delete(each.ids, -2))) for each in encoded
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("tiny") / "bert", prompts={"query": "the ", "document": ""})


@pytest.fixture(scope="module")
def runner(folder: Path) -> Callable[..., ModelRunner]:
    spec = ModelSpec("m", folder, "none", DIMENSION, 64, 64, "x", (DenseTask(DIMENSION),))
    tokenizer = Tokenizer.from_folder(folder, max_tokens=64)

    def made(kind: type[FakeBackend] = FakeBackend, *, lanes: int = 1, padding_is_free: bool = False) -> ModelRunner:
        limits = BatchLimits(8, 512, padding_is_free=padding_is_free)
        return ModelRunner("fake", spec, tokenizer, kind(DIMENSION), lanes, limits)

    return made


def compared(candidate: ModelRunner, reference: ModelRunner, **more: Any) -> VectorComparison:
    return VectorComparison(candidate, reference, Corpus.bundled(), VectorThresholds.of("float32"), **more)


def failed(comparison: VectorComparison) -> list[str]:
    checks = [*comparison.vectors_are_sound(), *comparison.vectors_agree()]
    return [check.name for check in checks if not check.passed]


def load(folder: Path, **fields: Any) -> tuple[ModelParts, ModelSettings]:
    settings = ModelSettings(name="m", path=str(folder), **fields)
    found = find_model(settings, HubSettings(), show_progress=False, notify_download=lambda _phase, _detail: None)
    return load_parts(found, settings), settings


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("padding_is_free", [False, True])
def test_equal_backends_pass_however_they_are_batched(runner: Any, lanes: int, padding_is_free: bool) -> None:
    candidate = runner(lanes=lanes, padding_is_free=padding_is_free)
    assert failed(compared(candidate, runner())) == []


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
def test_the_first_check_that_fails_names_what_is_wrong(runner: Any, kind: Any, first: str) -> None:
    assert failed(compared(runner(kind), runner()))[0] == first


def test_a_backend_that_raises_or_answers_another_type_is_named(runner: Any) -> None:
    with pytest.raises(VerificationFailed, match=r"'fake' failed: NotImplementedError: no such kernel"):
        failed(compared(runner(Raising), runner()))
    with pytest.raises(VerificationFailed, match=r"answered float64 \(\d, 16\), expected float32 \(\d, 16\)"):
        failed(compared(runner(Doubling), runner()))


@pytest.mark.parametrize("limits", [BatchLimits(8, 512), BatchLimits(8, 512, equal_lengths=True), BatchLimits(1, 512)])
def test_every_batch_is_one_that_the_service_would_make(runner: Any, limits: BatchLimits) -> None:
    candidate = attrs.evolve(runner(), limits=limits)
    failed(compared(candidate, runner()))
    for batch in candidate.backend.batches:
        assert batch.rows == 1 or limits.hold(batch.rows, int(batch.lengths.max()), batch.tokens)
    assert max(batch.rows for batch in candidate.backend.batches) == limits.max_rows


def test_what_is_verified_has_the_lanes_threads_and_batches_that_the_service_was_tuned_to(folder: Path) -> None:
    parts, settings = load(folder)
    tuned = attrs.evolve(parts, plan=LanePlan(3, 1), limits=BatchLimits(max_rows=5, max_tokens=256, equal_lengths=True))
    candidate = ModelRunner.of(tuned, settings)
    assert (candidate.lanes, candidate.limits) == (3, tuned.limits)
    assert candidate.backend is parts.backend
    parts.backend.close()


def test_a_budget_leaves_texts_out_but_compares_some(runner: Any) -> None:
    ticks = iter(range(1000))
    comparison = compared(runner(), runner(), budget_seconds=1.5, clock=lambda: next(ticks))
    assert failed(comparison) == []
    assert len(comparison.texts) == len(comparison.answers["dense"]) == 16


def test_cuts_are_compared_with_the_library_s_own_truncation(runner: Any, folder: Path) -> None:
    right = runner()
    (check,) = cuts_are_right(compared(right, right))
    assert (check.measured, check.passed) == (0, True)
    shorter = attrs.evolve(right, tokenizer=CuttingEarly.from_folder(folder, max_tokens=64))
    (check,) = cuts_are_right(compared(shorter, right))
    assert (check.measured, check.passed) == (4, False)


def test_search_and_ranks_tell_drift_that_matters_from_drift_that_does_not(runner: Any) -> None:
    right, wrong = runner(), runner(Drifting)
    same = [*search_agrees(compared(runner(), right)), *ranks_agree(compared(runner(), right))]
    assert [check.name for check in same] == ["top10_overlap", "spearman_reference", "spearman", "spearman_drop"]
    assert all(check.passed for check in same)
    off = {check.name: check for check in search_agrees(compared(wrong, right))}
    assert 0 < off["top10_overlap"].measured < 0.99


def test_pairs_whose_texts_are_not_among_the_texts_are_embedded_too(runner: Any) -> None:
    pairs = (ScoredPair("the cat", "the dog", 3), ScoredPair("one", "two", 1), ScoredPair("a man", "the man", 5))
    corpus = Corpus((Text("the cat", "here"), Text("a", "there", "odd")), pairs)
    comparison = VectorComparison(runner(), runner(), corpus, VectorThresholds.of("float32"))
    figures = {check.name: check.measured for check in ranks_agree(comparison)}
    assert figures["spearman"] == figures["spearman_reference"]
    assert abs(figures["spearman"]) <= 100


def test_another_implementation_is_compared_and_told_prompt_and_limit(runner: Any) -> None:
    told: list[Any] = []

    class Peer:
        name, output = "peer 1.0", "dense"

        def outputs(self, texts: Any, prompt: str, max_tokens: int, role: Any) -> Any:
            told.append((prompt, max_tokens, role))
            right = runner()
            return [row["dense"] for row in right.run(right.encode(texts))]

        def ids(self, texts: Any, prompt: str, max_tokens: int, role: Any, *, truncate: Any) -> Any:
            return [each.ids for each in runner().tokenizer.encode(texts, truncate=truncate)]

    def checks(kind: type[FakeBackend]) -> list[Check]:
        of = compared(runner(kind), runner())
        return [
            *ids_agree(Peer(), of),
            *vectors_agree(Peer(), of),
        ]

    assert [check.passed for check in checks(FakeBackend)] == [True, True]
    assert [check.passed for check in checks(Drifting)] == [True, False]
    assert told[:2] == [("", 64, None), ("", 64, "query")]


@pytest.mark.parametrize(
    ("change", "count", "named"),
    [
        (lambda text, ids: ids[::-1] if text == "ALL CAPITALS ARE SHOUTING" else ids, 2, "odd[24], odd[24] as query"),
        # Six passages, and two texts over the limit, both also as queries; these two cut at their start, too.
        (lambda text, ids: ids[1:] if len(ids) == 64 else ids, 18, "passages[0], passages[1], "),
    ],
)
def test_token_ids_that_differ_from_the_other_implementation_s_are_counted_and_named(
    runner: Any, change: Callable[[str, Any], Any], count: int, named: str
) -> None:
    class Peer:
        name, output = "peer 1.0", "dense"

        def outputs(self, texts: Any, prompt: str, max_tokens: int, role: Any) -> Any:
            raise NotImplementedError

        def ids(self, texts: Any, prompt: str, max_tokens: int, role: Any, *, truncate: Any) -> Any:
            encoded = runner().tokenizer.encode(texts, truncate=truncate)
            return [change(text, each.ids) for text, each in zip(texts, encoded, strict=True)]

    of = compared(runner(), runner())
    (check,) = ids_agree(Peer(), of)
    assert (check.measured, check.passed) == (count, False)
    assert named in check.place


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
    answers, others = list(vectors[:, None]), list(-vectors[:, None])
    assert agreements(vectors, vectors).max() <= 1
    assert misplaced(answers[::-1], answers, same=0.999) == [0, 1, 2, 3, 4, 5]
    assert misplaced(answers, answers, same=0.999) == misplaced(others, answers, same=0.999) == []
    assert overlap(np.array([[1, 2, 3, 4]]), np.array([[4, 3, 9, 8]])) == 0.5


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("float32", "float32"), ("bfloat16", "half"), ("f16", "half"), ("int8", "int8"), ("uint8-dynamic", "int8")],
)
def test_thresholds_follow_the_class_of_the_dtype(dtype: str, precision: str) -> None:
    assert precision_of(dtype) == precision


def test_a_smallest_cosine_of_one_s_own_moves_what_follows_from_it() -> None:
    usual = VectorThresholds.of("int8")
    looser, stricter = (usual.configured(ModelSettings(verify_min_cosine=least)) for least in (0.9, 0.99))
    assert (looser.min_cosine, looser.min_mean_cosine) == (0.9, 0.9)
    assert looser.min_odd_cosine == pytest.approx(0.78)
    assert (stricter.min_cosine, stricter.min_mean_cosine) == (0.99, 0.99)


def test_a_figure_that_could_not_be_measured_does_not_pass() -> None:
    assert not Check("x", "x", float("nan"), 0.5).passed
    assert not Check("x", "x", float("nan"), 0.5, "most").passed
    assert Check("x", "x", float("nan")).passed


def test_the_bundled_texts_are_of_every_kind_each_with_a_place_of_its_own() -> None:
    whole, short = Corpus.bundled(), Corpus.short()
    kinds = [{text.kind for text in (*each.texts, *each.query_texts)} for each in (whole, short)]
    assert kinds == [{"sentence", "passage", "odd", "query"}] * 2
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
        backend.run(TokenBatch.of_rows([np.array([1], np.int32)]))["dense"]


def test_the_whole_verification_passes_on_a_small_model_and_says_every_figure(folder: Path) -> None:
    parts, settings = load(folder)
    steps: list[str] = []
    report = verify(parts, settings, Corpus.bundled(), VectorThresholds.of("float32"), on_step=steps.append)
    assert (report.passed, report.first_failure, report.is_reference) == (True, None, False)
    assert report.figures().keys() >= {"min_cosine", "wrong_cuts", "top10_overlap", "spearman_drop", "speedup"}
    assert report.texts == len(report.drift["dense"]) == len(Corpus.bundled().texts) + 2 + 32
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
