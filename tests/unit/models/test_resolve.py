"""From settings to a folder."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from provider.errors import InvalidModel, SourceNotFound
from provider.models import resolve as module
from provider.models.hub import Snapshot
from provider.models.resolve import resolve
from provider.models.selection import Selection
from provider.settings import HubSettings, ModelSettings

HUB = HubSettings(offline=True, cache_folder="/cache")


def test_a_folder_is_taken_as_it_is(folder: Path) -> None:
    found = resolve(ModelSettings(path=str(folder)), HUB)
    assert (found.folder, found.revision, found.own) == (folder, None, ())


def test_a_home_folder_may_be_written_with_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve(ModelSettings(path="~/model"), HUB).folder == folder


def test_files_that_the_backend_reads_do_for_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").touch()
    model = ModelSettings(path=str(folder))
    with pytest.raises(InvalidModel, match="--backend onnx"):
        resolve(model, HUB)
    assert resolve(model, HUB, select_more=lambda _: ["onnx/model.onnx"]).own == ("onnx/model.onnx",)


@pytest.mark.parametrize("is_file", [True, False])
def test_a_missing_folder_is_named_with_the_setting(is_file: bool, tmp_path: Path) -> None:
    path = tmp_path / "model"
    if is_file:
        path.touch()
    with pytest.raises(SourceNotFound, match=r"/model .*model\.path.*EMB_PROVIDER_MODEL_PATH"):
        resolve(ModelSettings(path=str(path)), HUB)


def test_a_folder_in_a_package_is_found_without_importing_the_package(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "carrier" / "data").mkdir(parents=True)
    folder.rename(tmp_path / "carrier" / "data" / "model")
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    found = resolve(ModelSettings(path="package:carrier/data/model"), HUB)
    assert (found.folder, found.revision) == (tmp_path / "carrier" / "data" / "model", None)
    assert "carrier" not in sys.modules
    with pytest.raises(SourceNotFound, match=r"'carrier'.*'other'"):
        resolve(ModelSettings(path="package:carrier/other"), HUB)


@pytest.mark.parametrize("package", ["no_such_package", "no-such-package", "os.path"])
def test_a_package_that_is_not_installed_says_what_to_install(package: str) -> None:
    with pytest.raises(SourceNotFound, match="pip install"):
        resolve(ModelSettings(path=f"package:{package}/model"), HUB)


def test_a_module_that_is_no_package_holds_no_folder() -> None:
    with pytest.raises(SourceNotFound):
        resolve(ModelSettings(path="package:abc/model"), HUB)


def test_without_a_path_the_hub_is_asked_for_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def download(repository: str, **options: Any) -> Snapshot:
        calls.append((repository, options))
        return Snapshot(Path("/somewhere"), "c" * 40, repository, Selection())

    def notify(phase: str, detail: dict[str, object]) -> None:
        """Told nothing here."""

    def select_more(_names: Sequence[str]) -> list[str]:
        return []

    monkeypatch.setattr(module, "download", download)
    found = resolve(
        ModelSettings(name="tiny", revision="v1"), HUB, select_more=select_more, progress=True, notify=notify
    )
    assert (found.folder, found.revision) == (Path("/somewhere"), "c" * 40)
    expected = {
        "revision": "v1",
        "offline": True,
        "cache_folder": "/cache",
        "select_more": select_more,
        "converts": False,
        "converted": Path("/cache/converted"),
        "progress": True,
        "notify": notify,
    }
    assert calls == [("sentence-transformers/tiny", expected)]


def test_a_package_without_a_name_is_told_the_form() -> None:
    with pytest.raises(SourceNotFound, match="names no package; write package:NAME/FOLDER"):
        resolve(ModelSettings(path="package:"), HUB)
