"""Finding backends by entry point. Names are listed without importing anything."""

import difflib
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

from provider.backends.protocol import Backend
from provider.entry_points import clash, distribution, installed, read_options, versions
from provider.errors import BackendUnavailable, UnknownBackend

GROUP = "provider.backends"
AUTO = "auto"
"""In the place of a backend's name: the fastest, which is chosen when the model is loaded; torch before."""

# Backends of this project's other distributions, and what people call backends.
_DISTRIBUTIONS = {"onnx": "emb-provider-onnx", "openvino": "emb-provider-openvino", "ray": "emb-provider-ray"}
_OTHER_NAMES = {
    "compile": "torch-compile",
    "cpu": "torch",
    "cuda": "torch",
    "gpu": "torch",
    "inductor": "torch-compile",
    "onnxruntime": "onnx",
    "ort": "onnx",
    "ov": "openvino",
    "sentence-transformers": "torch",
    "transformers": "torch",
}


def installed_backends() -> dict[str, tuple[EntryPoint, ...]]:
    """Every registered backend's name and entry points, sorted by name, nothing imported.

    More than one entry point under a name is a clash, and `find_backend` refuses it.
    """
    return installed(GROUP)


def find_entry_point(name: str) -> EntryPoint:
    """The entry point registered as `name`, for `AUTO` that of torch; nothing is imported.

    Raises:
        UnknownBackend: nothing is registered under it, or two distributions are.
    """
    known = installed_backends()
    name = "torch" if name == AUTO else name
    points = known.get(name, ())
    if not points:
        raise UnknownBackend(_unknown(name, list(known)))
    if len(points) > 1:
        raise UnknownBackend(clash(f"backend {name!r}", points))
    return points[0]


def find_backend(name: str) -> type[Backend]:
    """Import the backend registered as `name`.

    Raises:
        UnknownBackend: as `find_entry_point`.
        BackendUnavailable: importing it fails, or what it names is no backend.
    """
    point = find_entry_point(name)
    try:
        found = point.load()
    except Exception as exc:
        msg = f"backend {name!r} ({point.value}, from {distribution(point)}) cannot be imported: {exc!r}"
        raise BackendUnavailable(msg) from exc
    missing = [
        part for part in ("Options", "concurrent", "outputs", "load", "run", "close") if not hasattr(found, part)
    ]
    if missing:
        msg = f"backend {name!r} ({point.value}) is no backend: it has no {', '.join(missing)}"
        raise BackendUnavailable(msg)
    checked: type[Backend] = found
    return checked


def versions_of(name: str) -> dict[str, str]:
    """Versions of the distribution that registers the backend `name`, and of those that it requires and are installed.

    Raises:
        UnknownBackend: as `find_entry_point`.
    """
    return versions(find_entry_point(name))


def own_options(name: str, backend: type[Backend], given: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the class is the backend's
    """`given` (a model's `options:`) as an instance of the backend's `Options`, defaults filled in.

    Raises:
        SettingsError: an option the backend does not have, or a value of another type.
    """
    return read_options(f"backend {name!r}", backend.Options, given)


def _unknown(name: str, known: list[str]) -> str:
    msg = f"backend {name!r} is not installed; installed are: {', '.join(known) or 'none'}."
    asked = name.lower().replace("_", "-")
    likely = _OTHER_NAMES.get(asked) or next(
        iter(difflib.get_close_matches(asked, [*known, *_DISTRIBUTIONS], n=1)), None
    )
    if likely is None:
        return f"{msg} Install the distribution that provides it (an entry point {name!r} in the group {GROUP!r})"
    if likely != name:
        msg += f" Did you mean {likely}?"
    if likely not in known:
        name = _DISTRIBUTIONS[likely]
        msg += f" It comes with {name}: pip install its wheel, or ./plugins/{likely} of emb-provider's repository"
    return msg
