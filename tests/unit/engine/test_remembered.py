"""A second start of the same model on the same machine measures nothing; whatever is wrong with the disk, it starts."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from provider.engine import settling
from provider.engine.engine import Engine
from provider.engine.hooks import Event, ModelTuned
from provider.engine.limits import BatchLimits
from provider.engine.plan import LanePlan
from provider.engine.remembered import Remembered
from provider.engine.tuning import Choices, Trial, Tuned, tune
from provider.settings import ModelSettings, Settings
from provider.testing.tiny import tiny_bert

CHOICES = Choices(
    (LanePlan(2, 1), LanePlan(1, 2)), (256, 128, 512), BatchLimits(32, 256), max_tokens=64, vocabulary_size=50
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "emb-provider" / "tuning"


def measured(choices: Choices = CHOICES, **more: Any) -> Tuned:
    """There is time to compare everything; the last of each wins."""
    plan, tokens = choices.plans[-1], choices.batch_tokens[-1]
    compared = [(each, choices.batch_tokens[0]) for each in choices.plans]
    compared += [(plan, each) for each in choices.batch_tokens]
    return Tuned(plan, tokens, tuple(Trial(*each, 9.5) for each in compared), 0.5, **more)


def start(choices: Choices = CHOICES, found: Tuned | None = None, **conditions: str) -> Tuned:
    """What an earlier start left, else what is measured at this one."""
    known = Remembered(choices, {"processor": "p", "fingerprint": "f"} | conditions)
    if (tuned := known.read()) is None:
        tuned = found or measured(choices)
        known.keep(tuned)
    return tuned


@pytest.mark.usefixtures("cache")
def test_a_second_start_has_the_same_plan() -> None:
    found = start()
    assert (found.plan, found.batch_tokens, found.is_remembered) == (LanePlan(1, 2), 512, False)
    again = start()
    assert again == attrs.evolve(found, is_remembered=True)
    assert again.described() == found.described() | {"state": "remembered"}


@pytest.mark.usefixtures("cache")
def test_what_a_busy_machine_left_no_time_to_compare_is_measured_at_the_next_start() -> None:
    broken_off = measured(is_complete=False)
    assert [start(found=broken_off).is_remembered for _ in range(2)] == [False, False]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(("waiting", "is_kept"), [(0.0, True), (0.1, True), (0.33, False)])
def test_what_was_measured_while_others_used_the_cores_is_not_kept(waiting: float, is_kept: bool) -> None:
    found = measured(waiting=waiting)
    assert [start(found=found).is_remembered for _ in range(2)] == [False, is_kept]


@pytest.mark.usefixtures("cache")
def test_another_processor_model_or_choice_is_measured() -> None:
    start()
    more = attrs.evolve(CHOICES, batch_tokens=(256,))
    found = [start(processor="q"), start(fingerprint="g"), start(more), start()]
    assert [tuned.is_remembered for tuned in found] == [False, False, False, True]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text(""),
        lambda file: file.write_bytes(b"\xff{"),
        lambda file: file.write_text('{"sha256": {}, "facts": {"plan": 3}}'),
        lambda file: file.write_text(file.read_text().replace('"lanes":', '"cores":')),
        lambda file: file.write_text(re.sub(r'"batch_tokens": \d+', '"batch_tokens": 99', file.read_text())),
        lambda file: file.unlink(),
    ],
)
def test_what_is_damaged_is_measured_again_and_replaced(
    cache: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    start()
    (file,) = cache.glob("*/manifest.json")
    damage(file)
    with caplog.at_level(logging.WARNING):
        assert not start().is_remembered
    (record,) = caplog.records
    assert "damaged" in record.getMessage()
    assert start().is_remembered


def test_without_a_cache_that_can_be_written_each_start_measures_and_says_so_once(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file")
    for _ in range(2):
        caplog.clear()
        assert not start().is_remembered
        (record,) = caplog.records
        assert "the next start measures again" in record.getMessage()


def test_a_user_without_a_home_folder_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_: type[Path]) -> Path:
        msg = "Could not determine home directory."
        raise RuntimeError(msg)

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(no_home))
    assert not start().is_remembered


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "tune", lambda lanes, choices: tune(lanes, choices, waited=lambda: 0.0))


@pytest.mark.usefixtures("quiet_machine")
@pytest.mark.parametrize(
    ("fields", "states"),
    [
        ({}, ["measured", "remembered"]),
        ({"tune": False}, ["off", "off"]),
        ({"lanes": 1, "max_batch_tokens": 512}, ["off", "off"]),
    ],
)
async def test_a_model_says_whether_it_was_measured_or_remembered(
    cache: Path, tmp_path: Path, fields: dict[str, Any], states: list[str]
) -> None:
    model = ModelSettings("m", str(tiny_bert(tmp_path / "bert", hidden=16, layers=1)), backend="fake", **fields)
    found = []
    for _ in states:
        events: list[Event] = []
        async with Engine.open(Settings(model=model), events.append) as engine:
            runtime = engine.runtimes["m"]
            await runtime.settled()
            description = runtime.description
            assert description is not None
            assert description.tuning is not None
            found.append(description.tuning["state"])
            assert description.lanes == fields.get("lanes", description.lanes)
            tuned = [each for each in events if isinstance(each, ModelTuned)]
            assert len(tuned) == (found[-1] == "measured")
            assert all(each.facts["batch_tokens"] == description.batch_tokens for each in tuned)
    assert found == states
    entries = [each.name for each in os.scandir(cache.parents[1])]
    assert ("emb-provider" in entries) is (states[0] != "off")
