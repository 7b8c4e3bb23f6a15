"""Numbers of fewer bits are those of sentence-transformers."""

import numpy as np
import pytest

from provider.tasks.quantisation import ElementType, Ranges, quantise

CALIBRATION = np.random.default_rng(0).standard_normal((60, 37)).astype(np.float32)
CALIBRATION[:, 3] = 0.5
VECTORS = np.random.default_rng(1).standard_normal((9, 37)).astype(np.float32) * 2
RANGES = Ranges.measured(CALIBRATION, made_from="texts", source="a test")


@pytest.mark.parametrize("kind", ["float32", "int8", "uint8", "binary", "ubinary"])
def test_every_element_type_is_as_sentence_transformers_has_it(kind: ElementType) -> None:
    from sentence_transformers.util.quantization import quantize_embeddings

    found, expected = quantise(VECTORS, kind, RANGES), quantize_embeddings(VECTORS, kind, None, CALIBRATION)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_a_vector_is_the_same_integers_alone_and_among_others() -> None:
    np.testing.assert_array_equal(quantise(VECTORS[:1], "int8", RANGES), quantise(VECTORS, "int8", RANGES)[:1])


def test_integers_need_ranges() -> None:
    with pytest.raises(ValueError, match="needs ranges"):
        quantise(VECTORS, "uint8")


def test_ranges_are_named_by_what_they_were_made_from_or_by_what_they_are() -> None:
    assert Ranges.measured(CALIBRATION, made_from="other", source="a test").name != RANGES.name
    given = Ranges.given(RANGES.values, source="a file")
    assert given.name == Ranges.given(RANGES.values.copy(), source="a file").name
    assert given.name != Ranges.given(RANGES.values * 2, source="a file").name
