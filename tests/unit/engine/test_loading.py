"""How a model shares the cores, and what its fingerprint depends on."""

from typing import Any

import pytest

from provider.backends import BackendOptions
from provider.domain import ModelSpec, Worker
from provider.engine import loading
from provider.engine.hooks import Hooks
from provider.engine.loading import in_daemon_thread
from provider.engine.plan import LanePlan
from provider.engine.service import EmbeddingService
from provider.settings import ModelSettings, Settings
from provider.testing import FakeBackend


@pytest.mark.parametrize(
    ("fields", "is_concurrent", "cores", "plan"),
    [
        ({}, True, 1, (1, 1)),
        ({}, True, 2, (2, 1)),
        ({}, True, 4, (4, 1)),
        ({}, True, 16, (4, 4)),
        ({}, False, 8, (1, 8)),
        ({"lanes": 3}, True, 8, (3, 2)),
        ({"lanes": 3}, False, 8, (1, 8)),
        ({"threads_per_lane": 4}, True, 8, (2, 4)),
        ({"lanes": 2, "threads_per_lane": 2}, True, 2, (2, 2)),
        ({"lanes": 8}, True, 2, (8, 1)),
    ],
)
def test_lanes_and_threads_follow_the_settings_or_the_cores(
    fields: Any, is_concurrent: bool, cores: int, plan: tuple[int, int]
) -> None:
    found = LanePlan.of(ModelSettings(**fields), is_concurrent=is_concurrent, cores=cores)
    assert (found.lanes, found.threads) == plan


async def test_a_worker_plans_with_its_share_of_the_cores_and_tells_its_backend_its_number(
    minilm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[BackendOptions] = []

    def load(cls: type[FakeBackend], spec: ModelSpec, options: BackendOptions) -> FakeBackend:
        told.append(options)
        return cls(spec.dimension)

    monkeypatch.setattr(loading, "available_cores", lambda: 16)
    monkeypatch.setattr(FakeBackend, "load", classmethod(load))
    model = ModelSettings("m", str(minilm), backend="fake")
    service = EmbeddingService(Settings(model=model), Hooks(), worker=Worker(1, 2)).open()
    try:
        await service.runtimes["m"].start_loading()
        loaded = service.runtimes["m"].loaded
        assert loaded is not None
        assert (loaded.plan.lanes, loaded.plan.threads) == (4, 2)
        assert [(each.threads, each.worker) for each in told] == [(2, 1)]
    finally:
        await service.close()


async def test_a_fingerprint_tells_files_backend_options_and_dtype_apart(open_service: Any, minilm: Any) -> None:
    variants = [
        {},
        {"backend": "example"},
        {"backend": "example", "options": {"seed": 1}},
        {"dtype": "bfloat16"},
    ]
    models = [ModelSettings(name=str(i), path=str(minilm), **fields) for i, fields in enumerate(variants)]
    async with open_service(
        Settings(model=models[0], models=[*models[1:], ModelSettings("same", str(minilm))])
    ) as service:
        prints = [runtime.loaded.fingerprint for runtime in service.runtimes.values()]
    assert len(set(prints)) == 4
    assert prints[-1] == prints[0]


async def test_work_in_a_daemon_thread_hands_back_result_or_error() -> None:
    assert await in_daemon_thread("t", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread("t", lambda: 1 // 0)
