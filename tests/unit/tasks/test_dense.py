"""Cut, then normalise; nothing that is not finite leaves."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from provider.errors import InvalidDimensions, NonFiniteVector, ZeroVector
from provider.tasks.dense import check_dimensions, finish

vectors = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 8), st.integers(1, 24)),
    elements=st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3),
)


@given(vectors=vectors, data=st.data())
def test_what_is_cut_is_scaled_to_length_one_again(vectors: np.ndarray, data: st.DataObject) -> None:
    dimensions = data.draw(st.none() | st.integers(1, vectors.shape[1]))
    assume(vectors[:, :dimensions].any(axis=1).all())
    out = finish(vectors, dimensions)
    assert out.shape == (len(vectors), dimensions or vectors.shape[1])
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    for row, original in zip(out, vectors[:, : out.shape[1]], strict=True):
        norm = np.linalg.norm(original.astype(np.float64))
        np.testing.assert_allclose(row, original / norm, rtol=1e-5, atol=1e-6)
        assert abs(np.linalg.norm(row) - 1) < 1e-5


@pytest.mark.parametrize("normalize", [True, False])
def test_a_vector_that_is_cut_to_zeros_is_an_error_that_names_its_input(normalize: bool) -> None:
    with pytest.raises(ZeroVector, match="input 1: "):
        finish(np.array([[1, 0], [0, 1]], np.float32), 1, normalize=normalize)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_an_error_that_names_its_input(bad: float) -> None:
    vectors = np.ones((4, 3), np.float32)
    vectors[2, 1] = bad
    with pytest.raises(NonFiniteVector, match="input 2: ") as raised:
        finish(vectors, None)
    assert raised.value.index == 2


def test_large_numbers_do_not_overflow_on_the_way_to_length_one() -> None:
    out = finish(np.full((1, 4), 1e30, np.float32), None)
    np.testing.assert_allclose(out, 0.5)


def test_the_native_width_is_always_allowed_and_more_is_not() -> None:
    check_dimensions(384, 384)
    check_dimensions(None, 384)
    with pytest.raises(InvalidDimensions, match="385 were asked for, and this model's dense output has 1 to 384"):
        check_dimensions(385, 384)
    with pytest.raises(InvalidDimensions, match="1 to 384"):
        check_dimensions(0, 384)


@given(vectors=vectors, data=st.data())
def test_without_normalising_vectors_are_cut_and_nothing_else(vectors: np.ndarray, data: st.DataObject) -> None:
    dimensions = data.draw(st.none() | st.integers(1, vectors.shape[1]))
    assume(vectors[:, :dimensions].any(axis=1).all())
    out = finish(vectors, dimensions, normalize=False)
    np.testing.assert_array_equal(out, vectors[:, :dimensions])
    assert out.flags.c_contiguous


def test_a_vector_that_is_not_finite_is_an_error_without_normalising_too() -> None:
    with pytest.raises(NonFiniteVector, match="input 0: "):
        finish(np.full((1, 3), np.nan, np.float32), None, normalize=False)
