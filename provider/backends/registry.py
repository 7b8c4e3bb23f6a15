"""Finding backends by entry point. Names are listed without importing anything."""

import contextlib
import difflib
import re
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any

import attrs
import msgspec

from provider.backends.protocol import Backend
from provider.errors import BackendUnavailable, SettingsError, UnknownBackend

GROUP = "provider.backends"
AUTO = "auto"
"""In the place of a backend's name: the fastest, which is chosen when the model is loaded; torch before."""

# Backends of this project's other distributions, and what people call backends.
_DISTRIBUTIONS = {"onnx": "emb-provider-onnx", "openvino": "emb-provider-openvino"}
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
    found: defaultdict[str, dict[str, EntryPoint]] = defaultdict(dict)
    for point in entry_points(group=GROUP):
        # An editable install can be listed twice under one distribution; the value tells it from a clash.
        found[point.name][point.value] = point
    return {name: tuple(found[name].values()) for name in sorted(found)}


def find_entry_point(name: str) -> EntryPoint:
    """The entry point registered as `name`, for `AUTO` that of torch; nothing is imported.

    Raises:
        UnknownBackend: nothing is registered under it, or two distributions are.
    """
    installed = installed_backends()
    name = "torch" if name == AUTO else name
    points = installed.get(name, ())
    if not points:
        raise UnknownBackend(_unknown(name, list(installed)))
    if len(points) > 1:
        owners = ", ".join(f"{point.value} ({_distribution(point)})" for point in points)
        msg = f"backend {name!r} is registered more than once: {owners}. Uninstall all but one"
        raise UnknownBackend(msg)
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
        msg = f"backend {name!r} ({point.value}, from {_distribution(point)}) cannot be imported: {exc!r}"
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
    owner = find_entry_point(name).dist
    if owner is None:
        return {}
    found = {owner.name: owner.version}
    for requirement in owner.requires or ():
        required = re.match(r"[\w.-]+", requirement)
        if required is not None and "extra ==" not in requirement:
            with contextlib.suppress(PackageNotFoundError):
                found[required[0]] = version(required[0])
    return found


def own_options(name: str, backend: type[Backend], given: Mapping[str, Any]) -> Any:  # noqa: ANN401 - the class is the backend's
    """`given` (a model's `options:`) as an instance of the backend's `Options`, defaults filled in.

    Raises:
        SettingsError: an option the backend does not have, or a value of another type.
    """
    fields = {each.name: each for each in attrs.fields(backend.Options)}
    for key in given:
        if key not in fields:
            allowed = f"its options are: {', '.join(sorted(fields))}" if fields else "it has no options"
            msg = f"options.{key}: unknown option of backend {name!r}; {allowed}"
            raise SettingsError(msg)
    try:
        return msgspec.convert(dict(given), backend.Options)
    except msgspec.ValidationError as exc:
        msg = f"options of backend {name!r}: {exc} (got {dict(given)!r})"
        raise SettingsError(msg) from exc


def _unknown(name: str, installed: list[str]) -> str:
    msg = f"backend {name!r} is not installed; installed are: {', '.join(installed) or 'none'}."
    asked = name.lower().replace("_", "-")
    likely = _OTHER_NAMES.get(asked) or next(
        iter(difflib.get_close_matches(asked, [*installed, *_DISTRIBUTIONS], n=1)), None
    )
    if likely is None:
        return f"{msg} Install the distribution that provides it (an entry point {name!r} in the group {GROUP!r})"
    if likely != name:
        msg += f" Did you mean {likely}?"
    if likely not in installed:
        name = _DISTRIBUTIONS[likely]
        msg += f" It comes with {name}: pip install its wheel, or ./plugins/{likely} of emb-provider's repository"
    return msg


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown distribution"
