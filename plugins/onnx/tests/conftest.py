"""What several modules of tests share: exported models, to use and to break."""

from pathlib import Path

import pytest
from exports import exported_minilm, with_graph

from provider.testing import packaged_minilm
from provider.testing.tiny import tiny_bert

# Their first use makes an environment with optimum in it, and every graph takes seconds.
_EXPORTING = {"exported", "tiny", "hub"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs an exported graph is a slow test, and may wait while another process exports."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(3600))
            if _EXPORTING.intersection(getattr(item, "fixturenames", ())):
                item.add_marker("slow")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed package."""
    return packaged_minilm()


@pytest.fixture(scope="session")
def exported() -> Path:
    """all-MiniLM-L6-v2, optimised, with a quantised file."""
    return exported_minilm()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A tiny BERT with its graph, to break."""
    return with_graph(tiny_bert)(tmp_path / "tiny")
