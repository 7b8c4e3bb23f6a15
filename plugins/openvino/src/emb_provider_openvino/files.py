"""Models that are OpenVINO's already: an `.xml` file with its `.bin` beside it, as optimum writes to `openvino/`."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

import openvino

from emb_provider_openvino.compiled import KNOWN_INPUTS
from provider.backends import BackendUnavailable, InvalidModel, ModelSpec

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
    """Read the OpenVINO model `file`, a path inside `spec.folder`, and make rows and width of its inputs free.

    Raises:
        BackendUnavailable: it is no path of an `.xml` inside the model's folder.
        InvalidModel: it is missing, damaged, or no encoder of this model's width.
    """
    path = spec.folder / _checked(file)
    missing = [each.name for each in (path, path.with_suffix(".bin")) if not each.is_file()]
    if missing:
        there = sorted(each.relative_to(spec.folder).as_posix() for each in spec.folder.glob("**/*.xml"))
        msg = (
            f"{path.parent} has no {' and no '.join(missing)}; the model's folder has {', '.join(there) or 'no .xml'}. "
            "Leave options.file out to convert the model's safetensors"
        )
        raise InvalidModel(msg)
    try:
        model: openvino.Model = openvino.Core().read_model(path)
        names = [each.any_name for each in model.inputs]
        model.reshape({name: openvino.PartialShape([-1, -1]) for name in names})
        width = model.outputs[0].partial_shape[-1]
        rank = model.outputs[0].partial_shape.rank.get_length()
    except Exception as exc:
        msg = (
            f"{path} is damaged or no OpenVINO model; restore it, or leave options.file out to convert the safetensors"
        )
        raise InvalidModel(msg) from exc
    unknown = sorted(set(names) - set(KNOWN_INPUTS))
    if unknown or "input_ids" not in names:
        msg = f"{path} asks for the inputs {', '.join(names)}; supported are {', '.join(KNOWN_INPUTS)}"
        raise InvalidModel(msg)
    if rank != 3 or (width.is_static and width.get_length() != spec.hidden_size):
        msg = (
            f"{path} answers {model.outputs[0].partial_shape}, expected hidden states of width {spec.hidden_size}; "
            "export the model for feature extraction"
        )
        raise InvalidModel(msg)
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
    for path in (spec.folder / file, (spec.folder / file).with_suffix(".bin")):
        with path.open("rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()[:16]
