"""Compiled models on disk: looked up by everything that decides the code, made by `torch_compiler` where there is none.

An entry is a folder named by a digest. It appears complete or not at all, and a lock sees to it that processes that
start at the same time compile once. What does not hold its own checksum is made anew.
"""

import contextlib
import hashlib
import json
import logging
import os
import pickle
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from attrs import frozen

from provider import __version__
from provider.backends.devices import DtypeName
from provider.domain import ModelSpec
from provider.errors import BackendError, BackendUnavailable, InvalidModel

MODEL, FACTS, ERROR = "model.so", "facts.json", "error.json"
Kind = Literal["packed", "padded"]

_log = logging.getLogger(__name__)


@frozen
class Job:
    """What to compile.

    Attributes:
        threads: CPU threads of one forward pass.
    """

    spec: ModelSpec
    dtype: DtypeName
    threads: int

    @property
    def key(self) -> str:
        """32 hex digits over all that decides the compiled code."""
        versions = (__version__, torch.__version__, _processor())
        parts = (self.spec.fingerprint, self.spec.pooling, self.dtype, self.threads, *versions)
        return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


@frozen
class Facts:
    """What there is to know of a compiled model, in its `facts.json`.

    Attributes:
        kind: which graph of `torch_graphs` it was made from.
        linear: which library computes the linear layers, `torch` or `onednn`, by measurement.
        vocabulary: token ids are below it.
        positions: no row may be longer; None where the graph has no table of positions.
        seconds: how long it took to compile.
        digest: SHA-256 of `model.so`, hexadecimal.
    """

    kind: Kind
    linear: str
    vocabulary: int
    positions: int | None
    seconds: float
    digest: str


@frozen
class Artefact:
    """A compiled model's files.

    Attributes:
        path: the shared object.
        is_cached: whether it was there already.
    """

    path: Path
    facts: Facts
    is_cached: bool


def default_folder() -> Path:
    """Where compiled models are kept if nobody says otherwise, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "emb-provider" / "torch-compile"


@contextmanager
def compiled(job: Job, cache: Path) -> Iterator[Artefact]:
    """The compiled model of `job`, from `cache` or made now; its file is there within the context only.

    Raises:
        BackendUnavailable: there is no C++ compiler, or the model cannot be compiled.
        InvalidModel: its files are missing or damaged.
    """
    entry = cache / job.key
    if (facts := _facts(entry)) is not None:
        yield Artefact(entry / MODEL, facts, is_cached=True)
        return
    compiler = _compiler()
    with contextlib.ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(_locked(cache / f"{job.key}.lock"))
            part = Path(tempfile.mkdtemp(prefix=f"{job.key}.part-", dir=cache))
        except OSError as exc:
            _log.warning("compiled models cannot be kept, the next start compiles again: %s", exc)
            part = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emb-provider-")))
            yield Artefact(part / MODEL, _compile(job, part, compiler), is_cached=False)
            return
        # Whoever held the lock before may have made it.
        facts = _facts(entry)
        is_cached = facts is not None
        if facts is None:
            shutil.rmtree(entry, ignore_errors=True)
            _drop_parts(cache, job.key, but=part)
            facts = _compile(job, part, compiler)
            part.replace(entry)
        else:
            part.rmdir()
        yield Artefact(entry / MODEL, facts, is_cached=is_cached)


def _facts(entry: Path) -> Facts | None:
    """The facts of a complete entry, else None."""
    if not entry.exists():
        return None
    try:
        facts = Facts(**json.loads((entry / FACTS).read_text(encoding="utf-8")))
        with (entry / MODEL).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == facts.digest:
                return facts
        problem = f"{MODEL} does not have its checksum"
    except (OSError, ValueError, TypeError) as exc:
        problem = str(exc)
    _log.warning("the compiled model in %s is damaged and is made anew: %s", entry, problem)
    return None


def _compile(job: Job, folder: Path, compiler: str) -> Facts:
    """Run `torch_compiler` on `job`, and leave in `folder` what an entry consists of."""
    _log.info(
        "compiling model %r for this machine; it takes a minute or so, and is kept in %s", job.spec.name, folder.parent
    )
    started = time.monotonic()
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = os.environ | {
        "CXX": compiler,
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    try:
        _run_compiler(job, scratch, environment)
        for name in (MODEL, FACTS):
            (scratch / name).replace(folder / name)
    except OSError as exc:
        shutil.rmtree(folder, ignore_errors=True)
        msg = (
            f"the compiled model {job.spec.name!r} cannot be written to {folder.parent}: {exc.strerror}. "
            "Make room there, or set options.cache_folder to another folder"
        )
        raise BackendUnavailable(msg) from exc
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(scratch, ignore_errors=True)
    facts = _facts(folder)
    if facts is None:
        msg = f"the compiled model {job.spec.name!r} cannot be read back from {folder}; is the disk full?"
        raise BackendUnavailable(msg)
    _log.info("compiled model %r in %.0f s", job.spec.name, time.monotonic() - started)
    return facts


def _run_compiler(job: Job, scratch: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "provider.backends.torch_compiler", str(scratch)]
    log = scratch / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment
        ) as process,
    ):
        # Its standard input stays open: it ends with this process, however that ends.
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(pickle.dumps(job))
                process.stdin.flush()
        code = process.wait()
    if code == 0:
        return
    try:
        failure = json.loads((scratch / ERROR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        msg = f"compiling the model {job.spec.name!r} ended with code {code}: {last[0]}"
        raise BackendUnavailable(msg) from None
    error: type[InvalidModel | BackendError] = (
        InvalidModel if failure["error"] == InvalidModel.__name__ else BackendUnavailable
    )
    raise error(failure["message"])


def _compiler() -> str:
    """The C++ compiler that Inductor will call.

    Raises:
        BackendUnavailable: there is none.
    """
    if sys.platform == "win32":
        msg = "torch-compile runs on Linux and macOS; use backend torch"
        raise BackendUnavailable(msg)
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        msg = (
            f"torch-compile needs a C++ compiler, and there is no {name!r}: install one "
            "(Debian, Ubuntu: apt-get install g++; macOS: xcode-select --install) or use backend torch"
        )
        raise BackendUnavailable(msg)
    return name


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that goes with an entry. The kernel gives it back, however this process ends."""
    import fcntl  # noqa: PLC0415 - not on Windows

    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _drop_parts(cache: Path, key: str, *, but: Path) -> None:
    """Remove what compilations left that did not come to their end."""
    for part in cache.glob(f"{key}.part-*"):
        if part != but:
            shutil.rmtree(part, ignore_errors=True)


def _processor() -> str:
    """What code for this machine's processor depends on: its model, and the instructions that it has."""
    lines: set[str] = set()
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        lines = {line for line in text.splitlines() if line.startswith(("model name", "flags", "Features", "CPU part"))}
    capability = torch.backends.cpu.get_cpu_capability()
    return "\n".join([capability, platform.machine(), platform.processor(), *sorted(lines)])
