"""Which modules queries, documents and other inputs go through, as sentence-transformers' Router resolves it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.base.modules import Normalize, Router

from provider.errors import InvalidModel
from provider.models.pipeline import Module
from provider.models.router import read_ways

TYPE = "sentence_transformers.models.Normalize"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(routes: list[str], **parameters: Any) -> Path:
        document = {
            "types": {f"{name}_0": TYPE for name in routes},
            "structure": {name: [f"{name}_0"] for name in routes},
            "parameters": parameters,
        }
        (tmp_path / "router_config.json").write_text(json.dumps(document))
        return tmp_path

    return written


def read(folder: Path) -> dict[str | None, str | None]:
    """Task to route."""
    ways = read_ways(folder, [Module("sentence_transformers.models.Router", folder)])
    found = {"document": ways.documents, "query": ways.queries, None: ways.default}
    return {task: way[0].folder.name.removesuffix("_0") if way else None for task, way in found.items()}


@pytest.mark.parametrize(
    ("routes", "parameters"),
    [
        (["query", "document"], {"default_route": "document"}),
        (["query", "document"], {"default_route": None, "allow_empty_key": True}),
        (["query", "document"], {"default_route": None, "allow_empty_key": False}),
        (["document", "query", "text"], {"default_route": "query"}),
        (["text"], {"default_route": None}),
        (["a", "b"], {"default_route": "a", "route_mappings": {"('query', 'text')": "a", "('document', None)": "b"}}),
        (["a", "b"], {"default_route": "b", "route_mappings": {"(None, 'text')": "a"}}),
        (["a", "query"], {"default_route": "query", "route_mappings": {"(None, None)": "a"}}),
        (
            ["query", "b"],
            {"default_route": "b", "route_mappings": {"('document', 'text')": "b", "('query', 'image')": "b"}},
        ),
    ],
)
def test_routes_are_those_of_sentence_transformers(routes: list[str], parameters: dict[str, Any], write: Write) -> None:
    mappings = {eval(key): name for key, name in parameters.get("route_mappings", {}).items()}
    theirs = Router({name: [Normalize()] for name in routes}, **{**parameters, "route_mappings": mappings})

    def route(task: str | None) -> str | None:
        try:
            return theirs._resolve_route(task, "text")
        except ValueError:
            return None

    assert read(write(routes, **parameters)) == {task: route(task) for task in ("document", "query", None)}


@pytest.mark.parametrize(
    ("routes", "parameters", "words"),
    [
        (["QRY", "DOC"], {}, "no route for the task 'document', its routes are QRY, DOC"),
        (["query", "document"], {"default_route": "other"}, "names the route 'other'"),
        (["query", "document"], {"route_mappings": {"query": "document"}}, "the route mapping 'query'"),
    ],
)
def test_what_knows_no_queries_and_documents_is_refused(
    routes: list[str], parameters: dict[str, Any], words: str, write: Write
) -> None:
    with pytest.raises(InvalidModel, match=words):
        read(write(routes, **parameters))


def test_modules_lie_in_the_models_own_folder(write: Write) -> None:
    folder = write(["query", "document"])
    document = json.loads((folder / "router_config.json").read_text())
    document["types"]["../x"] = TYPE
    document["structure"]["query"] = ["../x"]
    (folder / "router_config.json").write_text(json.dumps(document))
    with pytest.raises(InvalidModel, match="expected a folder inside the model's own"):
        read(folder)
