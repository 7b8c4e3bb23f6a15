"""Compiled models on disk: looked up by everything that decides the code, made by `compiler` where there is none.

An entry of the `Store` is named by a digest. What does not have its own checksum is made again.
"""

import contextlib
import hashlib
import json
import logging
import os
import pickle
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
from provider.backends.kit.devices import DtypeName
from provider.cores import processor
from provider.domain import SCORES, DenseTask, ModelSpec
from provider.errors import BackendError, BackendUnavailable, InvalidModel
from provider.store import Store

FACTS, ERROR = "facts.json", "error.json"
Kind = Literal["packed", "padded", "padded on the left"]

_log = logging.getLogger(__name__)


@frozen
class CompileJob:
    """What to compile.

    Attributes:
        threads: CPU threads of one forward pass.
        form: a shared object, which `shared_object` calls, for the CPU; a package, which torch calls, for the rest.
        place: where its tensors are, as torch calls it.
    """

    spec: ModelSpec
    dtype: DtypeName
    threads: int
    form: Literal["shared object", "package"] = "shared object"
    place: str = "cpu"

    @property
    def file(self) -> str:
        """The name of the compiled model."""
        return "model.so" if self.form == "shared object" else "model.pt2"

    @property
    def key(self) -> str:
        """32 hex digits over all that decides the compiled code."""
        versions = (__version__, torch.__version__, _processor(), self.form, _card(self.place))
        dense = self.spec.find(DenseTask)
        task = SCORES if dense is None else dense.pooling
        threads = self.threads if self.form == "shared object" else 0
        parts = (self.spec.fingerprint, task, self.dtype, threads, *versions)
        return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


@frozen
class Facts:
    """What there is to know of a compiled model, in its `facts.json`.

    Attributes:
        kind: which graph of `graphs` it was made from.
        linear: which library computes the linear layers, `torch` or `onednn`, by measurement.
        vocabulary: token ids are below it.
        positions: no row may be longer; None where the graph has no table of positions.
        types: types of tokens are below it; 0 where the graph takes none.
        seconds: how long it took to compile.
        digest: SHA-256 of the compiled model, hexadecimal.
    """

    kind: Kind
    linear: str
    vocabulary: int
    positions: int | None
    types: int
    seconds: float
    digest: str


@frozen
class Artefact:
    """A compiled model's files.

    Attributes:
        path: the compiled model.
        is_cached: whether it was there already.
    """

    path: Path
    facts: Facts
    is_cached: bool


@contextmanager
def compiled(job: CompileJob, store: Store) -> Iterator[Artefact]:
    """The compiled model of `job`, from `store` or made now; its file is there within the context only.

    Raises:
        BackendUnavailable: there is no C++ compiler, or the model cannot be compiled.
        InvalidModel: its files are missing or damaged.
    """
    try:
        entry = store.fetch(job.key, make=lambda folder: _compile(job, folder), read=lambda folder: _facts(job, folder))
    except OSError as exc:
        _log.warning("compiled models cannot be kept, the next start compiles again: %s", exc)
    else:
        yield Artefact(entry.folder / job.file, entry.content, is_cached=not entry.is_new)
        return
    with tempfile.TemporaryDirectory(prefix="emb-provider-") as folder:
        _compile(job, Path(folder))
        facts = _facts(job, Path(folder))
        if facts is None:
            msg = f"the compiled model {job.spec.name!r} cannot be read back from {folder}; is the disk full?"
            raise BackendUnavailable(msg)
        yield Artefact(Path(folder) / job.file, facts, is_cached=False)


def _facts(job: CompileJob, entry: Path) -> Facts | None:
    """The facts of a complete entry, else None."""
    try:
        facts = Facts(**json.loads((entry / FACTS).read_text(encoding="utf-8")))
        with (entry / job.file).open("rb") as file:
            is_whole = hashlib.file_digest(file, "sha256").hexdigest() == facts.digest
    except (OSError, ValueError, TypeError):
        return None
    return facts if is_whole else None


def _compile(job: CompileJob, folder: Path) -> None:
    """Run `torch_compile.compiler` on `job`, and leave in `folder` what an entry consists of."""
    compiler = _compiler()
    _log.info(
        "compiling model %r for this machine; it takes a minute or so, and is kept in %s", job.spec.name, folder.parent
    )
    started = time.monotonic()
    scratch = folder / "scratch"
    environment = os.environ | {
        "CXX": compiler,
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    try:
        scratch.mkdir()
        _run_compiler(job, scratch, environment)
        for name in (job.file, FACTS):
            (scratch / name).replace(folder / name)
    except OSError as exc:
        msg = (
            f"the compiled model {job.spec.name!r} cannot be written to {folder.parent}: {exc.strerror}. "
            "Make room there, or set options.cache_folder to another folder"
        )
        raise BackendUnavailable(msg) from exc
    shutil.rmtree(scratch, ignore_errors=True)
    _log.info("compiled model %r in %.0f s", job.spec.name, time.monotonic() - started)


def _run_compiler(job: CompileJob, scratch: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "provider.backends.torch_compile.compiler", str(scratch)]
    log = scratch / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment) as process,  # noqa: S603
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


def _processor() -> str:
    """What code for this machine's processor depends on."""
    return f"{torch.backends.cpu.get_cpu_capability()}\n{processor()}"


def _card(place: str) -> str:
    """What code for a GPU depends on; empty for the CPU."""
    if torch.device(place).type != "cuda":
        return ""
    return f"{torch.cuda.get_device_name(place)}\n{torch.cuda.get_device_capability(place)}\n{torch.version.cuda}"
