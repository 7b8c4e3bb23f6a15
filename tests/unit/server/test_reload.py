"""What a configuration that is read again changes, and what it cannot."""

from typing import Any

import pytest
from attrs import evolve

from provider.errors import SettingsError
from provider.server.reload import ConfigurationReader, needing_restart
from provider.settings import CacheSettings, LimitSettings, ModelSettings, ServerSettings, Settings

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
