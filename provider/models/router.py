"""Routers of sentence-transformers: queries and documents that go through different modules.

Format: `sentence_transformers/base/modules/router.py` (`load`, `_resolve_route_name`), release 6.2. Its older name is
Asym.
"""

import ast
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from provider.domain import HeadStep, ModelSpec
from provider.errors import InvalidModel
from provider.models.folder import read_object
from provider.models.kinds import check_modules
from provider.models.pipeline import ROUTERS, Module, inside
from provider.models.weights import fingerprint

_FILES = ("router_config.json", "config.json")


@frozen
class Ways:
    """The modules that inputs go through.

    Attributes:
        documents: of documents, from the first module to the last.
        queries: the same of queries.
        default: of inputs that are said to be neither; None where the model refuses these.
        files: the JSON files that say so, beside `modules.json`.
    """

    documents: tuple[Module, ...]
    queries: tuple[Module, ...]
    default: tuple[Module, ...] | None
    files: tuple[Path, ...] = ()

    @property
    def differ(self) -> bool:
        """Whether queries and documents go through different modules."""
        return self.documents != self.queries

    @property
    def all(self) -> tuple[tuple[Module, ...], ...]:
        """The different ones, that of documents first."""
        return (self.documents, self.queries) if self.differ else (self.documents,)


def read_ways(folder: Path, modules: Sequence[Module]) -> Ways:
    """Where queries and documents go, by `modules` and the Router's own file, if they begin with one.

    Args:
        folder: the model's.
        modules: as `read_modules` gives them.

    Raises:
        InvalidModel: the Router's file is missing, damaged, or knows no queries and documents.
    """
    whole = tuple(modules)
    if not whole or whole[0].kind not in ROUTERS:
        return Ways(whole, whole, whole)
    place, after = whole[0].folder, whole[1:]
    where, document = _read(place)
    types, structure, parameters = (document.get(key) or {} for key in ("types", "structure", "parameters"))
    if not all(isinstance(part, dict) for part in (types, structure, parameters)) or not structure:
        msg = f"{where} has no 'types' and 'structure' as a Router's file has them; restore it"
        raise InvalidModel(msg)
    check_modules(folder, [str(kind) for kind in types.values()])
    routes: dict[str, tuple[Module, ...]] = {}
    for name, ids in structure.items():
        unknown = [each for each in ids if each not in types] if isinstance(ids, list) else [ids]
        if unknown or not ids:
            msg = f"{where} has the route {name!r} of {ids}, expected modules out of {', '.join(types) or 'none'}"
            raise InvalidModel(msg)
        inner = tuple(Module(str(types[each]), inside(place, each, where)) for each in ids)
        if any(module.kind in ROUTERS for module in inner):
            msg = f"{where} has a Router in its route {name!r}, which is not supported"
            raise InvalidModel(msg)
        routes[name] = (*inner, *after)
    return Ways(
        _route("document", routes, parameters, where),
        _route("query", routes, parameters, where),
        routes[name] if (name := _resolve(None, routes, parameters, where)) is not None else None,
        (where,),
    )


def join_ways(folder: Path, specs: Sequence[ModelSpec], ways: Ways, *, normalize: bool) -> ModelSpec:
    """One spec out of those of documents and queries.

    Args:
        folder: the model's.
        specs: of `ways.all`; each says whether its own pipeline normalises.
        ways: as read.
        normalize: whether answers have length 1 when a request does not say.

    Raises:
        InvalidModel: queries and documents have vectors of different widths.
    """
    together = all(spec.dense.normalize for spec in specs)
    documents, *others = (_finished(spec, together=together, normalize=normalize) for spec in specs)
    if not others:
        return documents
    queries = others[0]
    if queries.dense.dimension != documents.dense.dimension:
        msg = (
            f"{ways.files[0]} has queries of {queries.dense.dimension} dimensions and documents of "
            f"{documents.dense.dimension}, which cannot be compared; restore the files"
        )
        raise InvalidModel(msg)
    own = fingerprint(folder, (folder / "modules.json", *ways.files))
    digest = hashlib.sha256(f"{documents.fingerprint} {queries.fingerprint} {own}".encode()).hexdigest()[:16]
    role: Literal["query", "document"] | None = None
    if ways.default in ways.all:
        role = "query" if ways.default == ways.queries else "document"
    return evolve(documents, fingerprint=digest, queries=evolve(queries, fingerprint=digest), default_role=role)


def _finished(spec: ModelSpec, *, together: bool, normalize: bool) -> ModelSpec:
    """The same, with an answer that is normalised as the other's; one that alone ends with Normalize does it itself."""
    alone = (HeadStep("normalize"),) if spec.dense.normalize and not together else ()
    task = evolve(spec.dense, head=(*spec.dense.head, *alone), normalize=normalize)
    return evolve(spec, tasks=(task, *spec.tasks[1:]))


def _read(place: Path) -> tuple[Path, dict[str, Any]]:
    for name in _FILES:
        document = read_object(place / name)
        if document:
            return place / name, document
    msg = f"{place} has no {_FILES[0]}, which says where queries and documents go; download the model again"
    raise InvalidModel(msg)


def _route(
    task: str, routes: Mapping[str, tuple[Module, ...]], parameters: dict[str, Any], where: Path
) -> tuple[Module, ...]:
    name = _resolve(task, routes, parameters, where)
    if name is None:
        msg = (
            f"{where} has no route for the task {task!r}, its routes are {', '.join(routes)}; supported are models for "
            "queries and documents"
        )
        raise InvalidModel(msg)
    return routes[name]


def _resolve(
    task: str | None, routes: Mapping[str, tuple[Module, ...]], parameters: dict[str, Any], where: Path
) -> str | None:
    """The name of the route for texts with that task; None where there is none."""
    mapped = _mappings(parameters, where)
    name: str | None
    for key in ((task, "text"), (task, None), (None, "text"), (None, None)):
        if key in mapped:
            name = mapped[key]
            break
    else:
        name = task if task in routes else "text" if "text" in routes else None
    if name is None and task is None:
        name = parameters.get("default_route")
        if name is None and parameters.get("allow_empty_key", True):
            name = next(iter(routes))
    if name is not None and name not in routes:
        msg = f"{where} names the route {name!r}, but its routes are {', '.join(routes)}; restore the file"
        raise InvalidModel(msg)
    return name


def _mappings(parameters: dict[str, Any], where: Path) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for key, name in (parameters.get("route_mappings") or {}).items():
        try:
            found[ast.literal_eval(key)] = str(name)
        except (ValueError, SyntaxError, TypeError) as exc:
            msg = f"{where} has the route mapping {key!r}, expected a pair such as \"('query', 'text')\""
            raise InvalidModel(msg) from exc
    return found
