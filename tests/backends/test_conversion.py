"""Models with pickled weights are converted once, beside the original, whole or not at all."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from waiting import PATIENCE_SECONDS

from provider.backends import BackendOptions, TokenBatch, Vectors
from provider.backends.torch.backend import TorchBackend
from provider.errors import InvalidModel, ModelError
from provider.models.resolve import Resolved, resolve
from provider.models.spec import read_spec
from provider.settings import HubSettings, ModelSettings
from provider.testing.tiny import tiny_bert

BATCH = TokenBatch.of_rows([np.array(ids, np.int32) for ids in ([5, 9, 30, 7], [11], [40, 41, 42])])
WEIGHTS = ("model.safetensors", "2_Dense/model.safetensors")
Layout = Callable[[Path], None]


def pickle_whole(folder: Path) -> None:
    """As transformers saved until 2023."""
    for name in WEIGHTS:
        path = folder / name
        torch.save(load_file(path), path.with_name("pytorch_model.bin"))
        path.unlink()


def pickle_shards(folder: Path) -> None:
    """As it saved models above 10 GB; the layer after the pooling is whole."""
    pickle_whole(folder)
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    names = sorted(tensors)
    shards = {f"pytorch_model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
    for file, held in shards.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    places = {name: file for file, held in shards.items() for name in held}
    document = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(document))
    (folder / "pytorch_model.bin").unlink()


def pickle_dense(folder: Path) -> None:
    """The transformer's are safetensors, those of the layer after it are not."""
    path = folder / WEIGHTS[1]
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()


@pytest.fixture
def store(tmp_path: Path) -> HubSettings:
    return HubSettings(offline=True, cache_folder=str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert(tmp_path / "tiny", dense=16)


def convert(folder: Path, hub: HubSettings, *, allowed: bool = True) -> Resolved:
    return resolve(ModelSettings(path=str(folder), convert_weights=allowed), hub)


def embedded(folder: Path) -> Vectors:
    spec, _ = read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)
    backend = TorchBackend.load(spec, BackendOptions(own=TorchBackend.Options()))
    try:
        return backend.run(BATCH)["dense"]
    finally:
        backend.close()


def fingerprint(folder: Path) -> str:
    return read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0].fingerprint


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("layout", [pickle_whole, pickle_shards, pickle_dense])
def test_the_vectors_of_converted_weights_are_those_of_the_safetensors(
    layout: Layout, folder: Path, store: HubSettings
) -> None:
    expected = embedded(folder)
    layout(folder)
    before = files(folder)
    with pytest.raises(InvalidModel, match=r"pickled .*emb-provider convert .*model\.convert_weights: true"):
        convert(folder, store, allowed=False)
    with pytest.raises(InvalidModel, match=r"not converted yet; the next start does so, or `emb-provider convert"):
        resolve(ModelSettings(path=str(folder), convert_weights=True), store, converts=False)
    converted = convert(folder, store).folder
    # Shards are computed by transformers' class, whose sums are in another order.
    np.testing.assert_allclose(embedded(converted), expected, atol=0 if layout is not pickle_shards else 2e-6)
    assert files(folder) == before
    # Once it is there, it is found without the setting, nothing is done again, and nothing is locked or written.
    lock = converted.with_name(f".{converted.name}.lock")
    lock.unlink()
    lock.mkdir()
    kept = files(converted)
    assert convert(folder, store, allowed=False).folder == converted
    assert files(converted) == kept


def test_the_fingerprint_is_that_of_the_same_weights_saved_as_safetensors(folder: Path, store: HubSettings) -> None:
    for name in WEIGHTS:
        save_file(load_file(folder / name), folder / name, metadata={"format": "pt"})
    expected = fingerprint(folder)
    pickle_whole(folder)
    assert fingerprint(convert(folder, store).folder) == expected


@pytest.mark.slow
def test_another_configuration_or_other_weights_are_another_model(folder: Path, store: HubSettings) -> None:
    pickle_dense(folder)
    places = {convert(folder, store).folder}
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("mean", "cls"))
    places.add(convert(folder, store).folder)
    dense = folder / "2_Dense" / "pytorch_model.bin"
    torch.save({name: value + 1 for name, value in torch.load(dense, weights_only=True).items()}, dense)
    places.add(convert(folder, store).folder)
    assert len(places) == 3


def test_code_in_a_pickle_is_not_run_and_nothing_is_left(folder: Path, store: HubSettings, tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    pickle_whole(folder)
    torch.save({"weight": Runs()}, folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(
        InvalidModel, match=r"2_Dense/pytorch_model\.bin is refused: it asks for posix\.mkdir"
    ) as raised:
        convert(folder, store)
    assert "\n" not in raised.value.message
    assert not (tmp_path / "ran").exists()
    assert [path.suffix for path in (tmp_path / "cache" / "converted").iterdir()] == [".lock"]


def test_a_model_that_could_not_be_served_is_not_converted(folder: Path, store: HubSettings, tmp_path: Path) -> None:
    pickle_whole(folder)
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.CLIPModel", "path": ""}]')
    with pytest.raises(InvalidModel, match="images"):
        convert(folder, store)
    assert not (tmp_path / "cache").exists()


def test_what_is_damaged_in_the_store_is_converted_again(folder: Path, store: HubSettings) -> None:
    pickle_dense(folder)
    place = convert(folder, store).folder
    weights = place / WEIGHTS[1]
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    assert convert(folder, store).folder == place
    assert weights.read_bytes() == whole


def test_a_full_disk_is_one_line(folder: Path, store: HubSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    pickle_dense(folder)

    def full(_path: Path) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("provider.models.conversion.shutil.disk_usage", full)
    with pytest.raises(
        ModelError, match=r"cannot write the converted model .*No space left.*hub\.cache_folder"
    ) as raised:
        convert(folder, store)
    assert "\n" not in raised.value.message


def test_a_store_that_cannot_be_written_is_named_with_the_settings_that_move_it(folder: Path, tmp_path: Path) -> None:
    pickle_dense(folder)
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"/file/converted/tiny-\w+ \(.*hub\.cache_folder.*XDG_CACHE_HOME"):
        convert(folder, HubSettings(cache_folder=str(tmp_path / "file")))


@pytest.mark.slow
def test_processes_at_the_same_time_and_killed_ones_leave_one_whole_model(
    folder: Path, store: HubSettings, tmp_path: Path
) -> None:
    """The first is killed without warning while it converts; of the others, one converts and the rest wait for it."""
    expected = embedded(folder)
    pickle_whole(folder)
    command = [sys.executable, "-m", "provider", "convert", str(folder)]
    env = os.environ | {"EMB_PROVIDER_HUB_CACHE_FOLDER": str(tmp_path / "cache")}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=env, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    killed = start()
    assert killed.stderr is not None
    assert "converting" in killed.stderr.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=PATIENCE_SECONDS)
    running = [start() for _ in range(3)]
    said = [each.communicate(timeout=PATIENCE_SECONDS) for each in running]
    assert [each.returncode for each in running] == [0, 0, 0]
    (place,) = {Path(out.strip()) for out, _ in said}
    assert sum("converted " in complaints for _, complaints in said) == 1
    assert sorted(path.name for path in place.parent.iterdir()) == [f".{place.name}.lock", place.name]
    np.testing.assert_array_equal(embedded(place), expected)
