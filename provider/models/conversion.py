"""Pickled weights, converted once to safetensors and kept.

A converted model is a folder of its own, an entry of a `Store`: the model's files, with `model.safetensors` in place of
`pytorch_model.bin`. The original is not touched. `provider.backends.torch.pickled_weights` unpickles, in a process of
its own.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attrs import frozen

from provider.errors import InvalidModel, ModelError
from provider.models.folder import read_object
from provider.models.selection import Selection
from provider.models.weights import PICKLED_INDEX, check_safetensors, fingerprint, safetensors_name
from provider.settings import HubSettings
from provider.store import Store

_CONVERTER = "provider.backends.torch.pickled_weights"

_log = logging.getLogger(__name__)


@frozen
class Conversion:
    """What to convert.

    Attributes:
        source: the folder with the model's files.
        selection: which of them make the model.
        place: the folder of the converted model.
    """

    source: Path
    selection: Selection
    place: Path

    @property
    def is_done(self) -> bool:
        """Whether the converted model is there, and whole."""
        pickled = self.selection.pickled
        paths = [self.place / (safetensors_name(n) if n in pickled else n) for n in self.selection.files]
        if not all(path.is_file() for path in paths):
            return False
        try:
            for path in paths:
                if path.suffix == ".safetensors":
                    check_safetensors(path)
        except InvalidModel:
            return False
        return True


def store_folder(hub: HubSettings) -> Path:
    """Where converted models are kept: in `hub.cache_folder`, else in the user's cache."""
    own = None if hub.cache_folder is None else Path(hub.cache_folder) / "converted"
    return Store.at(own, "converted").folder


def place_of(store: Path, name: str, selection: Selection, *, content: str) -> Path:
    """Where the converted model goes: the same place for the same files.

    Args:
        store: see `store_folder`.
        name: the model's repository or folder, to be recognised by people.
        selection: its files.
        content: what they hold: a commit, or a digest.
    """
    digest = hashlib.sha256("\0".join((name, content, *selection.files)).encode()).hexdigest()
    return store / f"{name.replace('/', '--')}-{digest[:16]}"


def content_digest(folder: Path, selection: Selection) -> str:
    """Digest of a folder's files, for `place_of`. Reads every byte of them."""
    return fingerprint(folder, [folder / name for name in selection.files])


def convert(order: Conversion, *, is_shared: bool = True) -> Path:
    """Convert, unless it was done before; the folder of the converted model.

    Args:
        order: what.
        is_shared: whether other processes may convert to the same place at the same time, as in the store.

    Raises:
        InvalidModel: a file is damaged, or holds more than weights.
        ModelError: the place cannot be written to, or the disk is full.
    """
    store = Store(order.place.parent)
    try:
        entry = store.fetch(
            order.place.name,
            make=lambda folder: _convert(order, folder),
            read=lambda _: order.is_done or None,
            is_shared=is_shared,
        )
    except OSError as exc:
        raise ModelError(_cannot_write(order.place, exc.strerror or str(exc))) from exc
    return entry.folder


def _convert(order: Conversion, folder: Path) -> None:
    """Write the converted model into an empty folder."""
    started = time.monotonic()
    source, pickled = order.source, order.selection.pickled
    _log.info("converting %s of %s to safetensors, once, into %s", ", ".join(pickled), source, order.place)
    _check_space(order)
    for name in order.selection.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name not in pickled:
            _link_or_copy(source / name, folder / name)
    _write_index(order, folder)
    _run_converter(order, folder)
    _log.info("converted %s in %.1f s", source, time.monotonic() - started)


def _check_space(order: Conversion) -> None:
    needed = sum((order.source / name).stat().st_size for name in order.selection.files)
    if shutil.disk_usage(order.place.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _link_or_copy(source: Path, target: Path) -> None:
    """Put a file in place; safetensors are linked where possible, since they are never edited in place."""
    if source.suffix == ".safetensors":
        with contextlib.suppress(OSError):
            os.link(source.resolve(), target)
            return
    shutil.copyfile(source, target)


def _write_index(order: Conversion, partial: Path) -> None:
    """Write the index with the new names of the shards."""
    for name in order.selection.pickled:
        if name.endswith(PICKLED_INDEX):
            index = read_object(order.source / name)
            places = index.get("weight_map")
            if not isinstance(places, dict):
                msg = f"{order.source / name} has no weight_map; download the model again"
                raise InvalidModel(msg)
            index["weight_map"] = {tensor: safetensors_name(str(file)) for tensor, file in places.items()}
            (partial / safetensors_name(name)).write_text(json.dumps(index), encoding="utf-8")


def _run_converter(order: Conversion, partial: Path) -> None:
    names = [name for name in order.selection.pickled if not name.endswith(PICKLED_INDEX)]
    paths = [str(path) for name in names for path in (order.source / name, partial / safetensors_name(name))]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        with subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", _CONVERTER, *paths], stdin=subprocess.PIPE, stdout=output, stderr=output
        ) as process:
            # Its standard input stays open until it has ended: it ends with this process, however that ends.
            code = process.wait()
        output.seek(0)
        lines = output.read().strip().splitlines()
    answer: dict[str, Any] = next((json.loads(line) for line in reversed(lines) if line.startswith('{"')), {})
    if code == 0:
        for notice in answer["notices"]:
            _log.warning("%s", notice)
    elif answer.get("is_about") == "source":
        raise InvalidModel(answer["problem"])
    elif answer:
        raise ModelError(_cannot_write(order.place, answer["problem"]))
    else:
        reason = lines[-1][:300] if lines else "it said nothing; was there too little memory?"
        msg = f"converting {order.source} ended with code {code}: {reason}"
        raise ModelError(msg)


def _cannot_write(place: Path, reason: str) -> str:
    return (
        f"cannot write the converted model to {place} ({reason}); make room or make it writable, or set "
        "hub.cache_folder (EMB_PROVIDER_HUB_CACHE_FOLDER) or XDG_CACHE_HOME to another folder"
    )
