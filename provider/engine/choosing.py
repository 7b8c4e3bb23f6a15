"""`backend: auto`: the fastest of the installed backends that give what `torch` gives, measured once.

Fingerprints differ by backend, so a choice must not change between two starts or workers: it is made before the model
is loaded, kept in the user's cache by model, processor and installed backends, and where it cannot be kept it is torch.
An entry is removed by removing its folder: `emb-provider/backend` in `$XDG_CACHE_HOME`, else in `~/.cache`.

`emb-provider doctor` measures, in a process of its own: candidates may crash or hang, and nothing of them stays.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from attrs import fields, frozen

from provider.backends.registry import AUTO, installed_backends
from provider.cores import available_cores, processor
from provider.errors import SettingsError
from provider.settings import HubSettings, ModelSettings
from provider.store import Store, key_of, read_manifest, write_manifest

REFERENCE = "torch"
"""What outputs are compared with, and what serves where nothing else is clearly faster."""

# How much faster than torch another one has to be.
_CLEARLY = 1.1
# What has not loaded by the larger part of this is left out; and when the process is ended.
_SECONDS, _DEADLINE_SECONDS = 60, 180
_EXACT = ("auto", "float32")

_log = logging.getLogger(__name__)


@frozen
class Choice:
    """What was measured.

    Attributes:
        backend: the fastest.
        speeds: of each that gives what torch gives, as a multiple of torch's.
        left_out: why the others were not compared.
    """

    backend: str
    speeds: Mapping[str, float]
    left_out: Mapping[str, str]

    @property
    def described(self) -> str:
        """For the log."""
        parts = [f"{name} {speed:.2f}" for name, speed in self.speeds.items()]
        return ", ".join([*parts, *(f"{name} left out, {why}" for name, why in self.left_out.items())])


def check_auto(settings: ModelSettings) -> None:
    """See that what is set for a model fits any backend that may be chosen for it.

    Raises:
        SettingsError: it does not.
    """
    if settings.backend != AUTO:
        return
    if settings.options:
        names = ", ".join(sorted(settings.options))
        msg = f"options ({names}) are those of one backend; with backend: auto leave them out, or name the backend"
        raise SettingsError(msg)
    if settings.dtype not in _EXACT:
        msg = (
            f"dtype is {settings.dtype!r}, but backend: auto compares in float32; leave dtype out, or name the backend"
        )
        raise SettingsError(msg)


def choose_backend(settings: ModelSettings, hub: HubSettings, *, model: str) -> str:
    """The backend for a model with `backend: auto`: from an earlier start, or measured now (a minute or two).

    Args:
        settings: of the model; its files are there.
        hub: where they were found.
        model: digest of its files.
    """

    def make(folder: Path) -> None:
        write_manifest(folder, msgspec.to_builtins(_measured(settings, hub)))

    try:
        entry = Store.at(None, "backend").fetch(_key(settings, model), make=make, read=_read)
    except (OSError, RuntimeError, ImportError) as exc:
        # Not even for this once: the next start would choose anew.
        _log.warning("model %r: backend auto is torch, as no choice can be kept: %s", settings.served_name, exc)
        return REFERENCE
    found, when = entry.content, "measured" if entry.is_new else "remembered"
    _log.info("model %r: backend auto is %s (%s: %s)", settings.served_name, found.backend, when, found.described)
    return found.backend


def tell_faster(settings: ModelSettings, *, model: str) -> None:
    """Say in the log if a start with `backend: auto` has found a faster backend than the one that is set.

    Args:
        settings: of the model.
        model: digest of its files.
    """
    try:
        known = _read(Store.at(None, "backend").place(_key(settings, model)))
    except RuntimeError:
        return
    if known is None or settings.backend not in known.speeds or settings.dtype not in _EXACT:
        return
    factor = known.speeds[known.backend] / known.speeds[settings.backend]
    if factor > _CLEARLY:
        _log.info(
            "model %r: the backend %s is %.2f times as fast as %s here, and gives the same; set backend: %s, or auto",
            *(settings.served_name, known.backend, factor, settings.backend, known.backend),
        )


def _key(settings: ModelSettings, model: str) -> str:
    machine = {"processor": processor(), "cores": available_cores(), "device": settings.device}
    return key_of({"model": model, "backends": sorted(installed_backends()), **machine})


def _read(place: Path) -> Choice | None:
    try:
        return msgspec.convert(read_manifest(place), Choice)
    except msgspec.ValidationError:
        return None


def _measured(settings: ModelSettings, hub: HubSettings) -> Choice:
    """Ask the doctor.

    Raises:
        RuntimeError: it does not say; with the reason.
    """
    model = _given(settings) | {"backend": REFERENCE, "name": settings.served_name}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMB_PROVIDER_")}
    _log.info("model %r: backend auto: measuring the installed backends, once", settings.served_name)
    # A folder without a configuration of its own.
    with tempfile.TemporaryDirectory(prefix="emb-provider-") as folder:
        config = Path(folder) / "model.yaml"
        config.write_text(json.dumps({"model": model, "hub": _given(hub)}), encoding="utf-8")
        options = ["--json", "--exact", "--seconds", str(_SECONDS), "--config", str(config)]
        try:
            done = subprocess.run(  # noqa: S603 - ours
                [sys.executable, "-m", "provider", "doctor", *options],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_DEADLINE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            msg = f"measuring took more than {_DEADLINE_SECONDS} s"
            raise RuntimeError(msg) from exc
    try:
        found = msgspec.json.decode(done.stdout, type=_Answer)
    except msgspec.DecodeError as exc:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        msg = f"`emb-provider doctor` ended with {done.returncode}: {''.join(last)}"
        raise RuntimeError(msg) from exc
    if found.recommendation is None:
        msg = found.problem or "nothing was measured"
        raise RuntimeError(msg)
    return _chosen(found.recommendation.trials)


class _Trial(msgspec.Struct, frozen=True):
    """What the doctor says of a backend."""

    backend: str
    device: str | None
    ratio: float | None
    agreement: float | None
    is_exact: bool
    problem: str | None

    @property
    def shortcoming(self) -> str | None:
        """Why it cannot be chosen; None if it can."""
        if self.problem is not None or not self.ratio:
            return f"as {self.problem or 'it was not measured'}"
        if not self.is_exact:
            return f"as its outputs are not torch's (agreement {self.agreement})"
        return None if self.device == "cpu" else f"as it runs on {self.device}"


class _Recommendation(msgspec.Struct, frozen=True):
    trials: list[_Trial]


class _Answer(msgspec.Struct, frozen=True):
    recommendation: _Recommendation | None
    problem: str | None


def _chosen(trials: list[_Trial]) -> Choice:
    left_out = {each.backend: each.shortcoming for each in trials if each.shortcoming is not None}
    speeds = {each.backend: each.ratio or 0.0 for each in trials if each.backend not in left_out}
    best = max(speeds, key=speeds.__getitem__, default=REFERENCE)
    return Choice(best if speeds.get(best, 0) > _CLEARLY else REFERENCE, speeds, left_out)


def _given(section: ModelSettings | HubSettings) -> dict[str, object]:
    """What is not the default."""
    default, names = type(section)(), [each.name for each in fields(type(section))]
    given = {name: getattr(section, name) for name in names if getattr(section, name) != getattr(default, name)}
    return {name: msgspec.to_builtins(value) for name, value in given.items()}
