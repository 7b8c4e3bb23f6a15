"""The JSON files that say what a model is: read and checked without weights and tokenizer."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from attrs import frozen

from provider.domain import SPARSE
from provider.errors import InvalidModel
from provider.models.arguments import read_transformer
from provider.models.cross_encoder import (
    CROSS_ENCODER,
    CrossEncoderFiles,
    check_transformer,
    read_cross_encoder,
    scores_pairs,
)
from provider.models.folder import read_config
from provider.models.kinds import (
    ABOUT_FILE,
    check_adapter,
    check_config,
    check_saved_as,
    check_scores_come,
    check_task,
    is_masked_lm,
)
from provider.models.multi_vector import Late, is_late, read_late
from provider.models.own_code import read_as_known
from provider.models.pipeline import SPARSE_STATIC, Module, Pipeline, plain_pipeline, read_modules, read_pipeline
from provider.models.router import Ways, read_ways
from provider.models.sizes import read_hidden_size
from provider.models.sparse import Splade, is_sparse, read_splade
from provider.models.static import bare_model2vec, is_static


@frozen
class ModelConfigs:
    """The JSON files that say what a model is.

    Attributes:
        folder: the transformer's: the model's own, or one in it.
        config: `config.json`.
        text: the part of it that is about the encoder of text, where there are several.
        about: `config_sentence_transformers.json`; empty without `modules.json`, as sentence-transformers has it.
        transformer: settings of the Transformer module.
        transformer_file: where they stand; None where there are none.
        pipeline: what follows the transformer; None for a cross-encoder.
        cross_encoder: what the files say of one; None for an embedder.
        is_pipeline: whether there is a `modules.json`.
        known: what `config.json` would say for another class that computes the model; None for the class it names.
        files: those that decide a vector.
    """

    folder: Path
    config: dict[str, Any]
    text: dict[str, Any]
    about: dict[str, Any]
    transformer: dict[str, Any]
    transformer_file: Path | None
    hidden_size: int
    pipeline: Pipeline | Splade | Late | None
    cross_encoder: CrossEncoderFiles | None
    is_pipeline: bool
    known: dict[str, Any] | None
    files: tuple[Path, ...]

    @classmethod
    def read(
        cls,
        root: Path,
        modules: tuple[Module, ...],
        about: dict[str, Any],
        *,
        needs_class: bool,
        output: str | None = None,
    ) -> Self:
        """Read and check those of the way through `modules`; see `check_supported` and `read_spec`."""
        folder = modules[0].folder if modules else root
        check_adapter(folder)
        config = read_config(folder)
        gives_scores = about.get("model_type") == CROSS_ENCODER if modules else scores_pairs(folder, config)
        if not gives_scores:
            check_scores_come(root, check_saved_as(root))
        first = modules[0].type if modules else ""
        check_config(folder, config, first_module=first, needs_class=needs_class, gives_scores=gives_scores)
        text: dict[str, Any] = next(
            (config[key] for key in ("text_config", "encoder") if isinstance(config.get(key), dict)), {}
        )
        hidden_size = read_hidden_size(folder, config, text)
        check = check_transformer if gives_scores else check_task
        is_bare_splade = not modules and output == SPARSE and is_masked_lm(config)
        sparse, late = is_sparse(modules) or is_bare_splade, is_late(modules, about, config)
        if sparse or late:
            check = partial(check_task, wanted="fill-mask" if sparse else "feature-extraction", is_late=late)
        transformer, where = read_transformer(folder, config, check) if modules else ({}, None)
        pipeline: Pipeline | Splade | Late | None = None
        cross_encoder = None
        more: tuple[Path, ...]
        if gives_scores:
            cross_encoder = read_cross_encoder(
                root,
                folder,
                config,
                modules=modules,
                about=about,
                transformer=transformer,
                hidden_size=hidden_size,
            )
            more = (*([root / "modules.json"] if modules else []), *cross_encoder.files)
        else:
            if is_bare_splade:
                pipeline = Splade()
            elif sparse:
                pipeline = read_splade(root, modules, about)
            elif late:
                pipeline = read_late(root, modules, about, transformer, hidden_size)
            else:
                pipeline = read_pipeline(root, modules, hidden_size) if modules else plain_pipeline(config, hidden_size)
            more = pipeline.files
        files = (folder / "config.json", *more, *([root / ABOUT_FILE] if about else []))
        try:
            known = read_as_known(folder, config)
        except InvalidModel:
            if needs_class:
                raise
            known = None
        return cls(
            folder, config, text, about, transformer, where, hidden_size, pipeline, cross_encoder, bool(modules), known,
            files,
        )  # fmt: skip


def check_supported(folder: Path, *, needs_class: bool = True) -> None:
    """See that the model in `folder` can be served, by its small JSON files alone.

    Read are `config.json`, `modules.json`, `config_sentence_transformers.json` and the configurations of modules.
    Neither weights nor tokenizer are needed, so that a repository can be judged before they are downloaded. `read_spec`
    checks the same.

    Args:
        folder: the model's.
        needs_class: whether the backend computes the model by a class of transformers, from its weights. One that
            reads a graph of its own does not.

    Raises:
        InvalidModel: it cannot be served; the message says why, and what can.
    """
    about, ways = ways_of(folder)
    for way in ways.all:
        if is_static(way) or (way and way[0].kind == SPARSE_STATIC):
            check_adapter(way[0].folder)
        else:
            ModelConfigs.read(folder, way, about, needs_class=needs_class)


def ways_of(folder: Path) -> tuple[dict[str, Any], Ways]:
    """What `config_sentence_transformers.json` says, and the modules of queries and documents, which may be none."""
    about = check_saved_as(folder)
    modules = read_modules(folder)
    ways = read_ways(folder, modules or bare_model2vec(folder))
    _check_kind(folder, about, ways.all)
    return about if modules else {}, ways


def _check_kind(folder: Path, about: Mapping[str, Any], ways: Sequence[Sequence[Module]]) -> None:
    """See that a model that was saved as a sparse or late-interaction one has the modules of such.

    Raises:
        InvalidModel: it has others.
    """
    kind = about.get("model_type")
    shown = f"model_type {kind!r} in {ABOUT_FILE}"
    if kind in ("MultiVectorEncoder", "ColBERT") and not (len(ways) == 1 and ways[0]):
        msg = f"{folder} is a late-interaction model (ColBERT) by {shown}, but has no modules.json, or a Router; "
        raise InvalidModel(msg + "load it with MultiVectorEncoder and save it again with save_pretrained")
    if kind == "SparseEncoder" and not any(map(is_sparse, ways)):
        msg = f"{folder} is a sparse encoder by {shown}, but no module is SpladePooling; supported are SPLADE models "
        raise InvalidModel(msg + "and those of them whose queries are weights of tokens (SparseStaticEmbedding)")
