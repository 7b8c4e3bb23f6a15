"""Our own kernels for the CPU, in C (`native.c`): compiled by the system's compiler for this machine, once.

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
from attrs import frozen
from numpy.typing import NDArray

from provider.cores import processor
from provider.store import MANIFEST, Store, key_of, read_manifest, write_manifest

ACTIVATIONS = {"none": 0, "gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2, "relu": 3, "silu": 4, "swish": 4}
"""What may follow a linear layer, as transformers calls it."""

Floats = NDArray[np.float32]

_SOURCE = Path(__file__).with_suffix(".c")
_LIBRARY = "native.so"
# Comparisons with NaN need no trap: without the flag, loops with conditions are not vectorised.
_FLAGS = ("-O3", "-march=native", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared")
_DEADLINE_SECONDS = 60.0
_ERRORS = {1: MemoryError, 2: IndexError, 3: IndexError}
_MESSAGES = {1: "no memory for a forward pass", 2: "a token id is not in the vocabulary", 3: "a row is too long"}

_SIZE, _POINTER, _INT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int

_log = logging.getLogger(__name__)


class _Linear(ctypes.Structure):
    _fields_ = (
        *((name, _SIZE) for name in ("inputs", "outputs", "activation")),
        ("panels", _POINTER),
        ("bias", _POINTER),
    )


class _Norm(ctypes.Structure):
    _fields_ = (("scale", _POINTER), ("shift", _POINTER))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("qkv", "attended", "up", "down")),
        *((name, _Norm) for name in ("attended_norm", "down_norm")),
    )


class _Encoder(ctypes.Structure):
    _fields_ = (
        *((name, _SIZE) for name in ("layers", "heads", "hidden", "vocabulary", "positions")),
        ("eps", ctypes.c_double),
        *((name, _POINTER) for name in ("words", "places")),
        ("norm", _Norm),
        ("layer", ctypes.POINTER(_Layer)),
    )


class NativeLinear:
    """A linear layer and what follows it, with weights in the kernels' own layout. Safe from several threads."""

    def __init__(self, library: ctypes.CDLL, weight: Floats, bias: Floats, activation: str = "none") -> None:
        """Copy the weights.

        Args:
            library: see `native_library`.
            weight: (outputs, inputs).
            bias: (outputs,).
            activation: a name in `ACTIVATIONS`.
        """
        self._library = library
        self.outputs, self.inputs = weight.shape
        width = library.panel_width()
        filled = -(-self.outputs // width) * width
        self._panels, self._bias = np.empty(filled * self.inputs, np.float32), np.zeros(filled, np.float32)
        self._bias[: self.outputs] = bias
        weight = np.ascontiguousarray(weight, np.float32)
        library.pack(weight.ctypes.data, self.inputs, self.outputs, self._panels.ctypes.data)
        self.layer = _Linear(
            self.inputs, self.outputs, ACTIVATIONS[activation], self._panels.ctypes.data, self._bias.ctypes.data
        )
        self._address = ctypes.addressof(self.layer)

    def run(self, states: int, rows: int, threads: int, out: int) -> None:
        """Compute `rows` rows.

        Args:
            states: address of (rows, inputs) float32, C-contiguous.
            rows: how many.
            threads: CPU threads.
            out: address of (rows, outputs) float32, C-contiguous.
        """
        self._library.linear(self._address, states, rows, threads, out)


@frozen(eq=False)
class NativeLayer:
    """A transformer layer, post-norm; norms are scale and shift, (hidden_size,) each."""

    qkv: NativeLinear
    attended: NativeLinear
    up: NativeLinear
    down: NativeLinear
    attended_norm: Sequence[Floats]
    down_norm: Sequence[Floats]


class NativeEncoder:
    """An encoder of the BERT family, from token ids to hidden states in one call. Safe from several threads."""

    def __init__(  # noqa: PLR0917 - its parts
        self,
        library: ctypes.CDLL,
        words: Floats,
        places: Floats,
        norm: Sequence[Floats],
        layers: Sequence[NativeLayer],
        heads: int,
        eps: float,
    ) -> None:
        """Take weights, which are not copied.

        Args:
            library: see `native_library`.
            words: (vocabulary, hidden_size).
            places: (positions, hidden_size).
            norm: scale and shift of the embeddings' normalisation.
            layers: in order.
            heads: of attention.
            eps: of all normalisations.
        """
        self._library = library
        self._hidden = words.shape[1]
        self._kept = [np.ascontiguousarray(array, np.float32) for array in (words, places)]
        self._layers = tuple(layers)
        array = (_Layer * len(layers))(
            *(
                _Layer(
                    *(part.layer for part in (each.qkv, each.attended, each.up, each.down)),
                    *(self._norm(*pair) for pair in (each.attended_norm, each.down_norm)),
                )
                for each in layers
            )
        )
        words_at, places_at = (array.ctypes.data for array in self._kept[:2])
        sizes = (len(layers), heads, self._hidden, len(words), len(places))
        self._encoder = _Encoder(*sizes, eps, words_at, places_at, self._norm(*norm), array)

    def run(
        self,
        ids: NDArray[np.int64],
        places: NDArray[np.int64],
        starts: NDArray[np.int64],
        seen: NDArray[np.int64],
        threads: int,
        *,
        firsts: bool = False,
    ) -> Floats:
        """Hidden states of rows that lie one behind the other; all arrays C-contiguous.

        Args:
            ids: (tokens,).
            places: (tokens,), of each token in the table of positions.
            starts: (rows + 1,), where each row starts, and the end of the last.
            seen: (rows,), how many tokens of each row, from its first on, are attended to; at least 1.
            threads: CPU threads.
            firsts: whether only the first token of each row is wanted.

        Returns:
            (tokens, hidden_size), or (rows, hidden_size) with `firsts`.

        Raises:
            IndexError: an id or a place is not in its table.
            MemoryError: there is none left.
        """
        out = np.empty((len(seen) if firsts else len(ids), self._hidden), np.float32)
        code = self._library.encode(
            ctypes.byref(self._encoder),
            *(ids.ctypes.data, places.ctypes.data, len(seen), starts.ctypes.data, seen.ctypes.data),
            *(firsts, threads, out.ctypes.data),
        )
        if code:
            raise _ERRORS[code](_MESSAGES[code])
        return out

    def _norm(self, scale: Floats, shift: Floats) -> _Norm:
        kept = [np.array(array, np.float32) for array in (scale, shift)]
        self._kept += kept
        return _Norm(*(array.ctypes.data for array in kept))


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
    source = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()
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
    library.encode.argtypes = (_POINTER, _POINTER, _POINTER, _SIZE, _POINTER, _POINTER, _INT, _INT, _POINTER)
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
