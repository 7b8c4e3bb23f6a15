"""The contract of outputs: equal to the reference, in the form that the engine takes."""

import numpy as np
import pytest

from provider.backends import Backend, ModelSpec, Outputs, TokenBatch
from provider.tasks import check_outputs
from provider.testing.contract.base import BatchOf, ContractBase, Reference
from provider.testing.contract.comparison import arrays_of, row_by_row


class OutputContract(ContractBase):
    """One row at a time."""

    def test_it_answers_float32_in_the_form_of_the_task(
        self, backend: Backend, spec: ModelSpec, batch_of: BatchOf
    ) -> None:
        """What `Backend.run` says of each output: its shape, float32, C-contiguous, finite."""
        _check_form(spec, batch_of([3, 9, 2]), backend)

    def test_it_agrees_with_the_reference(self, backend: Backend, batch_of: BatchOf, reference: Reference) -> None:
        """Vectors, weights and logits of a trusted implementation, for rows alone."""
        batch = batch_of([4, 9, 30, 16])
        assert not self.unlike_reference(row_by_row(backend.run, batch), reference(batch)), (
            "look at the task's pooling and head, position ids, batch.type_ids and the dtype; logits are not activated"
        )

    def test_it_leaves_normalising_to_the_engine(
        self, backend: Backend, batch_of: BatchOf, reference: Reference
    ) -> None:
        """Vectors are as long as the model makes them: `dimensions` has to be cut before they are normalised."""
        batch = batch_of([4, 9, 30, 16])
        ours, theirs = (_norms(each) for each in (row_by_row(backend.run, batch), reference(batch)))
        same = all(np.allclose(a, b, rtol=0.1, atol=1e-3) for a, b in zip(ours, theirs, strict=True))
        assert same, "return vectors as the head gives them, neither normalised nor scaled"

    def test_it_takes_rows_of_one_token_and_of_as_many_as_the_model_allows(
        self, backend: Backend, spec: ModelSpec, batch_of: BatchOf
    ) -> None:
        """The shortest and the longest row."""
        for length in (1, spec.max_tokens):
            _check_form(spec, batch_of([length]), backend)

    def test_every_id_of_the_vocabulary_is_a_token_like_others(
        self, backend: Backend, spec: ModelSpec, batch_of: BatchOf, reference: Reference
    ) -> None:
        """The first one, the last one, and the padding id, which a text may contain."""
        ids = batch_of([9]).ids.copy()
        ids[[2, 4, 6]] = 0, (spec.vocabulary_size or self.vocabulary) - 1, spec.pad_id
        batch = TokenBatch.of_rows([ids], outputs=spec.outputs)
        assert not self.unlike_reference(backend.run(batch), reference(batch)), (
            "take the mask from batch.padded() or batch.lengths, never from `ids != pad_id`"
        )

    def test_prompt_tokens_are_left_out_of_pooling(
        self, backend: Backend, batch_of: BatchOf, reference: Reference
    ) -> None:
        """`batch.skips` leading tokens are seen by the model and not pooled; at most all but one."""
        batch = batch_of([8, 8, 8, 8], skips=[0, 1, 5, 7])
        assert not self.unlike_reference(backend.run(batch), reference(batch)), (
            "hand batch.skips to provider.backends.pool, in the order of the rows"
        )

    def test_tokens_without_types_have_type_0(self, backend: Backend, batch_of: BatchOf, reference: Reference) -> None:
        """A batch has no `type_ids` where all are 0, whatever the model."""
        batch = batch_of([12, 7], typed=False)
        assert not self.unlike_reference(row_by_row(backend.run, batch), reference(batch)), (
            "take types from batch.type_ids, and 0 where that is None"
        )


def _check_form(spec: ModelSpec, batch: TokenBatch, backend: Backend) -> None:
    outputs = backend.run(batch)
    where = f"a batch with rows of {', '.join(map(str, batch.lengths))} tokens"
    try:
        check_outputs(spec.tasks, outputs, batch)
    except TypeError as exc:
        pytest.fail(f"{where}: {exc}; is a dimension squeezed away, or the dtype another?")
    arrays = arrays_of(outputs)
    assert all(each.flags.c_contiguous for each in arrays), "call np.ascontiguousarray before returning"
    assert all(np.isfinite(each).all() for each in arrays), (
        f"NaN or infinity in {where}: look at masks of -inf, at position ids and at division by zero"
    )


def _norms(outputs: Outputs) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return [np.linalg.norm(each, axis=-1) for each in arrays_of(outputs)]
