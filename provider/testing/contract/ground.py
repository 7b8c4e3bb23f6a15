"""What the tests of the contract stand on: a model, the backend, a reference, and how vectors compare."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from provider.backends import Backend, BackendOptions, ModelSpec, TokenBatch, Vectors, own_options
from provider.models.spec import read_spec
from provider.testing.reference import plain_torch
from provider.testing.tiny import TINY_SHAPES

BatchOf = Callable[..., TokenBatch]
"""`batch_of(lengths, skips=None)`: rows of random token ids, the same ones every time."""

Reference = Callable[[TokenBatch], Vectors]


class Ground:
    """The attributes and fixtures that all tests share; `BackendContract` says what they mean."""

    backend_class: ClassVar[type[Backend]]
    options: ClassVar[Mapping[str, Any]] = {}
    device: ClassVar[str] = "auto"
    dtype: ClassVar[str] = "auto"
    shapes: ClassVar[Mapping[str, Callable[[Path], Path]]] = TINY_SHAPES
    least_cosine: ClassVar[float] = 0.9999
    least_same: ClassVar[float] = 0.999999
    vocabulary: ClassVar[int] = 1000

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test on every shape."""
        if "shape" in metafunc.fixturenames:
            metafunc.parametrize("shape", list(self.shapes), scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, shape: str, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
        """The model under test."""
        folder = cls.shapes[shape](tmp_path_factory.mktemp("contract") / "model")
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

        def batch_of(lengths: Sequence[int], skips: Sequence[int] | None = None, *, seed: int = 7) -> TokenBatch:
            random = np.random.default_rng(seed)
            return TokenBatch.of_rows([random.integers(5, vocabulary, n).astype(np.int32) for n in lengths], skips)

        return batch_of

    @classmethod
    def load(cls, spec: ModelSpec, **changes: Any) -> Backend:  # noqa: ANN401 - fields of BackendOptions
        """The backend with `spec` loaded, with other `BackendOptions` if asked for."""
        own = own_options(cls.backend_class.__name__, cls.backend_class, cls.options)
        asked: dict[str, Any] = {"device": cls.device, "dtype": cls.dtype, "own": own, **changes}
        return cls.backend_class.load(spec, BackendOptions(**asked))


def cosines(a: Vectors, b: Vectors) -> "np.ndarray[Any, Any]":
    """Of each row of `a` with the same row of `b`, (rows,)."""
    found: np.ndarray[Any, Any] = np.sum(_unit(a) * _unit(b), axis=1)
    return found


def worst_match(wanted: Vectors, among: Vectors) -> float:
    """How well each wanted vector is found among others, in any order: the worst of the best cosines."""
    return float((_unit(wanted) @ _unit(among).T).max(axis=1).min())


def _unit(vectors: Vectors) -> "np.ndarray[Any, Any]":
    # In float32 the cosine of a vector with itself may already be below the limit.
    whole: np.ndarray[Any, Any] = vectors.astype(np.float64)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    return whole
