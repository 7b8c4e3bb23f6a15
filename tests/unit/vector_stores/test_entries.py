"""A value is read as what was written for its key, or not at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from provider.domain import SparseVector
from provider.vector_stores.entries import CorruptEntryError, decode, encode

KEY = b"fingerprint:release:digest"
SHAPES = arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=9)
OUTPUTS = {
    "dense": np.array([1.5, -2.0], np.float32),
    "sparse": SparseVector(np.array([3, 7], np.int32), np.array([0.5, 2.0], np.float32)),
    "multi_vector": np.arange(6, dtype=np.float32).reshape(2, 3),
}


@given(
    key=st.binary(max_size=80),
    tokens=st.integers(1, 10_000),
    output=arrays.arrays(st.sampled_from([np.float32, np.float16, np.int8, np.uint8, np.int64]), SHAPES),
)
def test_what_was_written_is_read(key: bytes, tokens: int, output: "np.ndarray") -> None:
    (read,) = decode(key, tokens, encode(key, tokens, {"any": output})).values()
    assert (read.dtype, read.shape, read.tobytes()) == (output.dtype, output.shape, output.tobytes())
    assert not read.flags.writeable


def test_every_kind_of_output_is_kept() -> None:
    read = decode(KEY, 4, encode(KEY, 4, OUTPUTS))
    assert list(read) == list(OUTPUTS)
    np.testing.assert_array_equal(read["dense"], OUTPUTS["dense"])
    np.testing.assert_array_equal(read["multi_vector"], OUTPUTS["multi_vector"])
    np.testing.assert_array_equal(read["sparse"].ids, [3, 7])
    np.testing.assert_array_equal(read["sparse"].weights, [0.5, 2.0])


def test_a_value_with_any_bit_changed_is_not_read() -> None:
    value = encode(KEY, 4, OUTPUTS)
    for i in range(8 * len(value)):
        damaged = bytearray(value)
        damaged[i // 8] ^= 1 << i % 8
        with pytest.raises(CorruptEntryError):
            decode(KEY, 4, bytes(damaged))


@pytest.mark.parametrize(
    "value",
    [b"", b"x", bytes(16), encode(KEY, 4, OUTPUTS)[:-1], encode(KEY, 4, OUTPUTS) + b"\0", encode(b"other", 4, OUTPUTS)],
    ids=["empty", "short", "zeros", "cut", "longer", "of another key"],
)
def test_a_foreign_value_is_not_read(value: bytes) -> None:
    with pytest.raises(CorruptEntryError):
        decode(KEY, 4, value)


def test_a_value_for_another_number_of_tokens_is_not_read() -> None:
    with pytest.raises(CorruptEntryError, match="4 tokens"):
        decode(KEY, 5, encode(KEY, 4, OUTPUTS))


def test_what_holds_no_numbers_is_not_written() -> None:
    with pytest.raises(TypeError, match="not stored"):
        encode(KEY, 1, {"any": np.array(["text"], object)})
