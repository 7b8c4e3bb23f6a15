"""A text's vector does not depend on its neighbours: every backend is measured, and batches follow from that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provider.backends import BackendOptions, BackendTraits, ModelSpec, TokenBatch, Vectors
from provider.domain import DenseTask, EmbedRequest
from provider.engine.hooks import ModelChanged, ModelState
from provider.engine.neighbours import NeighbourCheck, agreement, check_neighbours
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing import FakeBackend
from provider.testing.tiny import tiny_bert

Drift = Callable[[TokenBatch], Any]
TEXT = np.arange(1, 21, dtype=np.int32)
TASKS = (DenseTask(8),)


class Drifting(FakeBackend):
    """Adds to every row what `drift` makes of the batch: (rows,) or (rows, 1)."""

    def __init__(self, drift: Drift, dtype: str = "float32", dimension: int = 8) -> None:
        super().__init__(dimension)
        self.traits = BackendTraits("cpu", dtype, padding_is_free=False, batch_tokens=512)
        self._drift = drift

    def vectors(self, batch: TokenBatch) -> Vectors:
        drift = np.broadcast_to(np.asarray(self._drift(batch), np.float32).reshape(-1, 1), (batch.rows, 1))
        return super().vectors(batch) + drift


def padding(batch: TokenBatch) -> Any:
    """Cells of padding, which the row can see."""
    return 0.01 * (batch.lengths.max() - batch.lengths)


def padding_of_odd_rows(batch: TokenBatch) -> Any:
    return 0.01 * ((batch.lengths.max() - batch.lengths) > 0) * (batch.lengths % 2)


def padding_of_even_rows(batch: TokenBatch) -> Any:
    return 0.01 * ((batch.lengths.max() - batch.lengths) > 0) * (batch.lengths % 2 == 0)


def padding_of_one_token(batch: TokenBatch) -> Any:
    return 0.01 * ((batch.lengths == 1) & (batch.lengths.max() > 1))


def much_padding(batch: TokenBatch) -> Any:
    return 0.01 * (batch.lengths.max() - batch.lengths > 40)


def width_that_is_no_power_of_two(batch: TokenBatch) -> Any:
    return 0.01 * (batch.lengths.max() - batch.lengths > 0) * (batch.lengths.max() & (batch.lengths.max() - 1) > 0)


def mean_of_the_batch(batch: TokenBatch) -> Any:
    return np.full(batch.rows, batch.ids.mean() * 0.01 * (batch.rows > 1))


def first_row(batch: TokenBatch) -> Any:
    return np.where(np.arange(batch.rows) > 0, batch.ids[0] * 0.01, 0)


def nothing(batch: TokenBatch) -> Any:
    return np.zeros(batch.rows)


def checked(backend: FakeBackend, max_tokens: int = 128) -> NeighbourCheck:
    return check_neighbours(backend, TEXT, TASKS, max_tokens=max_tokens, vocabulary_size=1000, pad_id=0)


@pytest.mark.parametrize(
    ("drift", "allowed"),
    [
        (nothing, "any"),
        (padding, "equal_length"),
        (padding_of_odd_rows, "equal_length"),
        (padding_of_even_rows, "equal_length"),
        (padding_of_one_token, "equal_length"),
        (much_padding, "equal_length"),
        (width_that_is_no_power_of_two, "equal_length"),
        (mean_of_the_batch, "none"),
        (first_row, "none"),
    ],
)
def test_what_may_share_a_batch_follows_from_what_reaches_a_row(drift: Drift, allowed: str) -> None:
    found = checked(Drifting(drift))
    assert found.allowed == allowed
    assert (found.notice is None) == (allowed == "any")


@pytest.mark.parametrize(
    ("dtype", "size", "allowed"),
    [("bfloat16", 0.0005, "any"), ("bfloat16", 0.05, "none"), ("int8", 0.003, "any"), ("int8", 0.15, "none")],
)
def test_rounding_is_told_from_neighbours_by_the_class_of_the_dtype(dtype: str, size: float, allowed: str) -> None:
    def rounding(batch: TokenBatch) -> Any:
        return np.full(batch.rows, size * batch.rows)

    assert checked(Drifting(rounding, dtype)).allowed == allowed
    assert checked(Drifting(padding, dtype)).allowed == "equal_length"


def test_int8_whose_scale_is_the_batch_s_gives_up_padding_only_where_that_helps() -> None:
    """Equal lengths do not cure it; single rows would, at several times the cost."""

    def scale(batch: TokenBatch) -> Any:
        return 0.3 * np.ones(batch.rows) * (batch.rows > 1)

    found = checked(Drifting(scale, "int8"))
    assert found.allowed == "any"
    assert found.padded < 0.95
    assert "this is rounding" in (found.notice or "")
    assert checked(Drifting(lambda batch: scale(batch) + 10 * padding(batch), "int8")).allowed == "equal_length"


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 30, 31, 512])
def test_no_row_is_longer_than_the_model_allows_and_few_tokens_are_spent(max_tokens: int) -> None:
    backend = FakeBackend()
    check_neighbours(backend, TEXT[:max_tokens], TASKS, max_tokens=max_tokens, vocabulary_size=1000, pad_id=0)
    assert max(int(batch.lengths.max()) for batch in backend.batches) <= max_tokens
    assert len(backend.batches) <= 6
    assert sum(batch.tokens for batch in backend.batches) <= 256


def test_lengths_of_vectors_count_and_rows_that_are_not_finite_alone_do_not() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    assert agreement(vectors, vectors) == 1
    assert agreement(1.1 * vectors, vectors) < 0.996
    assert agreement(np.zeros_like(vectors), np.zeros_like(vectors)) == 1
    broken = np.where(np.arange(3)[:, None] == 1, np.float32("nan"), vectors)
    assert agreement(vectors, broken) == agreement(broken, broken) == 1
    assert agreement(broken, vectors) == -1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("tiny") / "bert", hidden=16, layers=1)


def loads(monkeypatch: pytest.MonkeyPatch, drift: Drift) -> None:
    def load(_cls: type[FakeBackend], spec: ModelSpec, _options: BackendOptions) -> Drifting:
        return Drifting(drift, dimension=spec.dense.dimension)

    monkeypatch.setattr(FakeBackend, "load", classmethod(load))


@pytest.mark.parametrize(("drift", "allowed"), [(padding, "equal_length"), (mean_of_the_batch, "none")])
async def test_the_service_gives_a_text_the_same_vector_alone_and_among_others_and_says_what_that_takes(
    open_service: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, drift: Drift, allowed: str
) -> None:
    loads(monkeypatch, drift)
    events: list[Any] = []
    model = ModelSettings(name="m", path=str(folder), backend="fake")
    texts = tuple("the cat " * n + "a" * m for n in range(6) for m in range(1, 5))
    async with open_service(Settings(model=model, cache=CacheSettings(enabled=False)), events=events) as service:
        together = (await service.embed(EmbedRequest("m", texts))).vectors
        alone = np.concatenate([(await service.embed(EmbedRequest("m", (text,)))).vectors for text in texts])
        np.testing.assert_allclose(together, alone, atol=1e-6)
        assert service.runtimes["m"].loaded.neighbours.allowed == allowed
    (ready,) = [each for each in events if isinstance(each, ModelChanged) and each.state is ModelState.READY]
    assert ready.detail["neighbours"] == allowed
    assert any("depend on what shares their batch" in notice for notice in ready.detail["notices"])


async def test_a_model_that_draws_at_random_is_refused_with_the_reason(
    open_service: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    loads(monkeypatch, lambda batch: random.standard_normal(batch.rows))
    async with open_service(Settings(model=ModelSettings(name="m", path=str(folder), backend="fake"))) as service:
        failure = service.runtimes["m"].failure
        assert failure is not None
        assert "another vector each time" in failure.message
