"""The `Backend` protocol as tests, for a plugin's tests to inherit.

    class TestMyBackend(BackendContract):
        backend_class = MyBackend

Each test runs on tiny models for every output that the backend gives, and a failing one says what to look at. More of
the class's attributes, and its fixtures `spec`, `backend` and `reference`, may be overridden. pytest is needed.
"""

from provider.testing.contract.batches import BatchContract
from provider.testing.contract.loading import LoadingContract
from provider.testing.contract.outputs import OutputContract

__all__ = ["BackendContract"]


class BackendContract(BatchContract, OutputContract, LoadingContract):
    """Every backend passes these tests.

    Attributes:
        backend_class: the backend.
        options: its own options, as under `options:` in the configuration.
        device: as in `BackendOptions`.
        dtype: as in `BackendOptions`.
        shapes: name to a function that writes a model to a folder (it exists or not) and returns the model's folder;
            None for the tiny models of every output among the backend's `outputs`.
        least_cosine: of a vector to the reference; lower it for quantised weights.
        least_same: cosine of a row to itself, alone or beside others; float32 sums in another order are what differs.
            Lower it where the numbers of one row depend on those of others, as dynamic quantisation has it.
        most_difference: of a logit or a sparse vector's weight to the reference's, and to its own beside other rows;
            raise it where the cosines are lowered.
        vocabulary: token ids are drawn below this, where the model's configuration does not say it.
    """
