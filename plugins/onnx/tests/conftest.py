"""What several modules of tests share: exported models, to use and to break."""

from pathlib import Path

import pytest
from exports import exported_minilm, with_graph

from provider.testing import packaged_minilm
from provider.testing.tiny import tiny_bert


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
