"""Models that are OpenVINO's already: an `.xml` file with its `.bin` beside it, as optimum writes to `openvino/`."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

import openvino

from provider.backends import BackendUnavailable, InvalidModel, ModelSpec, check_interface
from provider.domain import ScoreTask

_DEFAULT_FILES = ("openvino/openvino_model.xml", "openvino_model.xml")
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_NARROW = frozenset({"i8", "u8", "i4", "u4"})


def select_names(names: Sequence[str], file: str | None) -> list[str]:
    """Those out of the `names` of a repository's files that `read_file` reads for `file`.

    Without a `file`, and where there are no safetensors to convert, the one that optimum writes is it.

    Raises:
        BackendUnavailable: `file` is no path of an `.xml` inside the model's folder.
    """
    file = file or default_file(names)
    if file is None:
        return []
    wanted = _checked(file)
    return [name for name in names if PurePosixPath(name) in (wanted, wanted.with_suffix(".bin"))]


def default_file(names: Collection[str]) -> str | None:
    """The OpenVINO model to run where `options.file` names none: only in the absence of safetensors."""
    if any(name in names for name in _SAFETENSORS):
        return None
    return next((name for name in _DEFAULT_FILES if name in names), None)


def read_file(spec: ModelSpec, file: str) -> openvino.Model:
    """Read the OpenVINO model `file`, found by `spec.place_of`, and make rows and width of its inputs free.

    Raises:
        BackendUnavailable: it is no path of an `.xml` inside the model's folder.
        InvalidModel: it is missing, damaged, or not one of this model's task and width.
    """
    path = spec.place_of(str(_checked(file)))
    missing = [each.name for each in (path, path.with_suffix(".bin")) if not each.is_file()]
    if missing:
        there = spec.names("**/*.xml")
        msg = (
            f"{path.parent} has no {' and no '.join(missing)}; the model's folder has {', '.join(there) or 'no .xml'}. "
            "Leave options.file out to convert the model's safetensors"
        )
        raise InvalidModel(msg)
    try:
        core = openvino.Core()
        # Read, not mapped: what becomes of the file later must not reach a model that serves.
        core.set_property({"ENABLE_MMAP": False})
        model: openvino.Model = core.read_model(path)
        names = [each.any_name for each in model.inputs]
        model.reshape({name: openvino.PartialShape([-1, -1]) for name in names})
        shape = [each.get_length() if each.is_static else "?" for each in model.outputs[0].partial_shape]
    except Exception as exc:
        msg = (
            f"{path} is damaged or no OpenVINO model; restore it, or leave options.file out to convert the safetensors"
        )
        raise InvalidModel(msg) from exc
    task = "feature extraction" if spec.find(ScoreTask) is None else "text classification"
    check_interface(spec, str(path), names, shape, advice=f"export the model for {task}")
    return model


def _checked(file: str) -> PurePosixPath:
    path = PurePosixPath(file)
    if path.suffix != ".xml" or path.is_absolute() or ".." in path.parts:
        msg = (
            f"options.file is {file!r}, expected an OpenVINO model's .xml file inside the model's folder, such as "
            "openvino/openvino_model.xml"
        )
        raise BackendUnavailable(msg)
    return path


def is_quantised(model: openvino.Model) -> bool:
    """Whether weights are kept in eight bits or fewer."""
    constants = (op for op in model.get_ops() if op.get_type_name() == "Constant")
    return any(op.get_output_element_type(0).get_type_name() in _NARROW for op in constants)


def file_digest(spec: ModelSpec, file: str) -> str:
    """SHA-256 over the contents of the `.xml` and the `.bin`, 16 hexadecimal digits."""
    found = hashlib.sha256()
    xml = spec.place_of(file)
    for path in (xml, xml.with_suffix(".bin")):
        with path.open("rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()[:16]
