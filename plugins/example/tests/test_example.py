"""The example backend keeps the contract, and does what feature hashing promises."""

from pathlib import Path

import numpy as np
import pytest
from emb_provider_example import ExampleBackend, ExampleOptions

from provider.backends import BackendOptions, BackendUnavailable, ModelSpec, TokenBatch
from provider.testing import BackendContract


def _spec(folder: Path) -> ModelSpec:
    return ModelSpec(
        name="example",
        folder=folder,
        architecture="none",
        hidden_size=64,
        dimension=64,
        max_tokens=128,
        max_positions=None,
        pooling=("mean",),
        fingerprint="example",
    )


class TestExampleBackend(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
        return _spec(tmp_path_factory.mktemp("example"))

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, spec: ModelSpec) -> ExampleBackend:
        return ExampleBackend.load(spec, BackendOptions(own=ExampleOptions()))

    @pytest.fixture
    def spare(self, spec: ModelSpec) -> ExampleBackend:
        return ExampleBackend.load(spec, BackendOptions(own=ExampleOptions()))

    def test_rows_that_share_tokens_are_similar(self, backend: ExampleBackend) -> None:
        rows = [np.array(ids, np.int32) for ids in ([10, 20, 30, 40], [10, 20, 30, 50], [61, 72, 83, 94])]
        vectors = backend.embed(TokenBatch.of_rows(rows))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.3

    def test_another_seed_gives_other_directions(self, backend: ExampleBackend, spec: ModelSpec) -> None:
        other = ExampleBackend.load(spec, BackendOptions(own=ExampleOptions(seed=1)))
        batch = TokenBatch.of_rows([np.array([10, 20], np.int32)])
        assert not np.array_equal(backend.embed(batch), other.embed(batch))

    def test_a_device_it_does_not_have_is_refused(self, spec: ModelSpec) -> None:
        with pytest.raises(BackendUnavailable, match="CPU only"):
            ExampleBackend.load(spec, BackendOptions(device="cuda", own=ExampleOptions()))
