"""`emb-provider export` finds exporters by entry point, and puts a folder in its place only when it is whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processes import clean_environment
from waiting import PATIENCE_SECONDS

from provider.cli import cli
from provider.errors import BackendUnavailable, ExportFailed, InvalidModel, ModelError, UnknownBackend
from provider.process import STOP_SIGNALS, cleaning_up_after_signals
from provider.testing.tiny import tiny_bert

EXPORTER = """
import os, signal
from pathlib import Path
from provider.errors import ExportFailed

def write(order):
    order.say(f"writing {order.optimize} {order.quantize} {order.environment}")
    (order.spec.folder / "other").mkdir()
    (order.spec.folder / "other" / "weights").write_text("weights")
    return "--backend other"

def fail(order):
    (order.spec.folder / "half").write_text("half")
    raise ExportFailed("it does not work; do something else")

def terminated(order):
    os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.fixture(autouse=True)
def exporters(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with exporters, found the way any plugin is."""
    site = tmp_path_factory.mktemp("site")
    (site / "other_exporter.py").write_text(EXPORTER)
    info = site / "other_exporter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-exporter\nVersion: 1.0\n")
    points = ["other = other_exporter:write", "failing = other_exporter:fail", "ended = other_exporter:terminated"]
    (info / "entry_points.txt").write_text("\n".join(["[provider.exporters]", *points, "broken = no_such_module:f"]))
    monkeypatch.syspath_prepend(site)
    return site


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tiny_bert(tmp_path / "tiny", dense=16)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_text("another format")
    (folder / "LICENSE").write_text("may be used")
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["export", *arguments], catch_exceptions=False)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_new_folder_has_the_model_and_what_the_exporter_wrote(model: Path, tmp_path: Path) -> None:
    result = run("./tiny", "--to", "other", "--optimize", "O2", "--quantize", "int8", "-o", "new")
    assert result.stdout.strip() == str(tmp_path / "new")
    assert f"serve --model {tmp_path / 'new'} --backend other" in result.stderr
    assert "writing O2 int8 None" in result.stderr
    assert files_of(tmp_path / "new") == (files_of(model) - {"onnx/model.onnx"}) | {"other/weights"}
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_without_an_output_the_folder_is_called_after_model_and_format(model: Path, tmp_path: Path) -> None:
    assert run(str(model), "--to", "other").exit_code == 0
    assert (tmp_path / "tiny-other" / "other" / "weights").is_file()


def test_a_configured_name_means_its_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "litestar.yaml").write_text(f"model:\n  name: mine\n  path: {model}\n")
    assert run("mine", "--to", "other").exit_code == 0
    assert (tmp_path / "mine-other" / "model.safetensors").is_file()


def test_nothing_is_left_of_an_export_that_fails(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="do something else"):
        run("./tiny", "--to", "failing", "-o", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_nothing_is_left_of_an_export_that_is_terminated(exporters: Path, model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "provider", "export", str(model), "--to", "ended", "-o", "new"]
    environment = clean_environment(PYTHONPATH=str(exporters))
    done = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_signals_are_handled_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with cleaning_up_after_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_folder_that_is_not_empty_is_not_touched(model: Path) -> None:
    before = files_of(model)
    with pytest.raises(ModelError, match=r"exists and is not empty; choose another folder"):
        run("./tiny", "--to", "other", "-o", "tiny")
    assert files_of(model) == before


def test_a_place_that_cannot_be_written_to_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot write .*file/new"):
        run("./tiny", "--to", "other", "-o", "file/new")


def test_a_damaged_model_is_refused_before_the_exporter_sees_it(model: Path, tmp_path: Path) -> None:
    os.truncate(model / "model.safetensors", 1000)
    with pytest.raises(InvalidModel, match="truncated"):
        run("./tiny", "--to", "other", "-o", "new")
    assert not (tmp_path / "new").exists()


def test_an_unknown_format_says_which_there_are(model: Path) -> None:
    with pytest.raises(UnknownBackend, match=r"no exporter to 'warp'; installed are: .*other.*provider\.exporters"):
        run("./tiny", "--to", "warp")


def test_an_exporter_that_cannot_be_imported_is_named(model: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"exporter to 'broken' \(no_such_module:f\)"):
        run("./tiny", "--to", "broken")
