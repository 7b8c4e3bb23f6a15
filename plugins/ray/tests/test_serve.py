"""The service on Ray answers as without it, and survives what happens to replicas."""

import os
import signal
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from emb_provider_ray.application import NAME
from emb_provider_ray.placement import place, with_options
from ray import serve
from serving import MINILM, Load, series, served
from waiting import wait_until

from provider import EmbedRequest, SyncEngine
from provider.settings import ModelSettings, Settings
from provider.testing.tiny import tiny_bert

TEXTS = ["A cat sits on the mat.", "hello", "And a longer sentence, about nothing in particular."]


@pytest.fixture(scope="module")
def two_replicas(cluster: object) -> str:
    return served(Settings(model=MINILM), replicas=2)


def test_openai_clients_get_the_vectors_of_a_server_without_ray(two_replicas: str) -> None:
    with SyncEngine.open(Settings(model=MINILM)) as engine:
        alone = engine.embed(EmbedRequest("minilm", tuple(TEXTS)))
    with openai.OpenAI(base_url=f"{two_replicas}/v1", api_key="none") as client:
        answer = client.embeddings.with_raw_response.create(model="minilm", input=TEXTS)
        body = answer.parse()
        assert np.allclose([each.embedding for each in body.data], alone.vectors, atol=1e-6)
        assert body.usage.prompt_tokens == alone.usage.tokens
        assert answer.headers["x-model-fingerprint"] == alone.fingerprint
        with pytest.raises(openai.NotFoundError) as caught:
            client.embeddings.create(model="another", input="hello")
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model="minilm", input="word " * 600)
        assert refused.value.code == "context_length_exceeded"


def test_one_scrape_has_the_series_of_every_process(two_replicas: str) -> None:
    passes = series(two_replicas, "emb_provider_batch_rows_count")
    assert len(passes) == 2
    assert all('replica="' in labels for labels in passes)
    assert len(series(two_replicas, "emb_provider_requests_total")) >= 1
    wait_until(lambda: list(series(two_replicas, "emb_provider_replicas").values()) == [2])
    assert len(series(two_replicas, "process_resident_memory_bytes")) == 3


def test_no_request_is_lost_with_a_replica(two_replicas: str) -> None:
    (placement,) = place(with_options(Settings(model=MINILM), replicas=2).all_models())[1]
    handle = serve.get_deployment_handle(placement.name, NAME)
    before = set(handle.broadcast("process").results(timeout_s=30))
    assert len(before) == 2
    with Load.on(two_replicas, model="minilm") as load:
        os.kill(min(before), signal.SIGKILL)
        sent = len(load.answers)
        wait_until(lambda: len(load.answers) >= sent + 20, seconds=60)
    assert {answer.status for answer in load.answers} == {200}
    assert sum(series(two_replicas, "emb_provider_replica_retries_total").values()) >= 1
    # Ray starts another one.
    wait_until(lambda: list(series(two_replicas, "emb_provider_replicas").values()) == [2], seconds=60)


def test_an_update_mixes_no_fingerprints_and_loses_nothing(cluster: object, tmp_path: Path) -> None:
    folders = [tiny_bert(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "second"))]
    old, new = (Settings(model=ModelSettings(name="tiny", path=str(each), tune=False)) for each in folders)
    url = served(old, replicas=2)
    with Load.on(url, model="tiny") as load:
        served(new, replicas=2)
        updated = len(load.answers)
        wait_until(lambda: len(load.answers) >= updated + 8, seconds=60)
        counted = series(url, "emb_provider_replica_rows_total")
    assert {answer.status for answer in load.answers} == {200}
    seen = {answer.fingerprint for answer in load.answers}
    assert len(seen) == 2
    # Both, and so their ratio, are in the metrics.
    assert all(any(f'fingerprint="{each}"' in labels for labels in counted) for each in seen)
    with SyncEngine.open(old) as first, SyncEngine.open(new) as second:
        engines = {engine.embed(EmbedRequest("tiny", ("text",))).fingerprint: engine for engine in (first, second)}
        for answer in load.answers[-4:] + load.answers[:: max(1, len(load.answers) // 20)]:
            expected = engines[answer.fingerprint].embed(EmbedRequest("tiny", tuple(answer.texts))).vectors
            assert np.allclose(answer.vectors, expected, atol=1e-5)


def test_lazy_models_share_replicas_and_load_when_asked_for(cluster: object, tmp_path: Path) -> None:
    names = ("one", "two")
    folders = {name: tiny_bert(tmp_path / name, seed=seed) for seed, name in enumerate(names)}
    models = [ModelSettings(name=name, path=str(folders[name]), lazy=True, tune=False) for name in names]
    url = served(Settings(model=models[0], models=models[1:]), replicas=1, loaded_models=1)
    fingerprints = []
    for name in (*names, names[0]):
        answer = httpx.post(f"{url}/v1/embeddings", json={"model": name, "input": "hello " + name}, timeout=60)
        assert answer.status_code == 200, answer.text
        fingerprints.append(answer.headers["x-model-fingerprint"])
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]
