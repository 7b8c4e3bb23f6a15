"""Which `.onnx` file of a model to run, in its folder or its repository.

A quantised one is never taken unless it was asked for.
"""

from collections.abc import Collection
from pathlib import Path

from attrs import frozen

from emb_provider_onnx.graph import Graph
from emb_provider_onnx.processor import QUANTISED_FILES, instruction_sets, set_in_name
from provider.backends import BackendUnavailable, InvalidModel, ModelSpec, unknown_name

DEFAULT_FILE = "model.onnx"
DTYPES = ("float32", "float16", "bfloat16", "int8")
# Weights that do not fit into the graph's file lie beside it: as optimum names them, and as torch.onnx does.
_DATA_SUFFIXES = ("_data", ".data")


@frozen
class Selected:
    """The file, and what it says about itself."""

    path: Path
    graph: Graph


def select_names(names: Collection[str], *, dtype: str, file: str | None) -> tuple[str, ...]:
    """What `select_file` will take once it is here, out of the `names` of a repository's files, and its data files.

    Raises:
        BackendUnavailable: no such dtype, or `file` is no name of an `.onnx` file.
    """
    graph = _best(names, _file_names(dtype, file))
    if graph is None:
        return ()
    beside = tuple(f"{graph}{suffix}" for suffix in _DATA_SUFFIXES)
    return (graph, *(name for name in names if name.startswith(beside)))


def select_file(spec: ModelSpec, *, dtype: str, file: str | None) -> Selected:
    """Find the file for `dtype`, or the file called `file`, in the model's folder or its `onnx/`; see `place_of`.

    Args:
        spec: of the model.
        dtype: one of `DTYPES`, or `auto`: whatever `file` is, float32 without it. `int8` takes the quantised file for
            this processor.
        file: its name, or `onnx/` and its name; None to go by `dtype`.

    Raises:
        BackendUnavailable: no such dtype, or a quantised file for another instruction set.
        InvalidModel: there is no such file, it is damaged, or of another dtype.
    """
    present = _present(spec)
    name = _best(present, _file_names(dtype, file))
    if name is None:
        raise InvalidModel(_what_is_missing(spec, dtype, file))
    path = spec.place_of(name)
    wanted = "float32" if dtype == "auto" and file is None else dtype
    graph = Graph.read(path)
    if wanted not in ("auto", graph.dtype):
        msg = (
            f"{path} is {graph.dtype}, and {wanted} is wanted; set dtype to {graph.dtype}, "
            f"or name another file (options.file). There are: {_listed(present)}"
        )
        raise InvalidModel(msg)
    if graph.dtype == "int8":
        _check_instructions(path)
    return Selected(path, graph)


def _file_names(dtype: str, file: str | None) -> tuple[str, ...]:
    """Names that would do, without a folder, the best first; none if this processor runs no quantised file."""
    if dtype not in ("auto", *DTYPES):
        raise unknown_name(dtype, ("auto", *DTYPES), what="dtype")
    if file is None:
        return tuple(QUANTISED_FILES[name] for name in instruction_sets()) if dtype == "int8" else (DEFAULT_FILE,)
    name = file.removeprefix("onnx/")
    if Path(name).name != name or not name.endswith(".onnx"):
        msg = f"options.file is {file!r}, expected the name of an .onnx file in the model's folder or its onnx/ folder"
        raise BackendUnavailable(msg)
    return (file,)


def _best(present: Collection[str], names: Collection[str]) -> str | None:
    """The first of `names` that is there, in `onnx/` or else beside the configuration."""
    places = (place for name in names for place in (f"onnx/{name}", name))
    return next((place for place in places if place in present), None)


def _what_is_missing(spec: ModelSpec, dtype: str, file: str | None) -> str:
    present = _present(spec)
    there = f"there are {_listed(present)}" if present else "it has no .onnx file"
    if file is not None or dtype != "int8":
        there += " (options.file names one)" if present else ""
        missing = f"onnx/{(file or DEFAULT_FILE).removeprefix('onnx/')}"
        return f"{spec.root} has no {missing}: {there}. {_way_out(spec, '')}"
    sets = instruction_sets()
    usable = " or ".join(f"onnx/{QUANTISED_FILES[name]}" for name in sets)
    what = f"for {' and '.join(sets)} ({usable})" if sets else "that this processor could run"
    return f"{spec.root} has no quantised file {what}: {there}. {_way_out(spec, ' --quantize int8')}"


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
    """The `.onnx` files of the model's folder, as a repository names them."""
    return [*spec.names("onnx/*.onnx"), *spec.names("*.onnx")]


def _listed(present: Collection[str]) -> str:
    return ", ".join(sorted({name.removeprefix("onnx/") for name in present}))


def _way_out(spec: ModelSpec, more: str) -> str:
    return (
        f"Make it: emb-provider export {spec.root} --to onnx{more} --output NEW_FOLDER, then serve that folder; "
        "or take one that the model's repository has: copy it to the folder's onnx/, or for a model from the hub "
        "name it (options.file)"
    )
