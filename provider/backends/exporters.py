"""The seam to exporters: what writes a model in the format of another runtime.

An exporter is a function that takes an `ExportOrder`, registered in the entry-point group `provider.exporters` under
the name of the format. `emb-provider export` finds it, gives it a copy of the model's folder to write into, and puts
the folder in its place when the exporter returns; whatever an exporter leaves behind when it raises is removed.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from attrs import frozen

from provider.domain import ModelSpec
from provider.errors import BackendUnavailable, UnknownBackend

EXPORTERS = "provider.exporters"


@frozen
class ExportOrder:
    """What to export, and how.

    Attributes:
        spec: of the model. `spec.folder` is a complete copy of its files; the exporter adds its own to it.
        optimize: how far to optimise, in the exporter's words; None for not at all.
        quantize: what to quantise to, in the exporter's words; None for not at all.
        environment: the folder for tools that the exporter keeps for the next time; None for the user's cache.
        say: takes sentences about the progress, for a user who waits.
    """

    spec: ModelSpec
    optimize: str | None
    quantize: str | None
    environment: Path | None
    say: Callable[[str], None]


Exporter = Callable[[ExportOrder], str]
"""Answers the flags with which `emb-provider serve` runs the folder, such as `--backend onnx --dtype int8`.

It raises `ExportFailed`, or any other `ProviderError`, with a message that says what to do.
"""


def installed_exporters() -> dict[str, EntryPoint]:
    """Every registered format and its entry point, sorted by name, nothing imported."""
    return {point.name: point for point in sorted(entry_points(group=EXPORTERS), key=lambda point: point.name)}


def find_exporter(name: str) -> Exporter:
    """Import the exporter registered as `name`.

    Raises:
        UnknownBackend: nothing is registered under it.
        BackendUnavailable: importing it fails.
    """
    installed = installed_exporters()
    if name not in installed:
        msg = (
            f"there is no exporter to {name!r}; installed are: {', '.join(installed) or 'none'}. "
            f"Install the distribution that provides it (an entry point {name!r} in the group {EXPORTERS!r})"
        )
        raise UnknownBackend(msg)
    try:
        found: Exporter = installed[name].load()
    except Exception as exc:
        msg = f"the exporter to {name!r} ({installed[name].value}) cannot be imported: {exc!r}"
        raise BackendUnavailable(msg) from exc
    return found
