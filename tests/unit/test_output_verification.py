"""`verify` on sparse, multi-vector and several outputs: every one is compared, and a failure says which, and where."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from click.testing import CliRunner

from provider.cli import cli
from provider.domain import Outputs, SparseVector, TokenBatch
from provider.engine.finding import find_model
from provider.engine.loading import ModelParts, load_parts
from provider.errors import SettingsError
from provider.settings import HubSettings, ModelSettings
from provider.testing.tiny import (
    tiny_bert,
    tiny_bge_m3,
    tiny_classifier,
    tiny_multi_vector,
    tiny_opensearch,
    tiny_pylate,
    tiny_router,
    tiny_splade,
)
from provider.verification import (
    Corpus,
    VectorComparison,
    VectorThresholds,
    VerificationReport,
    load_peer,
    verify_briefly,
)
from provider.verification.answers import agreement, relevance
from provider.verification.peer import vectors_agree
from provider.verification.runner import ModelRunner
from provider.verification.search import ranks_agree, search_agrees
from provider.verification.token_ids import cuts_are_right, ids_agree


@contextmanager
def loaded(folder: Path, **fields: Any) -> Iterator[tuple[ModelParts, ModelSettings]]:
    settings = ModelSettings(name="m", path=str(folder), tune=False, **fields)
    found = find_model(settings, HubSettings(), show_progress=False, notify_download=lambda *_: None)
    parts = load_parts(found, settings)
    try:
        yield parts, settings
    finally:
        parts.backend.close()


class Spoilt:
    """A loaded backend whose outputs are changed."""

    def __init__(self, backend: Any, output: str, change: Callable[[Any], Any]) -> None:
        self._backend, self._output, self._change = backend, output, change
        self.traits = backend.traits

    def run(self, batch: TokenBatch) -> Outputs:
        outputs = self._backend.run(batch)
        return {**outputs, self._output: [self._change(row) for row in outputs[self._output]]}


def spoilt(folder: Path, output: str, change: Callable[[Any], Any]) -> VerificationReport:
    with loaded(folder) as (parts, settings):
        return verify_briefly(attrs.evolve(parts, backend=Spoilt(parts.backend, output, change)), settings)


@pytest.mark.parametrize(
    "make", [tiny_splade, tiny_opensearch, tiny_multi_vector, tiny_pylate, tiny_router], ids=lambda make: make.__name__
)
def test_ids_and_vectors_equal_sentence_transformers_for_documents_and_queries(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    with loaded(make(tmp_path / "m")) as (parts, settings):
        peer: Any
        peer, note = load_peer(parts)
        assert note is None
        runner = ModelRunner.of(parts, settings)
        corpus = attrs.evolve(Corpus.short(), queries=Corpus.bundled().queries[:4])
        comparison = VectorComparison(runner, runner, corpus, VectorThresholds.of("float32"))
        checks = [*cuts_are_right(comparison), *ids_agree(peer, comparison), *vectors_agree(peer, comparison)]
    assert [check.name for check in checks] == ["wrong_cuts", "wrong_ids", "min_cosine_peer"]
    assert all(check.passed for check in checks), [check.sentence for check in checks]


def test_every_output_of_a_model_is_compared_and_searched(tmp_path: Path) -> None:
    with loaded(tiny_bge_m3(tmp_path / "m", pickled=False)) as (parts, settings):
        runner = ModelRunner.of(parts, settings)
        corpus = attrs.evolve(Corpus.short(), pairs=Corpus.bundled().pairs[:5])
        comparison = VectorComparison(runner, runner, corpus, VectorThresholds.of("float32"), most_sampled=8)
        names = [
            check.name
            for step in (comparison.vectors_are_sound(), comparison.vectors_agree())
            for check in step
            if check.name.endswith(("min_cosine", "min_invariance"))
        ]
        assert sorted(names) == sorted(
            f"{output}{name}"
            for output in ("", "sparse_", "multi_vector_")
            for name in ("min_cosine", "min_invariance")
        )
        found = [*search_agrees(comparison), *ranks_agree(comparison)]
        assert [check.measured for check in found if check.name.endswith("top10_overlap")] == [1, 1, 1]
        assert sum(check.name.endswith("spearman_drop") for check in found) == 3
        _, note = load_peer(parts)
    assert note == "sparse and multi_vector: compared with the reference alone; sentence-transformers gives dense"


def test_a_single_wrong_token_vector_fails_and_is_named(tmp_path: Path) -> None:
    def change(vectors: Any) -> Any:
        changed = vectors.copy()
        if len(changed) > 40:
            changed[7] = changed[7][::-1]
        return changed

    failed = spoilt(tiny_multi_vector(tmp_path / "m"), "multi_vector", change).first_failure
    assert failed is not None
    # The answer has no vectors of two of the tokens before it, which are punctuation.
    assert (failed.name, failed.place) == ("min_cosine", "passages[0], vector 5")
    assert failed.sentence.startswith("multi_vector: same text, smallest cosine: ")


def test_a_wrong_second_output_fails_though_the_first_is_right(tmp_path: Path) -> None:
    report = spoilt(
        tiny_bge_m3(tmp_path / "m", pickled=False),
        "sparse",
        lambda vector: SparseVector(vector.ids, vector.weights[::-1].copy()),
    )
    assert report.first_failure is not None
    assert report.first_failure.name == "sparse_min_cosine"
    assert report.first_failure.sentence.startswith("sparse: same text, smallest cosine: ")
    assert max(report.drift["dense"]) < 1e-6


def test_sparse_weights_that_are_all_too_large_fail(tmp_path: Path) -> None:
    report = spoilt(
        tiny_splade(tmp_path / "m"), "sparse", lambda vector: SparseVector(vector.ids, vector.weights * np.float32(1.1))
    )
    assert report.first_failure is not None
    assert report.first_failure.name == "min_cosine"


def test_outputs_that_are_not_finite_are_counted_and_named(tmp_path: Path) -> None:
    report = spoilt(tiny_multi_vector(tmp_path / "m"), "multi_vector", lambda vectors: vectors * np.float32("nan"))
    failed = report.first_failure
    assert failed is not None
    assert (failed.name, failed.measured, failed.place) == ("not_finite", report.texts, "passages[0]")


@pytest.mark.slow
def test_the_reference_s_own_noise_stands_beside_every_bound(tmp_path: Path) -> None:
    with loaded(tiny_bert(tmp_path / "m")) as (parts, settings):
        runner = ModelRunner.of(parts, settings)
        corpus = attrs.evolve(Corpus.short(), pairs=Corpus.bundled().pairs[:5])
        of = VectorComparison(runner, runner, corpus, VectorThresholds.of("float32"), most_sampled=12)
        checks = [*of.vectors_are_sound(), *of.vectors_agree(), *search_agrees(of), *ranks_agree(of)]
        brief = verify_briefly(parts, settings)
    bounds = [check for check in checks if check.allowed]
    assert {check.name for check in bounds} >= {"min_invariance", "min_cosine", "top10_overlap", "spearman_drop"}
    assert all(check.noise is not None and 0 <= check.noise < 1e-6 for check in bounds)
    assert all(check.noise is None for check in brief.checks)


def test_a_bound_for_another_task_is_refused_and_the_right_one_named(tmp_path: Path) -> None:
    scores, vectors = tiny_classifier(tmp_path / "scores"), tiny_bert(tmp_path / "vectors")
    with loaded(scores, verify_min_cosine=0.9) as (parts, settings):
        with pytest.raises(SettingsError, match=r"'m' gives scores: set model\.verify_max_score_difference instead"):
            verify_briefly(parts, settings)
        loose = attrs.evolve(settings, verify_min_cosine=None, verify_max_score_difference=0.5)
        assert verify_briefly(parts, loose).thresholds.max_score_difference == 0.5
    with (
        loaded(vectors, verify_max_score_difference=0.5) as (parts, settings),
        pytest.raises(SettingsError, match=r"'m' gives vectors: set model\.verify_min_cosine instead"),
    ):
        verify_briefly(parts, settings)
    refused = CliRunner().invoke(cli, ["verify", str(vectors), "--no-peer", "--max-flips", "0.1"])
    assert refused.exit_code == 2
    assert "--max-flips is no bound for vectors" in refused.output


def test_answers_of_other_shapes_disagree_and_empty_ones_agree() -> None:
    tokens = np.eye(4, dtype=np.float32)
    empty = SparseVector(np.array([], np.int32), np.array([], np.float32))
    one = SparseVector(np.array([3], np.int32), np.array([2], np.float32))
    assert agreement(tokens, tokens[:3]) == agreement(None, tokens) == agreement(empty, one) == 0
    assert agreement(empty, empty) == agreement(tokens, tokens) == 1
    assert agreement(one, SparseVector(one.ids, one.weights * 2)) == pytest.approx(0.8)


def test_relevance_is_the_dot_product_and_max_sim_by_query_tokens() -> None:
    tokens = np.array([[1, 0], [0, 1]], np.float32)
    assert relevance([tokens], [tokens, tokens[:1], 2 * tokens]).tolist() == [[1, 0.5, 2]]
    one, other = (SparseVector(np.array(ids, np.int32), np.array([2, 3], np.float32)) for ids in ([1, 9], [9, 12]))
    assert relevance([one], [one, other]).tolist() == [[13, 6]]
