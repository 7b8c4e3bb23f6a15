"""Sparse encoders: SPLADE, and document encoders whose queries are weights of their tokens.

Formats: `sentence_transformers/sparse_encoder/`, release 6.2.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from provider.domain import ModelSpec, SparseTask
from provider.errors import InvalidModel
from provider.models.folder import positive, read_object
from provider.models.kinds import ABOUT_FILE
from provider.models.pipeline import SPARSE_STATIC, Module, unsupported_modules
from provider.models.router import Ways
from provider.models.tokenizer_files import read_tokenizer
from provider.models.weights import check_safetensors, fingerprint, tensor_shapes


@frozen
class Splade:
    """SPLADE pooling behind a masked language model; see `Pipeline` for the attributes of the same names.

    By default what SparseEncoder makes of a masked language model without `modules.json`.
    """

    pooling: str = "max"
    activation: str = "relu"
    most_entries: int | None = None
    files: tuple[Path, ...] = ()
    normalizes: bool = False

    def weights(self) -> tuple[Path, ...]:
        """See `Pipeline.weights`."""
        return ()

    def task(self, vocabulary: Mapping[str, int], rows: int | None) -> SparseTask:
        """What the model does, with a table of `rows` embeddings."""
        width = rows or 1 + max(vocabulary.values(), default=-1)
        return SparseTask(width, pooling=self.pooling, activation=self.activation, most_entries=self.most_entries)  # type: ignore[arg-type]


def is_sparse(way: Sequence[Module]) -> bool:
    """Whether these modules end with SPLADE pooling."""
    return any(module.kind == "SpladePooling" for module in way)


def read_splade(folder: Path, way: Sequence[Module], about: Mapping[str, Any]) -> Splade:
    """Read what follows a masked language model.

    Raises:
        InvalidModel: it is something else than SPLADE pooling.
    """
    if len(way) != 2 or way[1].kind != "SpladePooling":
        raise unsupported_modules(folder, way, "a Transformer for masked language models and SpladePooling")
    where = way[1].folder / "config.json"
    config = read_object(where)
    pooling, activation = config.get("pooling_strategy", "max"), config.get("activation_function", "relu")
    if pooling not in ("max", "sum") or activation not in ("relu", "log1p_relu"):
        msg = f"{where} asks for {pooling!r} of {activation!r}, supported are max or sum of relu or log1p_relu"
        raise InvalidModel(msg)
    most = about.get("max_active_dims")
    entries = None if most is None else positive(most, f"max_active_dims in {folder / ABOUT_FILE}")
    return Splade(pooling, activation, entries, (folder / "modules.json", where))


def read_queries_side(folder: Path, way: Sequence[Module], documents: ModelSpec, about: Mapping[str, Any]) -> ModelSpec:
    """The spec of queries that are weights of their tokens (`SparseStaticEmbedding`), beside that of documents.

    Raises:
        InvalidModel: its files are missing or of another kind.
    """
    place = way[0].folder
    if len(way) != 1:
        raise unsupported_modules(folder, way, f"{SPARSE_STATIC} alone for queries")
    config, weights = place / "config.json", place / "model.safetensors"
    if read_object(config).get("path"):
        msg = (
            f"{config} has the weights of queries in another file (path); load the model with SparseEncoder and save "
            "it again with save_pretrained"
        )
        raise InvalidModel(msg)
    if not weights.is_file():
        msg = f"{place} lacks model.safetensors, which the queries need; download the model again"
        raise InvalidModel(msg)
    check_safetensors(weights)
    tokenizer = read_tokenizer(place, read_object(config), {}, where=None, is_pipeline=True)
    task = documents.find(SparseTask)
    if task is None:
        raise unsupported_modules(folder, way, "documents with SpladePooling")
    (rows,) = tensor_shapes(weights).get("weight", [0])
    width = max(rows, task.width)
    most = about.get("max_active_dims")
    return ModelSpec(
        name=documents.name,
        folder=place,
        architecture=SPARSE_STATIC,
        hidden_size=width,
        max_tokens=min(documents.max_tokens, tokenizer.limit or documents.max_tokens),
        max_positions=None,
        tasks=(SparseTask(width, "tokens", query_weights=weights, most_entries=most),),
        fingerprint=fingerprint(folder, (config, *tokenizer.files, weights)),
        vocabulary_size=rows,
        tokenizer=evolve(tokenizer.spec, adds_special_tokens=False),
        encoder="static",
    )


def join_sparse_ways(folder: Path, specs: Sequence[ModelSpec], ways: Ways) -> ModelSpec:
    """One spec out of those of documents and queries of a model without dense vectors.

    Raises:
        InvalidModel: the ways do not belong together.
    """
    documents, *others = specs
    if not others:
        return documents
    if others[0].architecture != SPARSE_STATIC or documents.outputs != others[0].outputs:
        raise unsupported_modules(folder, ways.queries, f"{SPARSE_STATIC} for queries, SpladePooling for documents")
    own = fingerprint(folder, (folder / "modules.json", *ways.files))
    digest = hashlib.sha256(f"{documents.fingerprint} {others[0].fingerprint} {own}".encode()).hexdigest()[:16]
    task = documents.find(SparseTask)
    if task is None:
        raise unsupported_modules(folder, ways.documents, "SpladePooling for documents")
    task = evolve(task, width=others[0].hidden_size)
    role: Literal["query", "document"] | None = None
    if ways.default in ways.all:
        role = "query" if ways.default == ways.queries else "document"
    queries = evolve(others[0], fingerprint=digest)
    return evolve(documents, tasks=(task,), fingerprint=digest, queries=queries, default_role=role)
