"""Linear layers and whole encoders whose weights lie as our own kernels (`native`) want them."""

import ctypes
from collections.abc import Sequence

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

ACTIVATIONS = {"none": 0, "gelu": 1, "gelu_new": 2, "gelu_pytorch_tanh": 2, "relu": 3, "silu": 4, "swish": 4}
"""What may follow a linear layer, as transformers calls it."""

Floats = NDArray[np.float32]

_ERRORS = {1: MemoryError, 2: IndexError, 3: IndexError}
_MESSAGES = {1: "no memory for a forward pass", 2: "a token id is not in the vocabulary", 3: "a row is too long"}

_SIZE, _POINTER, _INT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int


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
            library: see `native.native_library`.
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
            library: see `native.native_library`.
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
        is_helped: bool = False,
    ) -> Floats:
        """Hidden states of rows that lie one behind the other; all arrays C-contiguous.

        Args:
            ids: (tokens,).
            places: (tokens,), of each token in the table of positions.
            starts: (rows + 1,), where each row starts, and the end of the last.
            seen: (rows,), how many tokens of each row, from its first on, are attended to; at least 1.
            threads: CPU threads.
            firsts: whether only the first token of each row is wanted.
            is_helped: whether a second thread computes parts of linear layers while no other pass runs; for one thread.

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
            *(firsts, threads, is_helped, out.ctypes.data),
        )
        if code:
            raise _ERRORS[code](_MESSAGES[code])
        return out

    def __del__(self) -> None:
        """Keep weights until nobody reads them."""
        self._library.settle()

    def _norm(self, scale: Floats, shift: Floats) -> _Norm:
        kept = [np.array(array, np.float32) for array in (scale, shift)]
        self._kept += kept
        return _Norm(*(array.ctypes.data for array in kept))
