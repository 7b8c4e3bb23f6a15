"""Which deployment runs which model, how many replicas there are, and how rows travel."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from attrs import evolve
from emb_provider_ray.application import application
from emb_provider_ray.families import Joined
from emb_provider_ray.placement import place, with_options
from emb_provider_ray.replica import features_of
from emb_provider_ray.scaling import RUNNING, WAITING, TokenPolicy
from prometheus_client import CollectorRegistry, Counter, generate_latest

from provider import errors
from provider.backends import TokenBatch
from provider.domain import Features
from provider.errors import EmbeddingFailed, InputTooLong, SettingsError
from provider.settings import ModelSettings, Settings

MODEL = ModelSettings(name="a/b", path="/models/a", backend="onnx", options={"file": "model.onnx"})


def test_replicas_run_what_was_configured_and_the_ingress_calls_them() -> None:
    (served,), (placement,) = place(with_options(Settings(model=MODEL), num_cpus=2.0).all_models())
    assert served.backend == "ray"
    assert served.options["deployment"] == placement.name
    assert placement.name.startswith("a-b.")
    assert placement.models == {"a/b": MODEL}
    assert placement.options.num_cpus == 2


@pytest.mark.parametrize(
    ("change", "is_new"),
    [({"aliases": ["c"]}, False), ({"revision": "x"}, True), ({"dtype": "int8"}, True), ({"options": {}}, True)],
)
def test_a_deployment_is_a_new_one_only_where_its_replicas_change(change: dict[str, object], is_new: bool) -> None:
    names = [place([each])[1][0].name for each in (MODEL, evolve(MODEL, **change))]
    assert (names[0] != names[1]) is is_new
    fewer, more = (place(with_options(Settings(model=MODEL), replicas=i).all_models())[1][0] for i in (1, 2))
    assert fewer.name == more.name
    # What an ingress says of its models leads to the same deployments.
    served, (placement,) = place([MODEL])
    assert place(served)[1][0].name == placement.name


def test_lazy_models_share_a_deployment() -> None:
    models = [evolve(MODEL, name=name, lazy=True) for name in "xyz"]
    served, placements = place([MODEL, *models])
    assert [each.is_lazy for each in placements] == [False, True]
    assert list(placements[1].models) == ["x", "y", "z"]
    assert [each.served_name for each in served] == ["a/b", "x", "y", "z"]


@pytest.mark.parametrize(
    "options",
    [
        {"replicas": -1},
        {"replicas": 3, "max_replicas": 2},
        {"backend": "ray"},
        {"x": 1},
        {"num_cpus": -1.0},
        {"num_cpus": float("nan")},
        {"num_gpus": 1.5},
        {"resources": {"a": float("inf")}},
        {"upscale_seconds": -1.0},
        {"loaded_models": 0},
    ],
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        place([evolve(MODEL, backend="ray", options=options)])


@pytest.mark.parametrize("cpus", [-1.0, float("nan")])
def test_wrong_cores_of_an_ingress_are_refused(cpus: float) -> None:
    with pytest.raises(SettingsError, match="ingress_cpus"):
        application(Settings(model=MODEL), ingress_cpus=cpus)


def test_replicas_follow_tokens() -> None:
    policy = TokenPolicy(1000)

    def wanted(waiting: dict[str, float], running: dict[str, float]) -> float:
        return policy(SimpleNamespace(aggregated_metrics={WAITING: waiting, RUNNING: running}))[0]

    assert wanted({}, {}) == 0
    assert wanted({"a": 0, "b": 0}, {"a": 500, "b": 499}) == 1
    # Every replica tells of the same queues.
    assert wanted({"a": 2500, "b": 2400}, {"a": 500, "b": 500}) == 4


def test_rows_travel_with_all_they_have() -> None:
    rows = [
        Features(np.array([1, 2, 3], np.int32), 1, np.array([0, 0, 1], np.int32), 1, True, ("dense", "sparse")),
        Features(np.array([4], np.int32), outputs=("dense",)),
    ]
    first, second = features_of(pickle.loads(pickle.dumps(TokenBatch.of(rows))))
    assert (first.ids.tolist(), first.skip, first.unattended, first.is_query) == ([1, 2, 3], 1, 1, True)
    assert first.type_ids is not None
    assert first.type_ids.tolist() == [0, 0, 1]
    assert (second.ids.tolist(), second.is_query, second.outputs) == ([4], False, ("dense", "sparse"))


@pytest.mark.parametrize(
    "error",
    [
        EmbeddingFailed("memory ran out", index=3, is_lasting=False),
        InputTooLong(2, tokens=600, limit=512),
        errors.ModelFailed("no", retry_after_seconds=7),
        errors.ShuttingDown(),
    ],
)
def test_errors_travel_with_all_they_know(error: errors.ProviderError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)
    assert str(arrived) == str(error)


def test_series_of_several_processes_are_told_apart() -> None:
    found = {}
    for name, count in (("one", 1), ("two", 2)):
        registry = CollectorRegistry()
        Counter("rows", "Rows", ["model"], registry=registry).labels("m").inc(count)
        found[name] = list(registry.collect())
    lines = generate_latest(Joined(found)).decode().splitlines()
    assert 'rows_total{model="m",replica="one"} 1.0' in lines
    assert 'rows_total{model="m",replica="two"} 2.0' in lines
    assert lines.count("# TYPE rows_total counter") == 1
