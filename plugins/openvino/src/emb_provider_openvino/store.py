"""Converted models on disk. What is there is whole: it is written beside its place, and moved there when complete.

One folder a model: `model.xml`, `model.bin` and `manifest.json`, which has the digests of both. Any number of processes
may share the store; whoever comes second to a place leaves what is there.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import openvino
from attrs import frozen

_log = logging.getLogger(__name__)

Made = tuple[openvino.Model, dict[str, Any]]
"""A model, and facts about it (JSON values)."""

_FILES = ("model.xml", "model.bin")
_MANIFEST = "manifest.json"
_UNFINISHED = ".unfinished-"
# A process that was killed while writing leaves its unfinished folder behind; nobody writes for so long.
_ABANDONED_SECONDS = 24 * 3600


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


@frozen
class Store:
    """A folder of converted models; it need not exist, and need not be writable."""

    folder: Path

    @classmethod
    def at(cls, folder: str | None, environ: Mapping[str, str]) -> "Store":
        """The store in `folder`, or in the user's cache if None: `$XDG_CACHE_HOME`, else `~/.cache`."""
        if folder is not None:
            return cls(Path(folder).expanduser())
        return cls(Path(environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "emb-provider" / "openvino")

    def fetch(self, name: str, key: Mapping[str, str], make: Callable[[], Made]) -> Converted:
        """The model kept under `name` and `key`, made and kept now if it is not there.

        Args:
            name: readable, for the folder's name.
            key: all that decides what `make` makes.
            make: answers the model and facts about it; what it raises is passed on, and nothing is kept.
        """
        parts = json.dumps(dict(key), sort_keys=True)
        place = self.folder / f"{name}-{hashlib.sha256(parts.encode()).hexdigest()[:16]}"
        kept = self._read(place)
        if kept is not None:
            return kept
        started = time.monotonic()
        model, facts = make()
        _log.info("model %s was converted in %.1f s", name, time.monotonic() - started)
        try:
            self._write(place, model, facts)
        except (OSError, RuntimeError) as exc:
            _log.warning(
                "the converted model cannot be kept in %s (%s): it was converted in memory, and is at every start; "
                "make the folder writable or set options.cache_folder",
                self.folder,
                " ".join(str(exc).split())[:200],
            )
            return Converted(model, facts, is_from_disk=False)
        # From the files, so that the weights are shared with other processes and torch's copy can go.
        written = self._read(place)
        return Converted(written.model if written else model, facts, is_from_disk=False)

    def _read(self, place: Path) -> Converted | None:
        """What is kept at `place`; None if there is nothing, or if it is damaged: then it is removed."""
        try:
            manifest = json.loads((place / _MANIFEST).read_bytes())
            if {name: _digest(place / name) for name in _FILES} == manifest["sha256"]:
                model: openvino.Model = openvino.Core().read_model(place / _FILES[0])
                return Converted(model, manifest["facts"], is_from_disk=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            if not place.exists():
                return None
        _log.warning("the converted model in %s is damaged: it is removed and converted again", place)
        self._remove(place)
        return None

    def _write(self, place: Path, model: openvino.Model, facts: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=self.folder, ignore_cleanup_errors=True) as unfinished:
            folder = Path(unfinished) / "model"
            folder.mkdir()
            openvino.save_model(model, folder / _FILES[0], compress_to_fp16=False)
            manifest = {"sha256": {name: _digest(folder / name) for name in _FILES}, "facts": dict(facts)}
            (folder / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
            # Where another process was faster there is a folder already, which cannot be replaced, and need not be.
            with contextlib.suppress(FileExistsError):
                _move(folder, place)

    def _remove(self, place: Path) -> None:
        """Move it aside first: nobody sees half of it."""
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=self.folder) as aside:
            _move(place, Path(aside) / "damaged")

    def _sweep(self) -> None:
        for each in self.folder.glob(f"{_UNFINISHED}*"):
            with contextlib.suppress(OSError):
                if time.time() - each.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(each, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as exc:
        if target.is_dir():
            raise FileExistsError(target) from exc
        raise


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
