"""Vectors in fewer bytes: int8, uint8 and bits, the same numbers as sentence-transformers' `quantize_embeddings`."""

import hashlib
from typing import Literal, Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

ElementType = Literal["float32", "int8", "uint8", "binary", "ubinary"]
"""What the numbers of an answer are. `binary` and `ubinary` hold 8 dimensions a byte, the first in the highest bit."""

CALIBRATED: frozenset[ElementType] = frozenset({"int8", "uint8"})
"""The types that need `Ranges`."""

_STEPS = 255


@frozen(eq=False)
class Ranges:
    """Which values become the smallest and the largest integer.

    Attributes:
        values: shape (2, dimensions), float32: the smallest and the largest value of each dimension.
        name: integers are comparable under the same name only.
        source: what they were measured on.
    """

    values: NDArray[np.float32]
    name: str
    source: str

    @classmethod
    def measured(cls, vectors: NDArray[np.float32], *, made_from: object, source: str) -> Self:
        """The ranges of `vectors`, (vectors, dimensions); equal values of `made_from` give equal names."""
        values = np.vstack((vectors.min(axis=0), vectors.max(axis=0))).astype(np.float32)
        return cls(values, _digest(repr(made_from).encode()), source)

    @classmethod
    def given(cls, values: NDArray[np.float32], *, source: str) -> Self:
        """The ranges `values`, named by what they are."""
        plain = np.ascontiguousarray(values, "<f4")
        return cls(plain, _digest(plain.tobytes()), source)


def quantise(
    vectors: NDArray[np.float32], to: ElementType, ranges: Ranges | None = None
) -> NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]:
    """`vectors` (rows, dimensions) as numbers of the type `to`.

    Args:
        vectors: float32, finite; not written to.
        to: the type.
        ranges: for `int8` and `uint8`, as many dimensions as the vectors have; values outside become the outermost
            integers.

    Returns:
        (rows, dimensions) int8 or uint8; for `binary` (int8) and `ubinary` (uint8) (rows, dimensions / 8 rounded up).
    """
    if to == "float32":
        return vectors
    if to == "ubinary":
        return np.packbits(vectors > 0, axis=-1)
    if to == "binary":
        return np.asarray(np.packbits(vectors > 0, axis=-1) - 128).astype(np.int8)
    if ranges is None:
        msg = f"{to} needs ranges"
        raise ValueError(msg)
    starts = ranges.values[0]
    steps = (ranges.values[1] - starts) / _STEPS
    steps = np.where(steps == 0, np.float32(1), steps)
    integers = np.clip(np.floor((vectors - starts) / steps), 0, _STEPS)
    if to == "uint8":
        return np.asarray(integers, np.uint8)
    return np.asarray(integers - 128, np.int8)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
