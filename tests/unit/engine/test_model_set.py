"""Models are added, removed and replaced while requests are under way, on fake backends."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from waiting import until, until_set

from provider.domain import Embedded, EmbedRequest
from provider.engine.engine import Engine
from provider.engine.hooks import ModelState
from provider.errors import ModelNotFound, SettingsError
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing import FakeBackend


@pytest.fixture
def first(minilm: Path) -> ModelSettings:
    return ModelSettings(name="first", path=str(minilm), backend="fake", lanes=1, tune=False, aliases=["one"])


def configured(*models: ModelSettings, **sections: Any) -> Settings:
    return Settings(model=models[0], models=list(models[1:]), cache=CacheSettings(enabled=False), **sections)


def named(model: ModelSettings, name: str, **fields: Any) -> ModelSettings:
    from attrs import evolve

    return evolve(model, name=name, **({"aliases": []} | fields))


def embed(service: Engine, model: str) -> "asyncio.Task[Embedded]":
    return asyncio.create_task(service.embed(EmbedRequest(model, ("a cat",))))


def backend(service: Engine, name: str) -> FakeBackend:
    loaded = service.runtimes[name].loaded
    assert loaded is not None
    assert isinstance(loaded.backend, FakeBackend)
    return loaded.backend


async def test_a_model_that_is_added_is_loaded_and_readiness_stays_green_meanwhile(
    open_service: Any, first: ModelSettings
) -> None:
    async with open_service(configured(first)) as service:
        service.reconfigure(configured(first, named(first, "second")))
        assert service.problems == {}
        assert service.runtimes["second"].degraded == "added while serving: waiting"
        await until(lambda: service.runtimes["second"].loaded)
        assert (await embed(service, "second")).usage.inputs == 1
        assert service.runtimes["second"].degraded is None


async def test_readiness_is_red_while_no_model_is_left_but_those_that_come(
    open_service: Any, first: ModelSettings
) -> None:
    async with open_service(configured(first)) as service:
        service.reconfigure(configured(named(first, "second")))
        assert list(service.problems) == ["second"]
        await until(lambda: service.runtimes["second"].loaded)
        assert service.problems == {}


async def test_a_model_that_is_removed_has_no_name_and_finishes_what_it_has(
    open_service: Any, first: ModelSettings
) -> None:
    second = named(first, "second")
    async with open_service(configured(first, second)) as service:
        runtime, gone = service.runtimes["second"], backend(service, "second")
        gone.gate.clear()
        gone.started.clear()
        held = embed(service, "second")
        await until_set(gone.started)
        service.reconfigure(configured(first))
        with pytest.raises(ModelNotFound):
            await embed(service, "second")
        await asyncio.sleep(0.1)
        assert gone.closed == 0
        gone.gate.set()
        assert (await held).usage.inputs == 1
        await until(lambda: runtime.state is ModelState.CLOSED and gone.closed == 1)


async def test_a_model_with_other_settings_replaces_the_old_one_when_it_is_ready(
    open_service: Any, first: ModelSettings
) -> None:
    async with open_service(configured(first)) as service:
        old = backend(service, "first")
        service.reconfigure(configured(named(first, "first", options={"scale": 2.0})))
        assert (await embed(service, "first")).usage.inputs == 1
        revision = service.responses.revision
        await until(lambda: service.runtimes["first"].loaded.backend is not old)
        assert service.responses.revision != revision
        await until(lambda: old.closed)
        assert (await embed(service, "first")).usage.inputs == 1
        assert len(backend(service, "first").batches) > 0


async def test_where_the_new_one_cannot_load_the_old_one_stays(
    open_service: Any, first: ModelSettings, tmp_path: Path
) -> None:
    events: list[Any] = []
    async with open_service(configured(first), events=events) as service:
        old = backend(service, "first")
        service.reconfigure(configured(named(first, "first", path=str(tmp_path))))
        await until(lambda: any(getattr(each, "state", None) is ModelState.FAILED for each in events))
        await until(lambda: any(getattr(each, "state", None) is ModelState.CLOSED for each in events))
        assert service.problems == {}
        assert backend(service, "first") is old
        assert (await embed(service, "first")).usage.inputs == 1


async def test_another_alias_needs_no_load(open_service: Any, first: ModelSettings) -> None:
    async with open_service(configured(first)) as service:
        old = backend(service, "first")
        service.reconfigure(configured(named(first, "first", aliases=["uno"])))
        assert (await embed(service, "uno")).usage.inputs == 1
        with pytest.raises(ModelNotFound):
            await embed(service, "one")
        assert backend(service, "first") is old


async def test_settings_that_contradict_each_other_change_nothing(open_service: Any, first: ModelSettings) -> None:
    async with open_service(configured(first)) as service:
        with pytest.raises(SettingsError, match="given twice"):
            service.reconfigure(configured(first, named(first, "one")))
        assert list(service.runtimes) == ["first"]
        assert (await embed(service, "one")).usage.inputs == 1
