"""`verify` on models that give scores: the figures, and what they catch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from click.testing import CliRunner

from provider.cli import cli
from provider.domain import SCORES, Outputs, TokenBatch
from provider.engine.finding import find_model
from provider.engine.loading import ModelParts, load_parts
from provider.settings import HubSettings, ModelSettings
from provider.testing.tiny import tiny_classifier, tiny_reranker
from provider.verification import Corpus, VerificationReport, load_peer, thresholds_for, verify, verify_briefly
from provider.verification.measures import kendall


@contextmanager
def loaded(folder: Path, **options: Any) -> Iterator[tuple[ModelParts, ModelSettings]]:
    settings = ModelSettings(name="m", path=str(folder), options=options, tune=False)
    found = find_model(settings, HubSettings(), show_progress=False, notify_download=lambda *_: None)
    parts = load_parts(found, settings)
    try:
        yield parts, settings
    finally:
        parts.backend.close()


class Wrapped:
    """A loaded backend whose logits go through a function first."""

    def __init__(self, backend: Any, change: Any) -> None:
        self._backend, self._change = backend, change
        self.traits = backend.traits

    def run(self, batch: TokenBatch) -> Outputs:
        return {SCORES: self._change(self._backend.run(batch)[SCORES])}


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.slow
def test_a_packed_classifier_is_measured_against_the_padded_one_and_cross_encoder(labels: int, tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m", labels=labels)
    with loaded(folder) as (parts, settings):
        peer, _ = load_peer(parts)
        thresholds = thresholds_for(parts.spec, "float32", settings)
        report = verify(parts, settings, Corpus.bundled(), thresholds, peer=peer)
    assert report.passed, report.first_failure
    figures = report.figures()
    assert figures["flips"] == 0
    assert figures["kendall_tau"] == 1
    assert figures["wrong_ids"] == 0
    assert all(0 <= check.noise < 1e-5 for check in report.checks if check.name.endswith("_difference"))
    assert {"speedup", "speedup_peer", "max_score_difference_peer"} <= figures.keys()
    assert report.worst[0].place.startswith("queries[")


def test_a_causal_reranker_is_verified_at_the_start(tmp_path: Path) -> None:
    with loaded(tiny_reranker(tmp_path / "m")) as (parts, settings):
        report = verify_briefly(parts, settings)
    assert report.passed, report.first_failure


def _changed(tmp_path: Path, change: Any) -> VerificationReport:
    with loaded(tiny_classifier(tmp_path / "m", activation_fn="Identity")) as (parts, settings):
        wrong = attrs.evolve(parts, backend=Wrapped(parts.backend, change))
        return verify_briefly(wrong, settings)


def test_other_scores_fail(tmp_path: Path) -> None:
    report = _changed(tmp_path, lambda logits: logits + np.float32(0.01))
    assert report.first_failure is not None
    assert report.first_failure.name == "max_score_difference"


def test_another_order_is_flips_and_a_lower_tau(tmp_path: Path) -> None:
    report = _changed(tmp_path, np.negative)
    failed = {check.name for check in report.checks if not check.passed}
    assert {"flips", "kendall_tau"} <= failed


def test_scores_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    report = _changed(tmp_path, lambda logits: logits * np.float32("nan"))
    assert report.first_failure is not None
    assert report.first_failure.name == "not_finite"


def test_kendall_counts_pairs_and_leaves_ties_out() -> None:
    a = np.array([1.0, 2.0, 3.0])
    assert kendall(a, a, tie=0) == 1
    assert kendall(a, -a, tie=0) == -1
    assert kendall(a, np.array([1.0, 3.0, 2.0]), tie=0) == pytest.approx(1 / 3)
    assert kendall(a, np.array([1.0, 3.0, 2.9999]), tie=0.001) == 1


def test_the_command_refuses_bounds_for_vectors_and_keeps_that_for_speed(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m")
    refused = CliRunner().invoke(cli, ["verify", str(folder), "--no-peer", "--min-cosine", "0.9"])
    assert refused.exit_code != 0
    assert "--min-cosine is no bound for scores" in refused.output
    assert "--max-score-difference, --max-flips" in refused.output
    slow = CliRunner().invoke(cli, ["verify", str(folder), "--no-peer", "--min-speedup", "1000"])
    assert slow.exit_code == 1
    assert "FAILED: times as fast as the reference" in slow.output
