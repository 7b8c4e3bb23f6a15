"""Which `.onnx` file of a model's folder to run. A quantised one is never taken unless it was asked for."""

from pathlib import Path

from attrs import frozen

from emb_provider_onnx.graph import Graph
from emb_provider_onnx.processor import QUANTISED_FILES, instruction_sets, set_in_name
from provider.backends import BackendUnavailable, InvalidModel, ModelSpec

DEFAULT_FILE = "model.onnx"
DTYPES = ("float32", "float16", "bfloat16", "int8")


@frozen
class Selected:
    """The file, and what it says about itself."""

    path: Path
    graph: Graph


def select_file(spec: ModelSpec, *, dtype: str, file: str | None) -> Selected:
    """Find the file for `dtype`, or the file called `file`, in the model's folder or its `onnx/`.

    Args:
        spec: of the model.
        dtype: one of `DTYPES`, or `auto`: whatever `file` is, float32 without it. `int8` takes the quantised file for
            this processor.
        file: its name; None to go by `dtype`.

    Raises:
        BackendUnavailable: no such dtype, or a quantised file for another instruction set.
        InvalidModel: there is no such file, it is damaged, or of another dtype.
    """
    if dtype not in ("auto", *DTYPES):
        msg = f"unknown dtype {dtype!r}; the onnx backend has auto, {', '.join(DTYPES)}"
        raise BackendUnavailable(msg)
    path = _quantised(spec) if file is None and dtype == "int8" else _named(spec, file or DEFAULT_FILE)
    wanted = "float32" if dtype == "auto" and file is None else dtype
    graph = Graph.read(path)
    if wanted not in ("auto", graph.dtype):
        msg = (
            f"{path} is {graph.dtype}, and {wanted} is wanted; set dtype to {graph.dtype}, "
            f"or name another file (options.file). There are: {', '.join(_present(spec))}"
        )
        raise InvalidModel(msg)
    if graph.dtype == "int8":
        _check_instructions(path)
    return Selected(path, graph)


def _named(spec: ModelSpec, name: str) -> Path:
    if Path(name).name != name or not name.endswith(".onnx"):
        msg = f"options.file is {name!r}, expected the name of an .onnx file in the model's folder or its onnx/ folder"
        raise BackendUnavailable(msg)
    for place in (spec.folder / "onnx", spec.folder):
        if (place / name).is_file():
            return place / name
    found = _present(spec)
    there = f"there are {', '.join(found)} (options.file names one)" if found else "it has no .onnx file"
    msg = f"{spec.folder} has no onnx/{name}: {there}. {_way_out(spec, '')}"
    raise InvalidModel(msg)


def _quantised(spec: ModelSpec) -> Path:
    sets = instruction_sets()
    present = _present(spec)
    for name in sets:
        if QUANTISED_FILES[name] in present:
            return _named(spec, QUANTISED_FILES[name])
    usable = " or ".join(f"onnx/{QUANTISED_FILES[name]}" for name in sets)
    there = f"there are {', '.join(present)}" if present else "it has no .onnx file"
    what = f"for {' and '.join(sets)} ({usable})" if sets else "that this processor could run"
    msg = f"{spec.folder} has no quantised file {what}: {there}. {_way_out(spec, ' --quantize int8')}"
    raise InvalidModel(msg)


def _check_instructions(path: Path) -> None:
    needed, sets = set_in_name(path.name), instruction_sets()
    if needed is not None and needed not in sets:
        msg = (
            f"{path} is quantised for {needed}, and this processor has {', '.join(sets) or 'none such'}: it "
            "would be slow or wrong here. Set dtype int8 without options.file, after `emb-provider export` with "
            "--quantize int8 on this machine"
        )
        raise BackendUnavailable(msg)


def _present(spec: ModelSpec) -> list[str]:
    return sorted({path.name for place in (spec.folder / "onnx", spec.folder) for path in place.glob("*.onnx")})


def _way_out(spec: ModelSpec, more: str) -> str:
    return (
        f"Make it: emb-provider export {spec.folder} --to onnx{more} --output NEW_FOLDER, then serve that folder; "
        "or copy the onnx/ folder of the model's repository there"
    )
