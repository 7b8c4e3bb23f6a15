"""Models from the hub: the one ONNX file that will run comes with them, and none besides."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from emb_provider_onnx.processor import QUANTISED_FILES, instruction_sets
from emb_provider_onnx.selection import select_names
from exports import with_graph
from hub_server import HubServer, forget_settings

from provider.backends import BackendUnavailable, TokenBatch, Vectors
from provider.engine.finding import FoundModel, find_model
from provider.engine.loading import load_parts
from provider.errors import InvalidModel, SourceUnreachable
from provider.settings import HubSettings, ModelSettings
from provider.testing.tiny import tiny_bert
from provider.verification.reference import loaded_reference

REPO = "tests/tiny"
BATCH = TokenBatch.of_rows([np.array(ids, np.int32) for ids in ([5, 9, 30, 7], [11], [40, 41, 42])])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A repository with safetensors, the graph in float32, and further graphs."""
    forget_settings(monkeypatch, tmp_path)
    with HubServer.of_folder(with_graph(tiny_bert)(tmp_path / "model")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        more = {"onnx/model_O2.onnx", "onnx/model_q4.onnx", "onnx/model_q4.onnx_data", "openvino/openvino_model.xml"}
        server.files |= dict.fromkeys(more, b"not wanted")
        yield server


def find(model: ModelSettings, cache: Path, *, offline: bool = False) -> FoundModel:
    hub = HubSettings(offline=offline, cache_folder=str(cache))
    return find_model(model, hub, show_progress=False, notify_download=lambda _phase, _detail: None)


def embedded(
    cache: Path, *, backend: str = "onnx", dtype: str = "auto", offline: bool = False, **options: object
) -> Vectors:
    """The vectors of `BATCH`, as the service finds, loads and runs the model; one lane, nothing measured."""
    model = ModelSettings(REPO, backend=backend, dtype=dtype, options=options, lanes=1, tune=False)
    running = load_parts(find(model, cache, offline=offline), model).backend
    try:
        return running.run(BATCH)["dense"]
    finally:
        running.close()


def with_weights_beside(graph: bytes, folder: Path) -> list[Path]:
    """The same graph, with most of its weights in `model.onnx_data`: what is done above 2 GiB."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    folder.mkdir()
    options.optimized_model_filepath = str(folder / "model.onnx")
    for key, value in (("file_name", "model.onnx_data"), ("min_size_in_bytes", "64")):
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return sorted(folder.iterdir())


def graphs(hub: HubServer) -> set[str]:
    return {name for name in hub.fetched() if name.startswith(("onnx/", "openvino/")) or ".onnx" in name}


def cosine(a: Vectors, b: Vectors) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_the_graph_alone_is_downloaded_and_its_vectors_are_those_of_torch(hub: HubServer, tmp_path: Path) -> None:
    ours = embedded(tmp_path / "cache")
    assert graphs(hub) == {"onnx/model.onnx"}
    hub.requests.clear()
    assert cosine(ours, embedded(tmp_path / "other", backend="torch", dtype="float32")) > 0.9999
    assert graphs(hub) == set()


def test_the_second_start_reads_the_cache_and_offline_works(hub: HubServer, tmp_path: Path) -> None:
    first = embedded(tmp_path / "cache")
    hub.requests.clear()
    assert cosine(first, embedded(tmp_path / "cache")) > 0.99999
    assert hub.fetched() == set()
    hub.requests.clear()
    assert cosine(first, embedded(tmp_path / "cache", offline=True)) > 0.99999
    assert hub.requests == []


def test_what_torch_has_downloaded_is_completed_and_offline_the_missing_file_is_named(
    hub: HubServer, tmp_path: Path
) -> None:
    embedded(tmp_path / "cache", backend="torch", dtype="float32")
    with pytest.raises(SourceUnreachable, match=r"the copy in the cache lacks onnx/model\.onnx, and"):
        embedded(tmp_path / "cache", offline=True)
    hub.requests.clear()
    embedded(tmp_path / "cache")
    assert hub.fetched() == {"onnx/model.onnx"}


def test_a_repository_without_a_graph_gives_the_way_to_one(hub: HubServer, tmp_path: Path) -> None:
    del hub.files["onnx/model.onnx"]
    for offline in (False, True):
        with pytest.raises(InvalidModel, match=r"has no onnx/model\.onnx: .*emb-provider export") as raised:
            embedded(tmp_path / "cache", offline=offline)
        assert "\n" not in raised.value.message
    assert graphs(hub) == set()


@pytest.mark.parametrize("pickled", [(), ("pytorch_model.bin",)])
def test_a_repository_with_onnx_files_only_is_served(hub: HubServer, tmp_path: Path, pickled: tuple[str, ...]) -> None:
    """Pickled weights beside them, as of bge-m3, are not needed."""
    whole = embedded(tmp_path / "whole")
    del hub.files["model.safetensors"]
    hub.files |= dict.fromkeys(pickled, b"a pickle")
    hub.requests.clear()
    np.testing.assert_array_equal(embedded(tmp_path / "cache"), whole)
    assert graphs(hub) == {"onnx/model.onnx"}
    assert "pytorch_model.bin" not in hub.fetched()
    hub.requests.clear()
    np.testing.assert_array_equal(embedded(tmp_path / "cache", offline=True), whole)
    assert hub.requests == []
    with pytest.raises(InvalidModel, match="emb-provider convert" if pickled else "serve with --backend onnx"):
        embedded(tmp_path / "other", backend="torch")


def test_a_folder_with_onnx_files_only_is_served_and_its_graph_is_in_the_fingerprint(
    tiny: Path,
) -> None:
    (tiny / "model.safetensors").unlink()
    model = ModelSettings(path=str(tiny), backend="onnx", lanes=1, tune=False)
    found = find_model(model, HubSettings(), show_progress=False, notify_download=lambda _phase, _detail: None)
    first = load_parts(found, model)
    first.backend.close()
    assert first.weight_bytes == (tiny / "onnx" / "model.onnx").stat().st_size
    graph = (tiny / "onnx" / "model.onnx").read_bytes()
    # A field that nobody knows: the same graph, another file.
    (tiny / "onnx" / "model.onnx").write_bytes(graph + bytes([0xFA, 0x7F, 0x01, 0x00]))
    second = load_parts(found, model)
    second.backend.close()
    assert second.fingerprint != first.fingerprint
    with pytest.raises(InvalidModel, match="the reference is computed from them"), loaded_reference(second, model):
        pass


@pytest.mark.parametrize("file", ["mine.onnx", "onnx/mine.onnx"])
def test_a_file_of_another_name_is_downloaded_in_its_place(hub: HubServer, tmp_path: Path, file: str) -> None:
    hub.files["onnx/mine.onnx"] = hub.files["onnx/model.onnx"]
    embedded(tmp_path / "cache", file=file)
    assert graphs(hub) == {"onnx/mine.onnx"}


def test_weights_beside_the_graph_are_downloaded_and_read(hub: HubServer, tmp_path: Path) -> None:
    """From the cache, where each file is a link to a place of its own."""
    whole = embedded(tmp_path / "whole")
    parted = with_weights_beside(hub.files["onnx/model.onnx"], tmp_path / "parted")
    hub.files |= {f"onnx/{path.name}": path.read_bytes() for path in parted}
    hub.requests.clear()
    assert cosine(whole, embedded(tmp_path / "cache")) > 0.9999
    assert graphs(hub) == {"onnx/model.onnx", "onnx/model.onnx_data"}


def test_int8_downloads_the_best_quantised_file_for_this_processor_alone(hub: HubServer, tmp_path: Path) -> None:
    best, *others = [f"onnx/{QUANTISED_FILES[name]}" for name in instruction_sets()]
    hub.files |= {f"onnx/{name}": b"int8" for name in QUANTISED_FILES.values()}
    find(ModelSettings(REPO, backend="onnx", dtype="int8"), tmp_path / "cache")
    assert graphs(hub) == {best}
    assert list(select_names(others, dtype="int8", file=None)) == others[:1]


@pytest.mark.parametrize("file", ["../model.onnx", "onnx/../../model.onnx", "/model.onnx", "model.safetensors"])
def test_a_name_that_is_none_costs_no_download(hub: HubServer, tmp_path: Path, file: str) -> None:
    with pytest.raises(BackendUnavailable, match=r"expected the name of an \.onnx file"):
        embedded(tmp_path / "cache", file=file)
    assert hub.fetched() == set()


@pytest.mark.parametrize(
    ("names", "file", "expected"),
    [
        (["model.onnx", "onnx/model.onnx"], None, ["onnx/model.onnx"]),
        (["model.onnx", "model.onnx_data"], None, ["model.onnx", "model.onnx_data"]),
        (["onnx/model.onnx", "onnx/model.onnx.data"], None, ["onnx/model.onnx", "onnx/model.onnx.data"]),
        (["m.onnx", "onnx/m.onnx", "onnx/m.onnx_data"], "m.onnx", ["onnx/m.onnx", "onnx/m.onnx_data"]),
        (
            ["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1", "onnx/model_q4.onnx_data"],
            None,
            ["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1"],
        ),
        (["onnx/model_fp16.onnx"], None, []),
        (["onnx/m*.onnx", "onnx/model.onnx"], "m*.onnx", ["onnx/m*.onnx"]),
    ],
)
def test_a_graph_comes_with_its_own_data_files(names: list[str], file: str | None, expected: list[str]) -> None:
    """As optimum (`.onnx_data`) and torch (`.onnx.data`) name them."""
    assert list(select_names(names, dtype="auto", file=file)) == expected
