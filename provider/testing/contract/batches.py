"""The contract of batches: rows do not see each other, nor do batches, nor lanes."""

import contextlib
import threading

import numpy as np

from provider.backends import Backend, ModelSpec, TokenBatch
from provider.testing.contract.ground import BatchOf, Ground, cosines, worst_match
from provider.testing.reference import row_by_row


class BatchContract(Ground):
    """Rows beside each other, and batches behind each other."""

    def test_it_keeps_the_order_of_the_rows(self, backend: Backend, batch_of: BatchOf) -> None:
        """Sorting by length inside the backend must be undone before returning."""
        batch = batch_of([2, 17, 5, 11])
        backwards = TokenBatch.of_rows([batch.row(i) for i in reversed(range(batch.rows))])
        together, reversed_ = backend.embed(batch), backend.embed(backwards)[::-1]
        assert cosines(together, reversed_).min() > self.least_same, "row i of the answer belongs to row i of the batch"

    def test_a_row_alone_equals_the_same_row_beside_a_long_one(
        self, backend: Backend, spec: ModelSpec, batch_of: BatchOf
    ) -> None:
        """Padding must not leak into attention, positions or pooling.

        The engine measures it at the start and keeps such a backend right by batches of equal lengths, which is slower.
        """
        batch = batch_of([3, spec.max_tokens // 2])
        assert worst_match(row_by_row(backend.embed, batch), backend.embed(batch)) > self.least_same, (
            "padding leaks: look at the attention mask, at position ids and at what pooling divides by"
        )

    def test_rows_of_one_length_do_not_see_each_other(self, backend: Backend, batch_of: BatchOf) -> None:
        """A batch without padding takes shortcuts: no mask, one product."""
        batch = batch_of([7, 7, 7, 7, 7])
        assert worst_match(row_by_row(backend.embed, batch), backend.embed(batch)) > self.least_same, (
            "without padding rows mix: look at the reshaping of heads and at attention without a mask"
        )

    def test_many_rows_are_all_embedded(self, backend: Backend, spec: ModelSpec, batch_of: BatchOf) -> None:
        """More rows than a backend's own chunks, of many lengths."""
        batch = batch_of(np.random.default_rng(1).integers(2, min(24, spec.max_tokens), 67))
        assert worst_match(row_by_row(backend.embed, batch), backend.embed(batch)) > self.least_same, (
            "a large batch loses rows: look at chunks, and at shapes that are rounded up"
        )

    def test_it_answers_the_same_again(self, backend: Backend, batch_of: BatchOf) -> None:
        """No dropout."""
        batch = batch_of([4, 8])
        backend.embed(batch)
        again, and_again = backend.embed(batch), backend.embed(batch)
        assert np.allclose(again, and_again, rtol=1e-5, atol=1e-6), "something is drawn at random: is dropout on?"

    def test_a_batch_does_not_depend_on_the_one_before(self, backend: Backend, batch_of: BatchOf) -> None:
        """No state from batch to batch: buffers, key-value caches, statistics."""
        batch = batch_of([4, 8])
        answers = []
        for before in (batch_of([30]), batch_of([5, 3, 12], seed=8)):
            backend.embed(before)
            answers.append(backend.embed(batch))
        assert cosines(*answers).min() > self.least_same, "something of the last batch is still in a buffer or a cache"

    def test_its_answer_belongs_to_the_caller(self, backend: Backend, batch_of: BatchOf) -> None:
        """A buffer that the next batch overwrites would corrupt vectors that are still on their way out."""
        first = backend.embed(batch_of([5, 5]))
        kept = first.copy()
        backend.embed(batch_of([5, 5], seed=8))
        assert np.array_equal(first, kept), "return a copy of the output buffer, not the buffer"

    def test_it_does_not_write_to_its_input(self, backend: Backend, batch_of: BatchOf) -> None:
        """The batch's arrays are read-only and may be shared."""
        batch = batch_of([4, 6], skips=[1, 0])
        before = [array.tobytes() for array in (batch.ids, batch.offsets, batch.skips)]
        backend.embed(batch)
        after = [array.tobytes() for array in (batch.ids, batch.offsets, batch.skips)]
        assert before == after, "copy the batch's arrays before changing them"

    def test_it_is_usable_after_a_failure(self, backend: Backend, batch_of: BatchOf) -> None:
        """A batch that fails leaves nothing behind."""
        good, bad = batch_of([4]), TokenBatch.of_rows([np.array([2**31 - 1], np.int32)])
        before = backend.embed(good)
        # A backend may fail on such an id or not; what follows is the test.
        with contextlib.suppress(Exception):
            backend.embed(bad)
        assert cosines(backend.embed(good), before).min() > self.least_same, "a failed batch leaves something behind"

    def test_lanes_may_call_it_at_the_same_time_if_it_says_so(self, backend: Backend, batch_of: BatchOf) -> None:
        """`concurrent = True` promises that threads do not disturb each other, whatever shapes they bring."""
        batches = [batch_of(lengths) for lengths in ([3], [7, 7], [12, 2, 9], [20])]
        expected = [backend.embed(batch) for batch in batches]
        lanes = len(batches) if type(backend).concurrent else 1
        together = threading.Barrier(lanes)
        wrong: list[str] = []

        def lane(first: int) -> None:
            together.wait(timeout=60)
            for i in [*range(first, len(batches)), *range(first)] * 3:
                try:
                    if cosines(backend.embed(batches[i]), expected[i]).min() <= self.least_same:
                        wrong.append("other vectors")
                except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
                    wrong.append(repr(exc))

        threads = [threading.Thread(target=lane, args=(i,)) for i in range(lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, "keep what belongs to one call out of the instance, or set `concurrent = False`"
