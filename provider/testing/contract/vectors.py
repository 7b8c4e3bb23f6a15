"""The contract of the vectors: equal to the reference, in the form that the engine takes."""

import numpy as np

from provider.backends import Backend, ModelSpec, TokenBatch
from provider.testing.contract.ground import BatchOf, Ground, Reference, cosines
from provider.testing.reference import row_by_row


class VectorContract(Ground):
    """One row at a time."""

    def test_it_answers_one_float32_vector_a_row(self, backend: Backend, spec: ModelSpec, batch_of: BatchOf) -> None:
        """(rows, dimension), float32, C-contiguous, finite."""
        vectors = backend.embed(batch_of([3, 9, 2]))
        assert isinstance(vectors, np.ndarray), "return a numpy array, on the CPU"
        assert vectors.shape == (3, spec.dimension), "one vector a row, pooled and passed through spec.head, not cut"
        assert vectors.dtype == np.float32, "convert to float32 before returning"
        assert vectors.flags.c_contiguous, "call np.ascontiguousarray before returning"
        assert np.isfinite(vectors).all(), "NaN or infinity: look at masks of -inf and at division by zero"

    def test_it_agrees_with_the_reference(self, backend: Backend, batch_of: BatchOf, reference: Reference) -> None:
        """Cosine to a trusted implementation, for rows alone."""
        batch = batch_of([4, 9, 30, 16])
        worst = cosines(row_by_row(backend.embed, batch), reference(batch)).min()
        assert worst > self.least_cosine, "look at spec.pooling, spec.head, position ids, segment ids and the dtype"

    def test_it_leaves_normalising_to_the_engine(
        self, backend: Backend, batch_of: BatchOf, reference: Reference
    ) -> None:
        """Vectors are as long as the model makes them: `dimensions` has to be cut before they are normalised."""
        batch = batch_of([4, 9, 30, 16])
        ours, theirs = (np.linalg.norm(each, axis=1) for each in (row_by_row(backend.embed, batch), reference(batch)))
        assert np.allclose(ours, theirs, rtol=0.1), "return pooled vectors as they are, neither normalised nor scaled"

    def test_it_takes_rows_of_one_token_and_of_as_many_as_the_model_allows(
        self, backend: Backend, spec: ModelSpec, batch_of: BatchOf
    ) -> None:
        """The shortest and the longest row."""
        for length in (1, spec.max_tokens):
            vectors = backend.embed(batch_of([length]))
            assert vectors.shape == (1, spec.dimension), f"a row of {length} tokens: is a dimension squeezed away?"
            assert np.isfinite(vectors).all(), f"a row of {length} tokens: look at masks and at position ids"

    def test_every_id_of_the_vocabulary_is_a_token_like_others(
        self, backend: Backend, spec: ModelSpec, batch_of: BatchOf, reference: Reference
    ) -> None:
        """The first one, the last one, and the padding id, which a text may contain."""
        ids = batch_of([9]).ids.copy()
        ids[[2, 4, 6]] = 0, (spec.vocabulary_size or self.vocabulary) - 1, spec.pad_id
        batch = TokenBatch.of_rows([ids])
        assert cosines(backend.embed(batch), reference(batch)).min() > self.least_cosine, (
            "take the mask from batch.padded() or batch.lengths, never from `ids != pad_id`"
        )

    def test_prompt_tokens_are_left_out_of_pooling(
        self, backend: Backend, batch_of: BatchOf, reference: Reference
    ) -> None:
        """`batch.skips` leading tokens are seen by the model and not pooled; at most all but one."""
        batch = batch_of([8, 8, 8, 8], skips=[0, 1, 5, 7])
        assert cosines(backend.embed(batch), reference(batch)).min() > self.least_cosine, (
            "hand batch.skips to provider.backends.pool, in the order of the rows"
        )
