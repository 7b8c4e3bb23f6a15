"""A cache of converted models, and the real model, shared by the tests of this distribution."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emb_provider_openvino import OpenVINOBackend, OpenVINOOptions

from provider.backends import BackendOptions, ModelSpec, TokenBatch
from provider.models.spec import read_spec
from provider.testing import packaged_minilm
from provider.testing.tiny import tiny_bert

Load = Callable[..., OpenVINOBackend]


@pytest.fixture(scope="package", autouse=True)
def _cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is converted once is there for all tests, unless they name a folder; the user's cache is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights."""
    return tiny_bert(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def spec(folder: Path) -> ModelSpec:
    return read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]


@pytest.fixture(scope="session")
def batch() -> TokenBatch:
    """Rows of unlike length for that model."""
    random = np.random.default_rng(0)
    return TokenBatch.of_rows([random.integers(5, 60, length).astype(np.int32) for length in (9, 1, 30, 4)])


@pytest.fixture(scope="session")
def minilm_spec() -> ModelSpec:
    return read_spec(packaged_minilm(), name="minilm", max_context_length=None, default_prompt=None)[0]


@pytest.fixture(scope="session")
def load() -> Load:
    """Load a model; named arguments that are no `BackendOptions` are the backend's own."""

    def load(
        spec: ModelSpec, *, device: str = "auto", dtype: str = "auto", threads: int = 1, **own: Any
    ) -> OpenVINOBackend:
        options = BackendOptions(device=device, dtype=dtype, threads=threads, own=OpenVINOOptions(**own))
        return OpenVINOBackend.load(spec, options)

    return load


@pytest.fixture
def few_texts(tmp_path: Path) -> str:
    """A calibration file for tests that ask nothing of the numbers: with so few texts quantising is quick."""
    path = tmp_path / "few.txt"
    path.write_text("the cat sleeps\na dog runs\n", encoding="utf-8")
    return str(path)
