"""`emb-provider doctor` from outside."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import clean_environment

from provider.testing.tiny import tiny_bert, tiny_classifier

ONLY = ("--backend", "torch", "--backend", "example")


def doctor(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "provider", "doctor", *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(HF_HUB_OFFLINE="1"),
        cwd=folder,
        timeout=240,
        check=False,
    )


def trials_of(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["backend"], each["dtype"]): each for each in document["recommendation"]["trials"]}


def test_the_machine_is_described_for_people_and_programs(tmp_path: Path) -> None:
    shown = doctor(tmp_path, "--no-measure")
    assert shown.returncode == 0, shown.stderr
    for name in ("cores", "instructions", "memory", "torch", "CUDA", "MPS", "CPU kernels", "backend", "cache store"):
        assert f"\n{name} " in shown.stdout
    document = json.loads(doctor(tmp_path, "--no-measure", "--json").stdout)
    assert {each["name"] for each in document["machine"]["backends"]} >= {"torch", "torch-compile", "example"}
    assert (document["recommendation"], document["problem"]) == (None, None)
    assert document["cache_store"]["name"] == "memory"
    assert set(document["cache_store"]["installed"]) >= {"memory", "disk"}


@pytest.mark.slow
def test_backends_are_measured_and_the_one_with_right_vectors_is_recommended(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model")
    done = doctor(tmp_path, str(model), *ONLY, "--seconds", "120", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    trials = trials_of(document)
    assert trials["torch", "float32"]["is_exact"]
    assert trials["torch", "float32"]["ratio"] == 1.0
    # It hashes tokens: quick, and another model's vectors.
    assert trials["example", "float32"]["agreement"] < 0.9
    assert not trials["example", "float32"]["is_exact"]
    assert "unknown dtype 'int8'" in trials["example", "int8"]["problem"]
    assert document["recommendation"]["exact"]["backend"] == "torch"
    assert "comparing outputs" in done.stderr


@pytest.mark.slow
def test_a_reranker_is_compared_by_its_scores(tmp_path: Path) -> None:
    model = tiny_classifier(tmp_path / "model")
    done = doctor(tmp_path, str(model), "--backend", "torch", "--seconds", "120")
    assert done.returncode == 0, done.stderr
    assert "\nrecommended: emb-provider serve --backend torch --dtype " in done.stdout


def test_a_model_that_is_not_here_is_a_problem_and_no_download(tmp_path: Path) -> None:
    done = doctor(tmp_path, "nobody/nothing", "--json")
    assert done.returncode == 1
    assert "emb-provider download nobody/nothing" in json.loads(done.stdout)["problem"]


@pytest.mark.slow
def test_the_time_is_bounded_and_what_did_not_load_says_so(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model")
    done = doctor(tmp_path, str(model), *ONLY, "--seconds", "1", "--json")
    assert done.returncode == 1
    problems = [each["problem"] for each in trials_of(json.loads(done.stdout)).values()]
    assert all("time left" in each or "not ready after" in each or "dtype" in each for each in problems)
