"""`emb-provider download`."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from attrs import evolve
from click.testing import CliRunner
from hub_server import HubServer
from safetensors.torch import load, load_file

from provider.backends import BackendOptions
from provider.cli.convert import convert
from provider.cli.download import download
from provider.errors import InvalidModel, SourceUnreachable
from provider.models.resolve import resolve
from provider.settings import HubSettings, ModelSettings
from provider.testing import FakeBackend


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No configuration of this machine's reaches the command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMB_PROVIDER_CONFIG", raising=False)
    monkeypatch.setenv("EMB_PROVIDER_HUB_CACHE_FOLDER", str(cache))


def test_standard_output_is_the_folder_and_nothing_else(hub: HubServer, cache: Path) -> None:
    """So that a script can use it."""
    result = CliRunner().invoke(download, [hub.repository], catch_exceptions=False)
    (line,) = result.stdout.splitlines()
    assert (Path(line) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert Path(line).is_relative_to(cache)


def test_a_folder_and_a_revision_may_be_given(hub: HubServer, tmp_path: Path) -> None:
    """The folder is complete when the command ends."""
    arguments = [hub.repository, "--revision", hub.commit, "--to", str(tmp_path / "out")]
    result = CliRunner().invoke(download, arguments, catch_exceptions=False)
    assert result.stdout == f"{tmp_path / 'out'}\n"
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_configured_name_means_its_repository(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is downloaded is what the service will look for."""
    monkeypatch.setenv("EMB_PROVIDER_MODEL_NAME", "mine")
    monkeypatch.setenv("EMB_PROVIDER_MODEL_REPO", hub.repository)
    result = CliRunner().invoke(download, ["mine", "--to", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0


def test_our_errors_are_left_to_the_command_line(
    cache: Path, unreachable_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prints them as one line."""
    monkeypatch.setenv("HF_ENDPOINT", unreachable_address)
    with pytest.raises(SourceUnreachable):
        CliRunner().invoke(download, ["some-model"], catch_exceptions=False)
    assert not cache.exists()


@pytest.mark.parametrize("name", ["mine", "tests/tiny"])
@pytest.mark.parametrize("how", ["default model", "further model", "flags"])
def test_what_the_backend_reads_is_fetched_too(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    """The configured model's, by its name or its repository; or that of the flags. So that the folder can be served."""

    class GgufBackend(FakeBackend):
        @classmethod
        def select_files(cls, _names: Sequence[str], options: BackendOptions) -> list[str]:
            return [f"gguf/model_{options.dtype}.gguf"]

    monkeypatch.setattr("provider.testing.FakeBackend", GgufBackend)
    hub.files |= {"gguf/model_q4.gguf": b"four bits", "gguf/model_q8.gguf": b"eight bits"}
    runs = "" if how == "flags" else ", backend: fake, dtype: q4"
    mine = f"{{name: mine, repo: {hub.repository}{runs}}}"
    text = f"models: [{mine}]" if how == "further model" else f"model: {mine}"
    (tmp_path / "litestar.yaml").write_text(f"{text}\n")
    flags = ["--backend", "fake", "--dtype", "q4"] if how == "flags" else []
    result = CliRunner().invoke(download, [name, "--to", str(tmp_path / "out"), *flags], catch_exceptions=False)
    assert result.exit_code == 0
    assert [path.name for path in (tmp_path / "out" / "gguf").iterdir()] == ["model_q4.gguf"]


def test_pickled_weights_are_converted_once_and_then_served_by_name(
    hub: HubServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before, found afterwards, without the setting and without asking for the pickle again."""
    weights = load(hub.files.pop("model.safetensors"))
    torch.save(weights, tmp_path / "pickle")
    hub.files["pytorch_model.bin"] = (tmp_path / "pickle").read_bytes()
    model, settings = ModelSettings(hub.repository), HubSettings(cache_folder=str(cache))
    with pytest.raises(InvalidModel, match="emb-provider convert tests/tiny"):
        CliRunner().invoke(download, [hub.repository], catch_exceptions=False)
    assert "pytorch_model.bin" not in hub.fetched()
    result = CliRunner().invoke(convert, [hub.repository], catch_exceptions=False)
    place = Path(result.stdout.strip())
    assert place.is_relative_to(cache / "converted")
    assert {name: value.tolist() for name, value in load_file(place / "model.safetensors").items()} == {
        name: value.tolist() for name, value in weights.items()
    }
    # Whoever cleans the cache of downloads up keeps the converted model.
    (snapshot,) = (cache / "models--tests--tiny" / "snapshots").iterdir()
    (snapshot / "pytorch_model.bin").unlink()
    hub.requests.clear()
    assert resolve(model, settings).folder == place
    assert hub.fetched() == set()
    assert resolve(model, evolve(settings, offline=True)).folder == place


def test_what_has_safetensors_is_not_converted(hub: HubServer) -> None:
    """The folder is that of the download."""
    result = CliRunner().invoke(convert, [hub.repository], catch_exceptions=False)
    assert "nothing to convert" in result.stderr
    assert (Path(result.stdout.strip()) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_a_built_in_backend_is_not_imported_for_a_download(tmp_path: Path, hub: HubServer) -> None:
    """torch takes seconds, and reads the safetensors alone."""
    code = "import sys; from provider.cli import cli; cli(standalone_mode=False); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, "download", hub.repository, "--to", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=tmp_path)
    assert done.stdout.split() == [str(tmp_path / "out"), "False"]
