"""Models from the hub: the OpenVINO file that `options.file` names comes with them, and none besides."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from emb_provider_openvino import OpenVINOBackend
from hub_server import HubServer, forget_settings

from provider.backends import BackendUnavailable, InvalidModel, TokenBatch, Vectors
from provider.engine.finding import find_model
from provider.engine.loading import load_parts
from provider.errors import SourceUnreachable
from provider.models.spec import read_spec
from provider.settings import HubSettings, ModelSettings
from provider.testing.tiny import tiny_bert

REPO = "tests/tiny"
FILE = "openvino/openvino_model.xml"
BOTH = {FILE, "openvino/openvino_model.bin"}
BATCH = TokenBatch.of_rows([np.array(ids, np.int32) for ids in ([5, 9, 30, 7], [11], [40, 41, 42])])


@pytest.fixture(scope="module")
def folder(load: Callable[..., OpenVINOBackend], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its own conversion in `openvino/`."""
    place = tmp_path_factory.mktemp("hub")
    folder = tiny_bert(place / "model")
    spec, _ = read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)
    load(spec, cache_folder=str(place / "converted")).close()
    (made,) = (place / "converted").glob("[!.]*")
    (folder / "openvino").mkdir()
    for name in BOTH:
        shutil.copy(made / f"model{Path(name).suffix}", folder / name)
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A repository with safetensors, that conversion, and other formats."""
    forget_settings(monkeypatch, tmp_path)
    with HubServer.of_folder(folder) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        more = {"onnx/model.onnx", "openvino/openvino_model_qint8.xml", "openvino/openvino_model_qint8.bin"}
        server.files |= dict.fromkeys(more, b"not wanted")
        yield server


def embedded(cache: Path, *, backend: str = "openvino", offline: bool = False, **options: object) -> Vectors:
    """The vectors of `BATCH`, as the service finds, loads and runs the model; one lane, nothing measured."""
    model = ModelSettings(REPO, backend=backend, dtype="float32", options=options, lanes=1, tune=False)
    hub = HubSettings(offline=offline, cache_folder=str(cache))
    found = find_model(model, hub, show_progress=False, notify_download=lambda _phase, _detail: None)
    running = load_parts(found, model).backend
    try:
        return running.run(BATCH)["dense"]
    finally:
        running.close()


def others(hub: HubServer) -> set[str]:
    return {name for name in hub.fetched() if name.startswith(("onnx/", "openvino/"))}


def test_the_named_file_and_its_weights_are_downloaded_and_give_the_vectors_of_torch(
    hub: HubServer, tmp_path: Path
) -> None:
    ours = embedded(tmp_path / "cache", file=FILE)
    assert others(hub) == BOTH
    np.testing.assert_allclose(ours, embedded(tmp_path / "other", backend="torch"), atol=1e-4)


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_without_the_option_none_is_downloaded(hub: HubServer, tmp_path: Path, backend: str) -> None:
    embedded(tmp_path / "cache", backend=backend)
    assert others(hub) == set()


def test_the_second_start_reads_the_cache_and_offline_works(hub: HubServer, tmp_path: Path) -> None:
    first = embedded(tmp_path / "cache", file=f"./{FILE}")
    hub.requests.clear()
    np.testing.assert_allclose(embedded(tmp_path / "cache", file=FILE), first, atol=1e-5)
    assert hub.fetched() == set()
    hub.requests.clear()
    np.testing.assert_allclose(embedded(tmp_path / "cache", file=FILE, offline=True), first, atol=1e-5)
    assert hub.requests == []


@pytest.mark.usefixtures("hub")
def test_offline_a_copy_without_it_is_refused_by_name(tmp_path: Path) -> None:
    embedded(tmp_path / "cache", backend="torch")
    with pytest.raises(SourceUnreachable, match=r"lacks openvino/openvino_model\.bin, openvino/openvino_model\.xml"):
        embedded(tmp_path / "cache", file=FILE, offline=True)


def test_a_repository_without_it_gives_the_backends_own_error(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"has no mine\.xml and no mine\.bin; .* Leave options\.file out") as raised:
        embedded(tmp_path / "cache", file="openvino/mine.xml")
    assert "\n" not in raised.value.message
    assert others(hub) == set()


@pytest.mark.parametrize("file", ["../model.xml", "openvino/../../model.xml", "/etc/model.xml", "openvino/model.bin"])
def test_a_path_that_leads_elsewhere_costs_no_download(hub: HubServer, tmp_path: Path, file: str) -> None:
    with pytest.raises(BackendUnavailable, match="inside the model's folder"):
        embedded(tmp_path / "cache", file=file)
    assert hub.fetched() == set()


def test_a_repository_without_safetensors_is_served_by_its_openvino_file(hub: HubServer, tmp_path: Path) -> None:
    """Without `options.file`; with safetensors these are converted."""
    whole = embedded(tmp_path / "whole", file=FILE)
    del hub.files["model.safetensors"]
    hub.requests.clear()
    np.testing.assert_array_equal(embedded(tmp_path / "cache"), whole)
    assert {name for name in hub.fetched() if "openvino" in name} == BOTH
