"""How a model shares the cores, and what its fingerprint depends on."""

import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from provider.backends import BackendOptions
from provider.cores import Worker
from provider.domain import ModelSpec
from provider.engine import loading
from provider.engine.engine import Engine
from provider.engine.finding import find_model
from provider.engine.hooks import Hooks
from provider.engine.loading import in_daemon_thread, load_parts
from provider.engine.plan import LanePlan
from provider.errors import InvalidModel
from provider.settings import HubSettings, ModelSettings, Settings
from provider.testing import FakeBackend
from provider.testing.tiny import tiny_bert


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
        return cls(spec.dense.dimension)

    monkeypatch.setattr(loading, "available_cores", lambda: 16)
    monkeypatch.setattr(FakeBackend, "load", classmethod(load))
    model = ModelSettings("m", str(minilm), backend="fake")
    service = Engine(Settings(model=model), Hooks(), worker=Worker(1, 2)).start()
    try:
        await service.runtimes["m"].start_loading()
        loaded = service.runtimes["m"].loaded
        assert loaded is not None
        assert (loaded.plan.lanes, loaded.plan.threads) == (4, 2)
        assert [(each.threads, each.worker) for each in told] == [(2, 1)]
    finally:
        await service.close()


@pytest.mark.parametrize(("lanes", "is_concurrent", "plan"), [(None, True, 1), (2, True, 2), (2, False, 1)])
def test_an_accelerator_has_as_many_lanes_as_its_backend_says(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, lanes: int | None, is_concurrent: bool, plan: int
) -> None:
    def load(cls: type[FakeBackend], spec: ModelSpec, _options: BackendOptions) -> FakeBackend:
        backend = cls(spec.dense.dimension)
        backend.traits = evolve(backend.traits, device="card:0", lanes=lanes)
        return backend

    monkeypatch.setattr(FakeBackend, "load", classmethod(load))
    monkeypatch.setattr(FakeBackend, "concurrent", is_concurrent)
    settings = ModelSettings("m", str(tiny), backend="fake")
    found = find_model(settings, HubSettings(), show_progress=False, notify_download=lambda *_: None)
    assert load_parts(found, settings).plan.lanes == plan


async def test_the_first_forward_pass_is_one_token_and_runs_before_there_are_lanes(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, str]] = []

    def load(cls: type[FakeBackend], spec: ModelSpec, _options: BackendOptions) -> FakeBackend:
        backend = cls(spec.dense.dimension)
        backend.before_run = lambda batch: calls.append((batch.tokens, threading.current_thread().name))
        return backend

    monkeypatch.setattr(FakeBackend, "load", classmethod(load))
    model = ModelSettings("m", str(tiny), backend="fake", lanes=4)
    service = Engine(Settings(model=model), Hooks()).start()
    try:
        await service.runtimes["m"].start_loading()
    finally:
        await service.close()
    assert calls[0] == (1, "load m")
    by_lanes = [name for _, name in calls if "lane" in name]
    assert by_lanes
    assert calls.index((1, "load m")) < [name for _, name in calls].index(by_lanes[0])


def test_a_backend_that_fails_at_its_first_forward_pass_is_closed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[FakeBackend] = []

    def load(cls: type[FakeBackend], spec: ModelSpec, _options: BackendOptions) -> FakeBackend:
        loaded.append(cls(spec.dense.dimension))
        loaded[0].failing = True
        return loaded[0]

    monkeypatch.setattr(FakeBackend, "load", classmethod(load))
    with pytest.raises(RuntimeError, match="as it was told to"):
        fingerprint(tiny, backend="fake")
    assert loaded[0].closed == 1


@pytest.mark.slow
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


def fingerprint(folder: Path, **fields: Any) -> str:
    settings = ModelSettings(**({"name": "m", "path": str(folder)} | fields))
    found = find_model(settings, HubSettings(), show_progress=False, notify_download=lambda _phase, _detail: None)
    parts = load_parts(found, settings)
    parts.backend.close()
    return parts.fingerprint


def test_weights_that_change_while_they_are_loaded_are_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")

    def load(cls: type[FakeBackend], spec: ModelSpec, options: BackendOptions) -> FakeBackend:
        os.utime(folder / "model.safetensors", ns=(1, 1))
        return cls(spec.dense.dimension)

    monkeypatch.setattr(FakeBackend, "load", classmethod(load))
    with pytest.raises(InvalidModel, match="changed while they were loaded; try again when they are complete"):
        fingerprint(folder, backend="fake")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("tiny") / "bert", prompts={"query": "the "}, hidden=16, layers=1)


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("1_Pooling/config.json", b'"pooling_mode": "mean"', b'"pooling_mode": "cls"'),
        ("config_sentence_transformers.json", b'"the "', b'"a "'),
        ("tokenizer.json", b'"lowercase":true', b'"lowercase":false'),
        ("model.safetensors", b"", b""),
    ],
)
def test_a_fingerprint_changes_with_pooling_prompts_tokenizer_and_weights(
    tiny: Path, tmp_path: Path, file: str, before: bytes, after: bytes
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "copy"))
    content = re.sub(rb'("lowercase"): ', rb"\1:", (folder / file).read_bytes())
    assert before in content
    # The last byte of the weights is the exponent of a number; everything else is text.
    changed = content.replace(before, after) if before else content[:-1] + bytes([content[-1] ^ 1])
    (folder / file).write_bytes(changed)
    assert fingerprint(folder) != fingerprint(tiny)


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "bfloat16"},
        {"backend": "example"},
        {"default_prompt": "query"},
        {"prompts": {"title": "title: "}},
        {"normalize": False},
    ],
)
def test_a_fingerprint_changes_with_all_that_changes_vectors(tiny: Path, fields: Any) -> None:
    assert fingerprint(tiny, **fields) != fingerprint(tiny)


def test_a_fingerprint_stays_whatever_the_model_is_called_where_it_lies_and_how_it_is_batched(
    tiny: Path, tmp_path: Path
) -> None:
    elsewhere = Path(shutil.copytree(tiny, tmp_path / "elsewhere"))
    batching = {"lanes": 1, "threads_per_lane": 1, "max_batch_size": 3, "max_batch_tokens": 100}
    other = fingerprint(elsewhere, name="other", aliases=["third"], truncate="end", lazy=True, **batching)
    assert other == fingerprint(tiny)


async def test_work_in_a_daemon_thread_hands_back_result_or_error() -> None:
    assert await in_daemon_thread("t", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread("t", lambda: 1 // 0)
