"""An input's outputs as the value of a store, and back.

A value is 16 bytes of BLAKE2b over key and content, then the content: msgpack of an `_Entry`. So a value that was
damaged, cut, written by something else, or stored under another key is not read.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Self

import msgspec
import numpy as np

from provider.domain import RowOutput, SparseVector

_DIGEST_BYTES = 16
# Of the layout: entries of another one are not read.
_VERSION = 1
_KINDS = "fiub"


class _Array(msgspec.Struct, frozen=True, array_like=True):
    """An array: its dtype as numpy spells it (`<f4`: little-endian float32), its shape, and its bytes in C order."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def of(cls, array: Any) -> Self:  # noqa: ANN401 - of any dtype
        if array.dtype.kind not in _KINDS:
            msg = f"an array of {array.dtype} is not stored"
            raise TypeError(msg)
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return cls(little.dtype.str, array.shape, little.tobytes())

    def read(self) -> Any:  # noqa: ANN401 - of any dtype
        return np.frombuffer(self.content, self.dtype).reshape(self.shape)


class _Output(msgspec.Struct, frozen=True, array_like=True):
    """An output: one array, or the ids and weights of a sparse vector."""

    array: _Array
    weights: _Array | None = None

    @classmethod
    def of(cls, output: RowOutput) -> Self:
        if isinstance(output, SparseVector):
            return cls(_Array.of(output.ids), _Array.of(output.weights))
        return cls(_Array.of(output))

    def read(self) -> RowOutput:
        if self.weights is not None:
            return SparseVector(self.array.read(), self.weights.read())
        array: RowOutput = self.array.read()
        return array


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    """What is kept.

    Attributes:
        version: of this layout.
        tokens: of the input.
        outputs: by name.
    """

    version: int
    tokens: int
    outputs: dict[str, _Output]


class CorruptEntryError(Exception):
    """A value is not what `encode` makes for its key."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Entry)


def encode(key: bytes, tokens: int, outputs: Mapping[str, RowOutput]) -> bytes:
    """The value that stands for the outputs of an input with so many tokens.

    Raises:
        TypeError: an output holds something else than numbers.
    """
    content = _encoder.encode(_Entry(_VERSION, tokens, {name: _Output.of(each) for name, each in outputs.items()}))
    return _digest(key, content) + content


def decode(key: bytes, tokens: int, value: bytes) -> dict[str, RowOutput]:
    """The outputs that were kept under `key` for an input with so many tokens; nobody can write to them.

    Raises:
        CorruptEntryError: the value is not that of such an input.
    """
    content = value[_DIGEST_BYTES:]
    if value[:_DIGEST_BYTES] != _digest(key, content):
        msg = "its checksum is wrong"
        raise CorruptEntryError(msg)
    try:
        entry = _decoder.decode(content)
        if (entry.version, entry.tokens) != (_VERSION, tokens):
            msg = f"version {entry.version} and {entry.tokens} tokens, expected {_VERSION} and {tokens}"
            raise CorruptEntryError(msg)
        return {name: each.read() for name, each in entry.outputs.items()}
    except (msgspec.DecodeError, TypeError, ValueError) as exc:
        raise CorruptEntryError(str(exc)) from exc


def _digest(key: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, key=hashlib.blake2b(key).digest()).digest()
