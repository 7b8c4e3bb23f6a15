"""`backend: auto` is the fastest that gives what torch gives: measured once, kept, and torch where that cannot be."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from provider.engine import choosing
from provider.engine.choosing import check_auto, choose_backend, tell_faster
from provider.engine.engine import Engine
from provider.errors import SettingsError
from provider.server.preflight import check_models
from provider.settings import HubSettings, ModelSettings, Settings
from provider.testing.tiny import tiny_bert

AUTO = ModelSettings("m", "/somewhere/model", backend="auto", max_context_length=99)


def trial(backend: str, ratio: float | None, *, is_exact: bool = True, **more: Any) -> dict[str, Any]:
    agreement = 1.0 if is_exact else 0.5
    return {
        "backend": backend,
        "dtype": "float32",
        "device": "cpu",
        "ratio": ratio,
        "agreement": agreement,
        "is_exact": is_exact,
        "problem": None if ratio else "it broke",
    } | more


TORCH, QUICK = trial("torch", 1.0), trial("fake", 2.0)


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of Python: it notes its arguments and configuration, and prints `answer`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EMB_PROVIDER_BACKEND", "auto")
    program = tmp_path / "python"
    program.write_text(
        f'#!/bin/sh\ncd {tmp_path}\necho "$@" >> asked\nfor last; do true; done\ncat "$last" > config\n'
        'echo "${EMB_PROVIDER_BACKEND:-none}" > environment\ncat answer\n'
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    answer(tmp_path, TORCH, QUICK)
    return tmp_path


def answer(folder: Path, *trials: dict[str, Any], problem: str | None = None) -> None:
    recommendation = None if problem else {"model": "m", "seconds": 1.0, "trials": trials, "exact": None}
    (folder / "answer").write_text(json.dumps({"machine": {}, "recommendation": recommendation, "problem": problem}))


def asked(folder: Path) -> int:
    return len((folder / "asked").read_text().splitlines()) if (folder / "asked").exists() else 0


def chosen(settings: ModelSettings = AUTO, model: str = "digest") -> str:
    return choose_backend(settings, HubSettings(offline=True), model=model)


def test_a_choice_is_measured_once_for_each_model_and_said(doctor: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert [chosen(), chosen(), chosen(model="another")] == ["fake"] * 3
    assert asked(doctor) == 2
    assert "backend auto is fake (measured: torch 1.00, fake 2.00)" in caplog.text
    assert "backend auto is fake (remembered: torch 1.00, fake 2.00)" in caplog.text


def test_the_model_is_measured_as_it_is_set(doctor: Path) -> None:
    chosen()
    assert "doctor --json --exact" in (doctor / "asked").read_text()
    given = json.loads((doctor / "config").read_text())
    model = {"name": "m", "path": "/somewhere/model", "backend": "torch", "max_context_length": 99}
    assert given == {"model": model, "hub": {"offline": True}}
    assert (doctor / "environment").read_text() == "none\n"


@pytest.mark.parametrize(
    ("trials", "backend", "words"),
    [
        ([TORCH, trial("fake", 1.05)], "torch", "fake 1.05"),
        ([TORCH, trial("fake", 0.5)], "torch", "fake 0.50"),
        ([TORCH, QUICK, trial("hash", 30.0, is_exact=False)], "fake", "outputs are not torch's (agreement 0.5)"),
        ([TORCH, trial("fake", None)], "torch", "fake left out, as it broke"),
        ([trial("torch", 1.0, device="cuda:0"), trial("fake", 2.0, device="cuda:0")], "torch", "it runs on cuda:0"),
        ([], "torch", "measured: "),
    ],
)
def test_only_what_is_exact_and_clearly_faster_takes_the_place_of_torch(
    doctor: Path, caplog: pytest.LogCaptureFixture, trials: list[dict[str, Any]], backend: str, words: str
) -> None:
    caplog.set_level(logging.INFO)
    answer(doctor, *trials)
    assert chosen() == backend
    assert words in caplog.text


def test_what_was_not_measured_is_torch_and_tried_again(doctor: Path, caplog: pytest.LogCaptureFixture) -> None:
    answer(doctor, problem="the model is not here")
    assert chosen() == "torch"
    assert "the model is not here" in caplog.text
    (doctor / "answer").write_text("Segmentation fault")
    assert chosen() == "torch"
    assert "ended with 0" in caplog.text
    answer(doctor, TORCH, QUICK)
    assert chosen() == "fake"


def test_where_nothing_can_be_kept_it_is_torch_though_another_is_faster(
    doctor: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (doctor / "cache").write_text("in the way")
    assert chosen() == "torch"
    assert "no choice can be kept" in caplog.text


def test_a_measurement_that_hangs_is_ended(doctor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_DEADLINE_SECONDS", 0.2)
    (doctor / "python").write_text("#!/bin/sh\nexec sleep 100\n")
    assert chosen() == "torch"


@pytest.mark.parametrize(
    ("fields", "words"), [({"options": {"packed": False}}, "options .packed."), ({"dtype": "int8"}, "'int8'")]
)
def test_what_fits_one_backend_only_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=rf"{words}.*backend: auto.*name the backend"):
        check_models(Settings(model=ModelSettings("m", backend="auto", **fields)))
    check_auto(ModelSettings("m", backend="torch", **fields))


def test_a_named_backend_that_is_known_to_be_slower_is_told_so_once(
    doctor: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tell_faster(ModelSettings("m", backend="torch"), model="digest")
    assert not caplog.records
    chosen()
    caplog.clear()
    for settings in (ModelSettings("m", backend="fake"), ModelSettings("m", dtype="int8")):
        tell_faster(settings, model="digest")
    assert not caplog.records
    tell_faster(ModelSettings("m", backend="torch"), model="digest")
    (record,) = caplog.records
    assert "the backend fake is 2.00 times as fast as torch here" in record.getMessage()
    assert asked(doctor) == 1


@pytest.mark.usefixtures("doctor")
async def test_the_chosen_backend_serves_and_has_the_fingerprint_of_its_name(tmp_path: Path) -> None:
    folder, prints = str(tiny_bert(tmp_path / "bert", hidden=16, layers=1)), []
    for backend in ("auto", "fake"):
        async with Engine.open(Settings(model=ModelSettings("m", folder, backend=backend, tune=False))) as engine:
            description = engine.runtimes["m"].description
            assert description is not None
            assert description.backend == "fake"
            prints.append(description.fingerprint)
    assert prints[0] == prints[1]
