"""What a configuration that is read again changes, and what it cannot."""

import os
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from provider.errors import SettingsError
from provider.server.preflight import check_access
from provider.server.reload import ConfigurationReader, needing_restart
from provider.settings import AuthSettings, CacheSettings, LimitSettings, ModelSettings, ServerSettings, Settings

OLD = Settings(model=ModelSettings("old"))


def test_settings_of_models_and_limits_are_taken_and_the_others_named() -> None:
    new = Settings(
        model=ModelSettings("new"),
        models=[ModelSettings("more")],
        limits=LimitSettings(max_inputs=7),
        server=ServerSettings(port=1234),
        cache=CacheSettings(enabled=False),
    )
    reader = ConfigurationReader(OLD, lambda: new)
    assert reader.read_again() == evolve(OLD, model=new.model, models=new.models, limits=new.limits)
    assert needing_restart(OLD, new) == ["server.port", "cache.enabled"]


def test_a_configuration_that_is_wrong_changes_nothing() -> None:
    answers: list[Any] = [
        SettingsError("model.lanes: expected a whole number"),
        evolve(OLD, model=ModelSettings("new")),
    ]

    def read() -> Settings:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    reader = ConfigurationReader(OLD, read)
    assert reader.read_again() is None
    assert reader.settings is OLD
    assert reader.read_again() == evolve(OLD, model=ModelSettings("new"))


@pytest.mark.parametrize("section", ["model", "limits"])
def test_what_is_live_needs_no_restart(section: str) -> None:
    other = {"model": ModelSettings("x", lanes=3), "limits": LimitSettings(max_inputs=3)}[section]
    assert needing_restart(OLD, evolve(OLD, **{section: other})) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": ServerSettings(allowed_hosts=["a.example:9000"])},
        {"server": ServerSettings(cors_origins=["a.example"])},
        {"server": ServerSettings(tls_certificate_file="/nowhere")},
        {"auth": AuthSettings(keys={"a": "same", "b": "same"})},
    ],
)
def test_settings_that_need_a_restart_are_checked_before_it(wrong: dict[str, Any]) -> None:
    check_access(OLD)
    with pytest.raises(SettingsError):
        check_access(evolve(OLD, **wrong))


def test_a_keys_file_is_left_to_whom_it_is_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    check_access(evolve(OLD, auth=AuthSettings(keys_file=str(tmp_path / "keys"))))
