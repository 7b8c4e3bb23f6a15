"""The matrix-multiply rate that forward passes are compared with."""

import pytest

from provider.backends.torch.matmul import MatmulProbe

SHAPES = ((32, 96), (32, 64), (64, 32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_matrix_multiply_rate_is_measured_in_the_dtype_of_the_model(dtype: str) -> None:
    probe = MatmulProbe(SHAPES, tokens=64, dtype=dtype, device="cpu", lanes=2, threads=1)
    assert probe.dtype == dtype
    assert probe.flops_per_second(0.01) > 1e6


def test_a_dtype_that_torch_does_not_multiply_in_is_compared_with_float32() -> None:
    assert MatmulProbe(SHAPES, tokens=8, dtype="int8", device="NPU", lanes=1, threads=1).dtype == "float32"


def test_the_rate_is_that_of_the_operations_that_were_done(monkeypatch: pytest.MonkeyPatch) -> None:
    from provider.backends.torch import matmul
    from provider.testing import TickingClock

    monkeypatch.setattr(matmul.time, "perf_counter", TickingClock(tick=0.5))
    probe = MatmulProbe(SHAPES, tokens=64, dtype="float32", device="cpu", lanes=1, threads=1)
    once = 2 * 64 * (32 * 96 + 32 * 64 + 64 * 32)
    # At every look at the clock half a second has passed: one look before a product, one after.
    assert probe.flops_per_second(0.0) == once / 1.0
