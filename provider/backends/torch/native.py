"""Our own kernels for the CPU, in C (`native*`): compiled by the system's compiler for this machine, once.

What was compiled is tried out in a process of its own and kept in the user's cache. Calls go through `ctypes`, which
releases the interpreter lock.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from provider.backends.torch.native_layers import NativeLinear
from provider.cores import processor
from provider.store import MANIFEST, Store, key_of, read_manifest, write_manifest

_SOURCE = Path(__file__).with_suffix(".c")
_SOURCES = (_SOURCE, *sorted(_SOURCE.parent.glob("native_*.h")))
_LIBRARY = "native.so"
# Comparisons with NaN need no trap: without the flag, loops with conditions are not vectorised.
_FLAGS = ("-O3", "-march=native", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared")
_DEADLINE_SECONDS = 60.0
_SIZE, _POINTER, _INT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int

_log = logging.getLogger(__name__)


@functools.cache
def native_library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be used, which the log says once."""
    try:
        compiler = _compiler()
        if shutil.which(compiler[0]) is None:
            _log.info(
                "linear layers run by torch's libraries: there is no C compiler (%s) for faster ones", compiler[0]
            )
            return None
        return _compiled(compiler)
    except (ValueError, OSError, RuntimeError, ImportError, subprocess.SubprocessError) as exc:
        _log.info("linear layers run by torch's libraries: faster ones cannot be compiled: %s", _reason(exc))
        return None


def is_at_hand() -> bool:
    """Whether `native_library` has nothing to compile: it was asked before, an earlier start compiled, or it cannot."""
    if native_library.cache_info().currsize:
        return True
    try:
        compiler = _compiler()
        return shutil.which(compiler[0]) is None or (_store().place(_key(compiler)) / MANIFEST).exists()
    except (ValueError, OSError, RuntimeError, subprocess.SubprocessError):
        return False


def _compiler() -> list[str]:
    # It may have arguments, as in "ccache gcc".
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def _store() -> Store:
    """Raises RuntimeError where the user has no home folder."""
    return Store(Store.at(None, "native").folder, is_private=True)


def _key(compiler: Sequence[str]) -> str:
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=_DEADLINE_SECONDS)  # noqa: S603
    source = [hashlib.sha256(each.read_bytes()).hexdigest() for each in _SOURCES]
    return key_of(
        {"source": source, "compiler": (*compiler, version.stdout), "flags": _FLAGS, "processor": processor()}
    )


def _compiled(compiler: Sequence[str]) -> ctypes.CDLL:
    key = _key(compiler)

    def make(folder: Path) -> None:
        if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
            msg = f"{folder.parent} is mounted noexec"
            raise OSError(msg)
        _compile(compiler, folder)
        write_manifest(folder, {})

    try:
        entry = _store().fetch(key, make=make, read=read_manifest)
        return _open(entry.folder / _LIBRARY)
    except (OSError, RuntimeError, ImportError) as exc:
        _log.info("native kernels cannot be kept, the next start compiles again: %s", exc)
    with tempfile.TemporaryDirectory(prefix="emb-provider-") as folder:
        _compile(compiler, Path(folder))
        return _open(Path(folder) / _LIBRARY)


def _compile(compiler: Sequence[str], folder: Path) -> None:
    """Write the library into `folder`, and see in another process that it neither fails nor crashes."""
    path = folder / _LIBRARY
    for command in (
        [*compiler, *_FLAGS, "-o", str(path), str(_SOURCE), "-lm"],
        [sys.executable, "-m", __name__, str(path)],
    ):
        subprocess.run(command, capture_output=True, check=True, timeout=_DEADLINE_SECONDS, stdin=subprocess.DEVNULL)  # noqa: S603


def _open(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.panel_width.restype = _SIZE
    library.pack.argtypes = (_POINTER, _SIZE, _SIZE, _POINTER)
    library.linear.argtypes = (_POINTER, _POINTER, _SIZE, _INT, _POINTER)
    library.encode.argtypes = (_POINTER, _POINTER, _POINTER, _SIZE, _POINTER, _POINTER, _INT, _INT, _INT, _POINTER)
    return library


def _reason(exc: Exception) -> str:
    errors = getattr(exc, "stderr", None) or b""
    lines = errors.decode(errors="replace").strip().splitlines()
    return next((line for line in lines if "error" in line.lower()), "") or (lines or [str(exc)])[-1]


def _check(library: ctypes.CDLL) -> None:
    """Compare layers of several shapes with numpy's.

    Raises:
        ArithmeticError: they differ.
    """
    random = np.random.default_rng(0)
    for rows, inputs, outputs in ((1, 5, 3), (7, 64, 80), (50, 400, 37)):
        weight, bias, states = (
            random.standard_normal(shape, np.float32) for shape in ((outputs, inputs), outputs, (rows, inputs))
        )
        layer, out = NativeLinear(library, weight, bias, "relu"), np.empty((rows, outputs), np.float32)
        layer.run(states.ctypes.data, rows, 1, out.ctypes.data)
        if not np.allclose(out, np.maximum(states @ weight.T + bias, 0), rtol=1e-4, atol=1e-4):
            msg = f"a layer of {inputs} inputs and {outputs} outputs gives wrong numbers"
            raise ArithmeticError(msg)


if __name__ == "__main__":
    _check(_open(Path(sys.argv[1])))
