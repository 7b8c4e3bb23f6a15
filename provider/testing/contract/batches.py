"""The contract of batches: rows do not see each other, nor do batches, nor lanes."""

import contextlib
import threading
from copy import deepcopy

import numpy as np

from provider.backends import MULTI_VECTOR, Backend, ModelSpec, Outputs, TokenBatch
from provider.testing.contract.base import BatchOf, ContractBase
from provider.testing.contract.comparison import arrays_of, row_by_row


class BatchContract(ContractBase):
    """Rows beside each other, and batches behind each other."""

    def test_it_keeps_the_order_of_the_rows(self, backend: Backend, batch_of: BatchOf) -> None:
        """Sorting by length inside the backend must be undone before returning."""
        batch = batch_of([2, 17, 5, 11])
        together, backwards = backend.run(batch), backend.run(batch.take(np.arange(batch.rows)[::-1]))
        assert not self.unlike({name: rows[::-1] for name, rows in backwards.items()}, together), (
            "row i of the answer belongs to row i of the batch"
        )

    def test_a_row_alone_equals_the_same_row_beside_a_long_one(
        self, backend: Backend, spec: ModelSpec, batch_of: BatchOf
    ) -> None:
        """Padding must not leak into attention, positions or pooling.

        The engine measures it at the start and keeps such a backend right by batches of equal lengths, which is slower.
        """
        batch = batch_of([3, spec.max_tokens // 2])
        assert not self.lost(row_by_row(backend.run, batch), backend.run(batch)), (
            "padding leaks: look at the attention mask, at position ids and at what pooling divides by"
        )

    def test_rows_of_one_length_do_not_see_each_other(self, backend: Backend, batch_of: BatchOf) -> None:
        """A batch without padding takes shortcuts: no mask, one product."""
        batch = batch_of([7, 7, 7, 7, 7])
        assert not self.lost(row_by_row(backend.run, batch), backend.run(batch)), (
            "without padding rows mix: look at the reshaping of heads and at attention without a mask"
        )

    def test_many_rows_are_all_answered(self, backend: Backend, spec: ModelSpec, batch_of: BatchOf) -> None:
        """More rows than a backend's own chunks, of many lengths."""
        batch = batch_of(np.random.default_rng(1).integers(2, min(24, spec.max_tokens), 67).tolist())
        assert not self.lost(row_by_row(backend.run, batch), backend.run(batch)), (
            "a large batch loses rows: look at chunks, and at shapes that are rounded up"
        )

    def test_tokens_that_are_not_attended_are_not_seen(
        self, backend: Backend, spec: ModelSpec, batch_of: BatchOf
    ) -> None:
        """`batch.unattended` trailing tokens of a query have vectors, and no other token sees them."""
        if MULTI_VECTOR not in spec.outputs:
            return
        whole, kept = batch_of([9, 9], unattended=4, typed=False), batch_of([9, 9])
        short = TokenBatch.of_rows([kept.row(i)[:5] for i in range(2)], outputs=(MULTI_VECTOR,))
        found: Outputs = {MULTI_VECTOR: [row[:5] for row in backend.run(whole)[MULTI_VECTOR]]}
        assert not self.unlike(found, backend.run(short)), "take the mask from batch.padded(), which leaves them out"

    def test_it_answers_the_same_again(self, backend: Backend, batch_of: BatchOf) -> None:
        """No dropout."""
        batch = batch_of([4, 8])
        backend.run(batch)
        again, and_again = (arrays_of(backend.run(batch)) for _ in range(2))
        same = all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(again, and_again, strict=True))
        assert same, "something is drawn at random: is dropout on?"

    def test_a_batch_does_not_depend_on_the_one_before(self, backend: Backend, batch_of: BatchOf) -> None:
        """No state from batch to batch: buffers, key-value caches, statistics."""
        batch = batch_of([4, 8])
        answers = []
        for before in (batch_of([30]), batch_of([5, 3, 12], seed=8)):
            backend.run(before)
            answers.append(backend.run(batch))
        assert not self.unlike(*answers), "something of the last batch is still in a buffer or a cache"

    def test_its_answer_belongs_to_the_caller(self, backend: Backend, batch_of: BatchOf) -> None:
        """A buffer that the next batch overwrites would corrupt outputs that are still on their way out."""
        first = arrays_of(backend.run(batch_of([5, 5])))
        kept = deepcopy(first)
        backend.run(batch_of([5, 5], seed=8))
        assert all(map(np.array_equal, first, kept)), "return a copy of the output buffer, not the buffer"

    def test_it_does_not_write_to_its_input(self, backend: Backend, batch_of: BatchOf) -> None:
        """The batch's arrays are read-only and may be shared."""
        batch = batch_of([4, 6], skips=[1, 0])
        arrays = [each for each in (batch.ids, batch.offsets, batch.skips, batch.type_ids) if each is not None]
        before = [array.tobytes() for array in arrays]
        backend.run(batch)
        assert before == [array.tobytes() for array in arrays], "copy the batch's arrays before changing them"

    def test_it_is_usable_after_a_failure(self, backend: Backend, spec: ModelSpec, batch_of: BatchOf) -> None:
        """A batch that fails leaves nothing behind."""
        good, bad = batch_of([4]), TokenBatch.of_rows([np.array([2**31 - 1], np.int32)], outputs=spec.outputs)
        before = backend.run(good)
        # A backend may fail on such an id or not; what follows is the test.
        with contextlib.suppress(Exception):
            backend.run(bad)
        assert not self.unlike(backend.run(good), before), "a failed batch leaves something behind"

    def test_lanes_may_call_it_at_the_same_time_if_it_says_so(self, backend: Backend, batch_of: BatchOf) -> None:
        """`concurrent = True` promises that threads do not disturb each other, whatever shapes they bring."""
        batches = [batch_of(lengths) for lengths in ([3], [7, 7], [12, 2, 9], [20])]
        expected = [backend.run(batch) for batch in batches]
        lanes = len(batches) if type(backend).concurrent else 1
        together = threading.Barrier(lanes)
        wrong: list[str] = []

        def lane(first: int) -> None:
            together.wait(timeout=60)
            for i in [*range(first, len(batches)), *range(first)] * 3:
                try:
                    wrong.extend(self.unlike(backend.run(batches[i]), expected[i]))
                except Exception as exc:  # noqa: BLE001 - whatever it is, it is the finding
                    wrong.append(repr(exc))

        threads = [threading.Thread(target=lane, args=(i,)) for i in range(lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, "keep what belongs to one call out of the instance, or set `concurrent = False`"
