"""CUDA without a card, for the backends of torch."""

from collections.abc import Iterator

import fake_cuda
import pytest
from fake_cuda import FakeRuntime

from provider.backends.torch import graphs


@pytest.fixture(scope="module")
def few_graphs() -> Iterator[None]:
    """Capturing all graphs takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "_MOST_CELLS", 128)
        yield


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> list[FakeRuntime]:
    """This machine has a CUDA device; the runtimes of the models that are loaded from now on."""
    return fake_cuda.install(monkeypatch)
