"""The `Backend` protocol as tests.

Subclass `BackendContract` in a plugin's tests and fill in the fixtures:

    class TestMyBackend(BackendContract):
        @pytest.fixture(scope="class")
        @classmethod
        def spec(cls, tmp_path_factory): ...

        @pytest.fixture(scope="class")
        @classmethod
        def backend(cls, spec): return MyBackend.load(spec, BackendOptions())

        @pytest.fixture
        def spare(self, spec): return MyBackend.load(spec, BackendOptions())

pytest is needed to use this module, not to import `provider.testing`.
"""

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from provider.backends import Backend, BackendTraits, ModelSpec, TokenBatch, Vectors
from provider.domain import Ids

# float32 sums in another order: what a row may differ by, beside others or alone.
_SAME = 0.999999
_REFERENCE = 0.9999


class BackendContract:
    """Every backend passes these tests. A failing one says what to look at."""

    vocabulary = 1000
    """Token ids are drawn below this; set it to the tiny model's vocabulary size."""

    def rows(self, lengths: Sequence[int]) -> list[Ids]:
        """Rows of random ids, the same ones every time."""
        random = np.random.default_rng(7)
        return [random.integers(5, self.vocabulary, length).astype(np.int32) for length in lengths]

    def reference(self, rows: Sequence[Ids]) -> Vectors | None:  # noqa: ARG002 - for subclasses
        """Override: the vectors (rows, dimension) that a trusted implementation gives; None for no comparison."""
        return None

    def test_it_has_every_part_of_the_protocol(self, backend: Backend) -> None:
        """`Options`, `concurrent`, `traits`, `load`, `embed` and `close`."""
        assert isinstance(backend, Backend), "compare your class with provider.backends.Backend, name by name"
        assert isinstance(backend.traits, BackendTraits)
        assert isinstance(type(backend).concurrent, bool)
        type(backend).Options()

    def test_it_answers_one_float32_vector_a_row(self, backend: Backend, spec: ModelSpec) -> None:
        """(rows, dimension), float32, C-contiguous, finite."""
        vectors = backend.embed(TokenBatch.of_rows(self.rows([3, 9, 1])))
        assert isinstance(vectors, np.ndarray), "return a numpy array, on the CPU"
        assert vectors.shape == (3, spec.dimension), "one row an input, pooled and passed through spec.head"
        assert vectors.dtype == np.float32, "convert half precision before returning"
        assert vectors.flags.c_contiguous
        assert np.isfinite(vectors).all()

    def test_it_keeps_the_order_of_the_rows(self, backend: Backend) -> None:
        """Sorting by length inside the backend must be undone before returning."""
        rows = self.rows([2, 17, 5, 11])
        together = backend.embed(TokenBatch.of_rows(rows))
        reversed_ = backend.embed(TokenBatch.of_rows(rows[::-1]))[::-1]
        assert _cosines(together, reversed_).min() > _SAME

    def test_a_row_alone_equals_the_same_row_beside_a_long_one(self, backend: Backend, spec: ModelSpec) -> None:
        """Padding must not leak into attention, positions or pooling."""
        short, long = self.rows([3, spec.max_tokens])
        alone = backend.embed(TokenBatch.of_rows([short]))
        beside = backend.embed(TokenBatch.of_rows([long, short]))[1:]
        assert _cosines(alone, beside).min() > _SAME, "check the attention mask and what pooling divides by"

    def test_it_answers_the_same_again(self, backend: Backend) -> None:
        """No dropout, no state from batch to batch."""
        batch = TokenBatch.of_rows(self.rows([4, 8]))
        np.testing.assert_allclose(backend.embed(batch), backend.embed(batch), rtol=1e-5, atol=1e-6)

    def test_it_takes_one_token_and_as_many_as_the_model_allows(self, backend: Backend, spec: ModelSpec) -> None:
        """The shortest and the longest row."""
        for length in (1, spec.max_tokens):
            vectors = backend.embed(TokenBatch.of_rows(self.rows([length])))
            assert np.isfinite(vectors).all(), f"a row of {length} tokens"

    def test_it_does_not_write_to_its_input(self, backend: Backend) -> None:
        """The batch's arrays are read-only and may be shared."""
        batch = TokenBatch.of_rows(self.rows([4, 6]))
        before = batch.ids.copy(), batch.offsets.copy(), batch.skips.copy()
        backend.embed(batch)
        for was, now in zip(before, (batch.ids, batch.offsets, batch.skips), strict=True):
            np.testing.assert_array_equal(was, now)

    def test_its_answer_belongs_to_the_caller(self, backend: Backend) -> None:
        """A buffer that the next batch overwrites would corrupt vectors that are still on their way out."""
        first = backend.embed(TokenBatch.of_rows(self.rows([5])))
        kept = first.copy()
        backend.embed(TokenBatch.of_rows(self.rows([9])[:1]))
        np.testing.assert_array_equal(first, kept)

    def test_it_is_usable_after_a_failure(self, backend: Backend) -> None:
        """A batch that fails leaves nothing behind."""
        good = TokenBatch.of_rows(self.rows([4]))
        before = backend.embed(good)
        bad = TokenBatch.of_rows([np.array([2**31 - 1], np.int32)])
        # A backend may fail on such an id or not; what follows is the test.
        with contextlib.suppress(Exception):
            backend.embed(bad)
        np.testing.assert_allclose(backend.embed(good), before, rtol=1e-5, atol=1e-6)

    def test_lanes_may_call_it_at_the_same_time_if_it_says_so(self, backend: Backend) -> None:
        """`concurrent = True` promises that threads do not disturb each other."""
        batches = [TokenBatch.of_rows(self.rows([length])) for length in (3, 7, 12, 20)]
        expected = [backend.embed(batch) for batch in batches]
        if not type(backend).concurrent:
            return
        wrong: list[int] = []

        def lane(i: int) -> None:
            worst = min(_cosines(backend.embed(batches[i]), expected[i]).min() for _ in range(10))
            wrong.extend([i] if worst < _SAME else [])

        threads = [threading.Thread(target=lane, args=(i,)) for i in range(len(batches))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, "set `concurrent = False`, or keep per-call state out of the instance"

    def test_it_agrees_with_the_reference(self, backend: Backend) -> None:
        """Cosine to a trusted implementation."""
        rows = self.rows([1, 4, 9, 30, 16])
        expected = self.reference(rows)
        if expected is not None:
            vectors = backend.embed(TokenBatch.of_rows(rows))
            assert _cosines(vectors, expected).min() > _REFERENCE, "check pooling, head, dtype and position ids"

    def test_it_may_be_closed_twice(self, spare: Backend) -> None:
        """`close` is idempotent. `spare` is an instance of its own: the others still need theirs."""
        spare.close()
        spare.close()


def _cosines(a: Vectors, b: Vectors) -> "np.ndarray[Any, Any]":
    cosines: np.ndarray[Any, Any] = np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cosines
