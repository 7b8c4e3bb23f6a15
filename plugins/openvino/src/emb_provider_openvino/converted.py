"""Converted models in a store: `model.xml`, `model.bin`, and the manifest with the digests of both."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import openvino
from attrs import frozen

from provider.store import Store, key_of, read_manifest, write_manifest

_log = logging.getLogger(__name__)

Made = tuple[openvino.Model, dict[str, Any]]
"""A model, and facts about it (JSON values)."""

_FILE = "model.xml"


@frozen(eq=False)
class Converted:
    """A model ready to be compiled.

    Attributes:
        model: the OpenVINO model.
        facts: what was found out while it was made (JSON values).
        is_from_disk: whether it was there already.
    """

    model: openvino.Model
    facts: Mapping[str, Any]
    is_from_disk: bool


def fetch(store: Store, name: str, key: Mapping[str, str], make: Callable[[], Made]) -> Converted:
    """The model kept under `name` and `key`, made and kept now if it is not there.

    Where the store cannot be written, the model stays in memory, and the log says so.

    Args:
        store: where converted models are kept.
        name: readable, for the folder's name.
        key: all that decides what `make` makes.
        make: answers the model and facts about it; what it raises is passed on, and nothing is kept.
    """
    made: list[Made] = []

    def write(folder: Path) -> None:
        started = time.monotonic()
        made.append(make())
        _log.info("model %s was converted in %.1f s", name, time.monotonic() - started)
        model, facts = made[0]
        openvino.save_model(model, folder / _FILE, compress_to_fp16=False)
        write_manifest(folder, facts)

    try:
        entry = store.fetch(f"{name}-{key_of(key)}", make=write, read=_read)
    except (OSError, RuntimeError) as exc:
        # OpenVINO's own errors are RuntimeErrors; without a model, it is none of the store's.
        if isinstance(exc, RuntimeError) and not made:
            raise
        _log.warning(
            "the converted model cannot be kept in %s (%s): it was converted in memory, and is at every start; "
            "make the folder writable or set options.cache_folder",
            store.folder,
            " ".join(str(exc).split())[:200],
        )
        model, facts = made[0] if made else make()
        return Converted(model, facts, is_from_disk=False)
    # From the files, so that the weights are shared with other processes and torch's copy can go.
    model, facts = entry.content
    return Converted(model, facts, is_from_disk=not entry.is_new)


def _read(folder: Path) -> Made | None:
    facts = read_manifest(folder)
    try:
        return None if facts is None else (openvino.Core().read_model(folder / _FILE), facts)
    except RuntimeError:
        return None
