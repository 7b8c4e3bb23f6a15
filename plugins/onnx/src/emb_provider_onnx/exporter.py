"""`emb-provider export MODEL --to onnx`: optimum at work in an environment of its own."""

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from emb_provider_onnx.environment import Environment
from emb_provider_onnx.processor import QUANTISED_FILES, instruction_sets
from emb_provider_onnx.selection import DEFAULT_FILE
from provider.backends.exporters import ExportOrder
from provider.domain import ScoreTask
from provider.errors import ExportFailed, SettingsError

LEVELS = ("O1", "O2", "O3")
# optimum's `avx512` is not here: without VNNI its sums overflow on real processors, and with it there is a better one.
TARGETS = ("avx512_vnni", "avx2", "arm64")


def export(order: ExportOrder) -> str:
    """Write `onnx/model.onnx`, and the quantised file if asked, into the model's folder; see `ExportOrder`.

    Raises:
        SettingsError: an unknown level or type.
        ExportFailed: no environment for optimum can be made, or optimum fails.
    """
    if order.optimize not in (None, *LEVELS):
        msg = f"--optimize is {order.optimize!r}; for onnx it is one of {', '.join(LEVELS)}"
        raise SettingsError(msg)
    target = _quantisation(order.quantize)
    package = files("emb_provider_onnx")
    with as_file(package / "export-requirements.txt") as requirements:
        environment = Environment.open(order.environment, requirements, order.say)
    folder, work = order.spec.folder / "onnx", order.spec.folder / "onnx.partial"
    work.mkdir()
    orders = {
        "model": str(order.spec.folder),
        "output": str(work),
        "task": "feature-extraction" if order.spec.find(ScoreTask) is None else "text-classification",
        "optimize": order.optimize,
        "quantize": target,
    }
    with as_file(package / "optimum_export.py") as script:
        _run(environment, script, json.dumps(orders), order)
    folder.mkdir()
    for path in work.glob("*.onnx*"):
        path.replace(folder / path.name)
    shutil.rmtree(work)
    wanted = {DEFAULT_FILE, *([QUANTISED_FILES[target]] if target else [])}
    if missing := wanted - {path.name for path in folder.iterdir()}:
        msg = f"optimum wrote no {', '.join(sorted(missing))}; this is a defect of the exporter to onnx"
        raise ExportFailed(msg)
    return "--backend onnx --dtype int8" if target else "--backend onnx"


def _run(environment: Environment, script: Path, orders: str, order: ExportOrder) -> None:
    last = ""
    with environment.run(script, orders) as process:
        assert process.stdout is not None  # noqa: S101 - for the types: it is a pipe
        for line in map(str.strip, process.stdout):
            if line.startswith("step: "):
                order.say(line.removeprefix("step: "))
            elif line:
                last = line
    if process.returncode:
        reason = last.removeprefix("error: ") or f"it ended with {process.returncode}"
        msg = f"optimum cannot export {order.spec.name} ({order.spec.architecture}): {reason}"
        raise ExportFailed(msg)


def _quantisation(asked: str | None) -> str | None:
    """The instruction set to quantise for: this machine's, unless one is named behind a colon."""
    kind, _, target = (asked or "").partition(":")
    if asked is None:
        return None
    if kind != "int8" or (target and target not in TARGETS):
        msg = f"--quantize is {asked!r}; for onnx it is int8, or int8:NAME for another machine's {', '.join(TARGETS)}"
        raise SettingsError(msg)
    found = [target] if target else [name for name in instruction_sets() if name in TARGETS]
    if not found:
        msg = f"this processor has none of {', '.join(TARGETS)}; name that of the machine to serve on: int8:avx2"
        raise SettingsError(msg)
    return found[0]
