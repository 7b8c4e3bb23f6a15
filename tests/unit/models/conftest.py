"""Folders of tiny models, and a way to change what is in their files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provider.testing.tiny import tiny_bert


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a dense layer and prompts; not to be written to."""
    prompts = {"query": "query: ", "passage": "passage: "}
    return tiny_bert(tmp_path_factory.mktemp("tiny") / "bert", dense=16, prompts=prompts)


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


Edit = Callable[..., None]


@pytest.fixture
def edit(folder: Path) -> Edit:
    """`edit("config.json", hidden_size=None)`: change or (None) remove keys of a JSON file of the copy."""

    def edited(name: str, **changes: Any) -> None:
        path = folder / name
        document = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
        path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))

    return edited
