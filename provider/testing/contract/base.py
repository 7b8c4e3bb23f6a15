"""What the tests of the contract share: a model, the backend, a reference, and how outputs compare."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from attrs import evolve

from provider.backends import (
    DENSE,
    MULTI_VECTOR,
    SCORES,
    SPARSE,
    Backend,
    BackendOptions,
    Features,
    ModelSpec,
    Outputs,
    TokenBatch,
    own_options,
)
from provider.models.spec import read_spec
from provider.testing.contract.comparison import differences, plain_torch, rows_of
from provider.testing.tiny import (
    TINY_MULTI_VECTOR_SHAPES,
    TINY_SCORE_SHAPES,
    TINY_SHAPES,
    TINY_SPARSE_SHAPES,
    tiny_bge_m3,
)

BatchOf = Callable[..., TokenBatch]
"""`batch_of(lengths, skips=None)`: rows of random token ids, the same ones every time, that want every output of the
model. They have skips where the model pools. The second half of a row is the second text of a pair where the model
gives scores and its tokenizer types, unless `typed=False`."""

Reference = Callable[[TokenBatch], Outputs]

# By the outputs that a backend needs for them.
_SHAPES: Mapping[frozenset[str], Mapping[str, Callable[[Path], Path]]] = {
    frozenset({DENSE}): TINY_SHAPES,
    frozenset({SCORES}): TINY_SCORE_SHAPES,
    frozenset({SPARSE}): TINY_SPARSE_SHAPES,
    frozenset({MULTI_VECTOR}): TINY_MULTI_VECTOR_SHAPES,
    frozenset({DENSE, SPARSE, MULTI_VECTOR}): {"three outputs": partial(tiny_bge_m3, pickled=False)},
}


class ContractBase:
    """The attributes and fixtures that all tests share; `BackendContract` says what they mean."""

    backend_class: ClassVar[type[Backend]]
    options: ClassVar[Mapping[str, Any]] = {}
    device: ClassVar[str] = "auto"
    dtype: ClassVar[str] = "auto"
    shapes: ClassVar[Mapping[str, Callable[[Path], Path]] | None] = None
    least_cosine: ClassVar[float] = 0.9999
    least_same: ClassVar[float] = 0.999999
    most_difference: ClassVar[float] = 1e-4
    vocabulary: ClassVar[int] = 1000

    @classmethod
    def all_shapes(cls) -> Mapping[str, Callable[[Path], Path]]:
        """`shapes`, or those of every output that the backend gives."""
        if cls.shapes is not None:
            return cls.shapes
        given = (shapes for outputs, shapes in _SHAPES.items() if outputs <= cls.backend_class.outputs)
        return {name: write for shapes in given for name, write in shapes.items()}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test on every shape."""
        if "shape" in metafunc.fixturenames:
            metafunc.parametrize("shape", list(self.all_shapes()), scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, shape: str, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
        """The model under test."""
        folder = cls.all_shapes()[shape](tmp_path_factory.mktemp("contract") / "model")
        return read_spec(folder, name=shape, max_context_length=None, default_prompt=None)[0]

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, spec: ModelSpec) -> Iterator[Backend]:
        """The backend with that model loaded, for all tests of the class."""
        backend = cls.load(spec)
        yield backend
        backend.close()

    @pytest.fixture
    def spare(self, spec: ModelSpec) -> Backend:
        """Another one, which the test has to close."""
        return self.load(spec)

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, spec: ModelSpec) -> Reference:
        """A trusted implementation; override it for a backend that computes something else than the model."""
        return plain_torch(spec)

    @pytest.fixture(scope="class")
    @classmethod
    def batch_of(cls, spec: ModelSpec) -> BatchOf:
        """Makes batches."""
        vocabulary = spec.vocabulary_size or cls.vocabulary
        pools = DENSE in spec.outputs
        has_types = SCORES in spec.outputs and bool(spec.tokenizer.type_ids)

        def batch_of(
            lengths: Sequence[int],
            skips: Sequence[int] | None = None,
            *,
            seed: int = 7,
            typed: bool = True,
            unattended: int = 0,
        ) -> TokenBatch:
            random = np.random.default_rng(seed)
            rows = [
                Features(
                    random.integers(5, vocabulary, n).astype(np.int32),
                    skip=skip,
                    unattended=unattended,
                    outputs=spec.outputs,
                )
                for n, skip in zip(lengths, (pools and skips) or [0] * len(lengths), strict=True)
            ]
            return TokenBatch.of([_as_pair(row) for row in rows] if has_types and typed else rows)

        return batch_of

    @classmethod
    def load(cls, spec: ModelSpec, **changes: Any) -> Backend:  # noqa: ANN401 - fields of BackendOptions
        """The backend with `spec` loaded, with other `BackendOptions` if asked for."""
        own = own_options(cls.backend_class.__name__, cls.backend_class, cls.options)
        asked: dict[str, Any] = {"device": cls.device, "dtype": cls.dtype, "own": own, **changes}
        return cls.backend_class.load(spec, BackendOptions(**asked))

    def unlike(self, found: Outputs, expected: Outputs) -> list[str]:
        """What differs between two answers of the backend to the same rows; empty if they are the same."""
        return differences(found, expected, least_cosine=self.least_same, most_difference=self.most_difference)

    def unlike_reference(self, found: Outputs, expected: Outputs) -> list[str]:
        """What differs between the backend's answer and the reference's; empty if they agree."""
        return differences(found, expected, least_cosine=self.least_cosine, most_difference=self.most_difference)

    def lost(self, wanted: Outputs, among: Outputs) -> list[str]:
        """Which rows of `wanted` are not found among those of another answer, in whatever order."""
        others = list(rows_of(among))
        told = []
        for i, row in enumerate(rows_of(wanted)):
            # Where it should stand first.
            places = sorted(range(len(others)), key=lambda j, i=i: j != i)  # type: ignore[misc]
            if all(self.unlike(others[j], row) for j in places):
                told += [f"row {i} of {len(others)}", *self.unlike(others[i], row)]
        return told


def _as_pair(row: Features) -> Features:
    return evolve(row, type_ids=(np.arange(len(row.ids)) >= len(row.ids) // 2).astype(np.int32))
