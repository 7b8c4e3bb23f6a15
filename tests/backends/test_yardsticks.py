"""What backends are measured with: the matrix-multiply rate, and sentence-transformers as a contender."""

from pathlib import Path

import pytest

from provider.backends.matmul import MatmulProbe
from provider.cli.bench.library import Library
from provider.cli.bench.messages import LibrarySetup, Load, Slice, Texts
from provider.testing.tiny import tiny_bert

SHAPES = ((32, 96), (32, 64), (64, 32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_matrix_multiply_rate_is_measured_in_the_dtype_of_the_model(dtype: str) -> None:
    probe = MatmulProbe(SHAPES, tokens=64, dtype=dtype, device="cpu", lanes=2, threads=1)
    assert probe.dtype == dtype
    assert probe.flops_per_second(0.01) > 1e6


def test_a_dtype_that_torch_does_not_multiply_in_is_compared_with_float32() -> None:
    assert MatmulProbe(SHAPES, tokens=8, dtype="int8", device="NPU", lanes=1, threads=1).dtype == "float32"


def test_the_rate_is_that_of_the_operations_that_were_done(monkeypatch: pytest.MonkeyPatch) -> None:
    from provider.backends import matmul
    from provider.testing import TickingClock

    monkeypatch.setattr(matmul.time, "perf_counter", TickingClock(tick=0.5))
    probe = MatmulProbe(SHAPES, tokens=64, dtype="float32", device="cpu", lanes=1, threads=1)
    once = 2 * 64 * (32 * 96 + 32 * 64 + 64 * 32)
    # At every look at the clock half a second has passed: one look before a product, one after.
    assert probe.flops_per_second(0.0) == once / 1.0


async def test_sentence_transformers_encodes_in_batches_of_the_size_that_was_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny_bert(tmp_path / "tiny")
    library = await Library.open(LibrarySetup(Texts(("the cat sees the dog",)), model=str(folder), device="cpu"))
    assert (library.facts["model"], library.facts["dtype"]) == ("tiny", "float32")
    assert await library.count(("the cat", "the")) == 4 + 3
    outcome = await library.run(Slice(Load(32, concurrency=4), 0.05, seed=1))
    assert outcome.texts > 0
    assert outcome.seconds >= 0.05
    assert (outcome.requests, outcome.latencies_us) == (0, [])
    assert outcome.note in {f"batches of {size}" for size in (8, 16, 32, 64, 128)}
