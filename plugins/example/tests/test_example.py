"""The example backend keeps the contract, and does what feature hashing promises."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
from emb_provider_example import ExampleBackend, ExampleOptions

from provider.backends import BackendOptions, BackendUnavailable, ModelSpec, Outputs, TokenBatch, Vectors
from provider.testing import BackendContract, packaged_minilm
from provider.testing.tiny import TINY_SHAPES

_MASK = 2**64 - 1


def slowly(batch: TokenBatch, dimension: int) -> Vectors:
    """The same hash in whole numbers, one token and one column at a time."""
    vectors = np.zeros((batch.rows, dimension), np.float32)
    for i in range(batch.rows):
        for token in batch.row(i)[batch.skips[i] :].tolist():
            for column in range(dimension):
                mixed = (token * 0x9E3779B97F4A7C15) ^ ((column + 1) * 0xC2B2AE3D27D4EB4F)
                mixed = (mixed & _MASK) * 0xFF51AFD7ED558CCD & _MASK
                vectors[i, column] += 1 if (mixed ^ mixed >> 33) & 1 else -1
    return vectors


class TestExampleBackend(BackendContract):
    backend_class = ExampleBackend
    shapes: ClassVar = {**TINY_SHAPES, "all-MiniLM-L6-v2": packaged_minilm}

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, spec: ModelSpec) -> Callable[[TokenBatch], Outputs]:
        return lambda batch: {"dense": slowly(batch, spec.dense.dimension)}

    def test_rows_that_share_tokens_are_similar(self, backend: ExampleBackend) -> None:
        rows = [np.array(ids, np.int32) for ids in ([10, 20, 30, 40], [10, 20, 30, 50], [61, 72, 83, 94])]
        vectors = backend.run(TokenBatch.of_rows(rows))["dense"]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.3

    def test_another_seed_gives_other_directions(self, backend: ExampleBackend, spec: ModelSpec) -> None:
        other = ExampleBackend.load(spec, BackendOptions(own=ExampleOptions(seed=1)))
        batch = TokenBatch.of_rows([np.array([10, 20], np.int32)])
        assert not np.array_equal(backend.run(batch)["dense"], other.run(batch)["dense"])

    def test_a_device_it_does_not_have_is_refused(self, spec: ModelSpec) -> None:
        with pytest.raises(BackendUnavailable, match="unknown device 'cuda'; allowed are auto, cpu"):
            ExampleBackend.load(spec, BackendOptions(device="cuda", own=ExampleOptions()))
