"""Models exported by the real command, kept with optimum's environment beside the environment of development."""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path

from emb_provider_onnx.processor import instruction_sets
from processes import ROOT, clean_environment

from provider.testing import packaged_minilm

KEPT = ROOT / ".venv" / "exporters"
# What an export's result depends on, beside the model and the options.
_SOURCES = ("export-requirements.txt", "exporter.py", "optimum_export.py", "processor.py")


@contextmanager
def _alone() -> Iterator[None]:
    """No other process that runs tests exports meanwhile."""
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def export(*arguments: str, environment: Path = KEPT, **more: str) -> "subprocess.CompletedProcess[str]":
    """`emb-provider export … --to onnx` in a process of its own."""
    with _alone():
        return _export(*arguments, environment=environment, **more)


def _export(*arguments: str, environment: Path = KEPT, **more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "provider", "export", *arguments, "--to", "onnx"]
    return subprocess.run(
        [*command, "--environment", str(environment)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env=clean_environment(**more),
    )


@cache
def exported(model: Path, *options: str) -> Path:
    """The folder of an exported model, not to be written to; made if no run before this one has made it."""
    folder = KEPT / f"model-{_digest(model, options)}"
    with _alone():
        if not folder.exists():
            done = _export(str(model), *options, "--output", str(folder))
            assert done.returncode == 0, done.stderr
    return folder


def exported_minilm(_: Path | None = None) -> Path:
    """all-MiniLM-L6-v2, optimised, with a quantised file; it can stand among the shapes of a `BackendContract`."""
    return exported(packaged_minilm(), "--optimize", "O2", "--quantize", "int8")


def with_graph(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """What writes the tiny model of `write` and its graph, for the shapes of a `BackendContract`.

    What follows the transformer is not in the graph, so models with the same weights share one.
    """

    def written(path: Path) -> Path:
        folder = write(path)
        shutil.copytree(exported(folder) / "onnx", folder / "onnx", dirs_exist_ok=True)
        return folder

    return written


def _digest(model: Path, options: tuple[str, ...]) -> str:
    package = files("emb_provider_onnx")
    digest = hashlib.sha256(json.dumps([options, instruction_sets()]).encode())
    for source in (*(package / name for name in _SOURCES), model / "config.json", model / "model.safetensors"):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]
