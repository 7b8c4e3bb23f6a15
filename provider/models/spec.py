"""What a model's folder says about itself, read without loading weights and without running code from it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import evolve

from provider.domain import DenseTask, ModelSpec, MultiVectorTask, ScoreTask, TaskSpec, TokenizerSpec
from provider.errors import InvalidModel
from provider.models.bge_m3 import bge_m3_tasks
from provider.models.configs import ModelConfigs, ways_of
from provider.models.cross_encoder import with_default_tokens
from provider.models.folder import positive
from provider.models.kinds import ABOUT_FILE, first_architecture, is_masked_lm, own_code
from provider.models.multi_vector import Late, with_markers
from provider.models.own_code import is_flash, is_jina
from provider.models.pipeline import SPARSE_STATIC, Module, Pipeline
from provider.models.prompts import read_prompts
from provider.models.router import join_ways
from provider.models.sizes import POSITION_KEYS, choose_max_tokens, choose_pad_id, count_positions, first
from provider.models.sparse import Splade, join_sparse_ways, read_queries_side
from provider.models.static import is_static, read_static_spec
from provider.models.tokenizer_files import TokenizerFiles, read_tokenizer, special_tokens, unknown_id, vocabulary_of
from provider.models.weights import (
    POSITION_TABLE,
    TOKEN_TABLE,
    check_safetensors,
    fingerprint,
    has_weights,
    table_rows,
    weight_files,
)

# Repositories of these often name code of their own, with which transformers' class was compared.
_COMPARED = frozenset({"nomic_bert", "gte", "eurobert"})


def read_spec(
    folder: Path,
    *,
    name: str,
    max_context_length: int | None,
    default_prompt: str | None,
    prompts: Mapping[str, str] = MappingProxyType({}),
    normalize: bool | None = None,
    needs_class: bool = True,
    output: str | None = None,
) -> tuple[ModelSpec, tuple[str, ...]]:
    """All that can be known of the model in `folder` without loading it. Reads every byte of it once.

    Args:
        folder: with `config.json`, tokenizer and `model.safetensors`, and for sentence-transformers `modules.json`,
            which may name another folder in it for the first three.
        name: the configured name.
        max_context_length: most tokens of one input; None for the model's own limit, but at most 512.
        default_prompt: name of the prompt for requests that choose none; None for the model's own.
        prompts: name to text, beside those of the files and before them.
        normalize: whether vectors have unit length when a request does not say; None for what the files say.
        needs_class: as in `check_supported`. Without a need for them, weights may be missing.
        output: what the model should give where its files leave it open: `sparse` of a masked language model without
            `modules.json`.

    Returns:
        The spec, and sentences that an operator should read.

    Raises:
        InvalidModel: files are missing, damaged or of an unsupported kind.
        SettingsError: the model has no prompt called `default_prompt`.
    """
    about, ways = ways_of(folder)
    marked = with_markers(folder, ways.documents, about)
    known_prompts, chosen = read_prompts(folder, marked, prompts, default_prompt)
    notices: list[str] = []
    specs: list[ModelSpec] = []
    for way in ways.all:
        read, more = (
            (read_queries_side(folder, way, specs[0], about), list[str]())
            if specs and way[0].kind == SPARSE_STATIC
            else read_static_spec(folder, way, about, name, max_context_length)
            if is_static(way)
            else _read_transformer(folder, way, about, name, max_context_length, needs_class=needs_class, output=output)
        )
        similarity = str(about["similarity_fn_name"]).lower() if about.get("similarity_fn_name") else None
        specs.append(evolve(read, root=folder, prompts=known_prompts, default_prompt=chosen, similarity=similarity))
        notices += more
    if about.get("truncate_dim"):
        notices.append(
            f"the model asks to be cut to {about['truncate_dim']} dimensions (truncate_dim, {ABOUT_FILE}); "
            'its full width is answered unless a request says "dimensions"'
        )
    if specs[0].find(ScoreTask) is not None:
        return specs[0], tuple(dict.fromkeys(notices))
    # What a way's pipeline says is kept until it is known of all.
    is_dense = all(spec.find(DenseTask) is not None for spec in specs)
    own_length = is_dense and _keeps_length(about, normalizes=all(spec.dense.normalize for spec in specs))
    if own_length and normalize is None:
        notices.append(
            f"vectors keep the length that the model gives them, which its similarity function "
            f"({about['similarity_fn_name']!r} in {ABOUT_FILE}) depends on; model.normalize: true scales them to 1"
        )
    if not is_dense:
        late = specs[0].find(MultiVectorTask)
        if late is not None and normalize is not None:
            specs[0] = evolve(specs[0], tasks=(evolve(late, normalize=normalize),))
        return join_sparse_ways(folder, specs, ways), tuple(dict.fromkeys(notices))
    spec = join_ways(folder, specs, ways, normalize=not own_length if normalize is None else normalize)
    return spec, tuple(dict.fromkeys(notices))


def _read_transformer(
    folder: Path,
    way: tuple[Module, ...],
    about: dict[str, Any],
    name: str,
    max_context_length: int | None,
    *,
    needs_class: bool,
    output: str | None,
) -> tuple[ModelSpec, list[str]]:
    """The spec of one way through a transformer; whether it normalises is what its pipeline says."""
    model = ModelConfigs.read(folder, way, about, needs_class=needs_class, output=output)
    config, text = model.config, model.text
    weights = weight_files(model.folder) if needs_class or has_weights(model.folder) else ()
    for path in weights:
        check_safetensors(path)
    notices = list(_about_code(config, model.known))
    if isinstance(model.pipeline, Pipeline) and not model.is_pipeline:
        notices.append(
            f"the model has no modules.json: {model.pipeline.pooling[0]} pooling is used, as sentence-transformers "
            "does; if the model was trained otherwise, add a modules.json and a pooling configuration"
        )
        if is_masked_lm(config):
            notices.append(
                "the model is a masked language model, of which dense vectors are given; if it was trained as a sparse "
                "encoder (SPLADE), set model.task: sparse"
            )
    if not model.is_pipeline and (folder / ABOUT_FILE).is_file():
        notices.append(
            f"{ABOUT_FILE} is not read without a modules.json, as in sentence-transformers; prompts can be set as "
            "model.prompts"
        )
    task, head, more = _task(model)
    notices += more
    tokenizer = read_tokenizer(
        model.folder,
        config,
        model.transformer,
        where=model.transformer_file,
        is_pipeline=model.is_pipeline,
        pairs=isinstance(task, ScoreTask),
        renders=isinstance(task, ScoreTask) and task.messages is not None,
        is_late=isinstance(model.pipeline, Late),
    )
    notices += tokenizer.notices
    model_type = str(config.get("model_type") or "")
    positions = first(POSITION_KEYS, text, config)
    if positions is None:
        # transformers takes its class's default then, which the weights fit or do not.
        positions = table_rows(weights, POSITION_TABLE)
    max_positions = count_positions(model_type, config, positions)
    said = first(("vocab_size",), text, config)
    where = f"vocab_size in {model.folder / 'config.json'}"
    rows = table_rows(weights, TOKEN_TABLE) if said is None else positive(said, where)
    own_tokenizer, tasks, beside = _tasks(model, task, tokenizer, rows, notices)
    limit = tokenizer.limit
    if isinstance(model.pipeline, Late) and limit is not None:
        # It holds for documents whatever the tokenizer says.
        limit = max(limit, model.pipeline.document_length or 0)
    spec = ModelSpec(
        name=name,
        folder=model.folder,
        architecture=first_architecture(config) or model_type or "unknown",
        hidden_size=model.hidden_size,
        max_tokens=choose_max_tokens(max_context_length, limit, max_positions, notices),
        max_positions=max_positions,
        tasks=tasks,
        fingerprint=fingerprint(folder, (*model.files, *tokenizer.files, *weights, *head, *beside)),
        vocabulary_size=rows,
        pad_id=choose_pad_id(model_type, config, text, tokenizer.pad_id, rows),
        tokenizer=own_tokenizer,
        config=model.known,
        encoder="layered" if _is_layered(task) else "transformer",
    )
    filled = own_tokenizer.queries.fill_to if own_tokenizer.queries is not None else 0
    if filled > spec.max_tokens:
        msg = (
            f"queries of the model in {folder} always have {filled} tokens, but at most {spec.max_tokens} are allowed; "
            "set model.max_context_length to that at least"
        )
        raise InvalidModel(msg)
    return spec, notices


def _is_layered(task: TaskSpec | None) -> bool:
    """See `ModelSpec.encoder`."""
    return bool(task.token_head) if isinstance(task, DenseTask) else isinstance(task, ScoreTask) and bool(task.layers)


def _task(model: ModelConfigs) -> tuple[TaskSpec | None, tuple[Path, ...], tuple[str, ...]]:
    """What the model does, the files with the weights of its head, and sentences that an operator should read.

    The task is None where the vocabulary decides a part of it.
    """
    if model.cross_encoder is not None:
        layers = model.cross_encoder.pipeline
        weights = () if layers is None else layers.weights()
        return with_default_tokens(model.cross_encoder.task, model.folder), weights, model.cross_encoder.notices
    pipeline = model.pipeline
    if pipeline is None:
        msg = f"{model.folder} was read as nothing"
        raise AssertionError(msg)
    if not isinstance(pipeline, Pipeline):
        return None, pipeline.weights(), ()
    return pipeline.task(), pipeline.weights(), ()


def _tasks(
    model: ModelConfigs, task: TaskSpec | None, tokenizer: TokenizerFiles, rows: int | None, notices: list[str]
) -> tuple[TokenizerSpec, tuple[TaskSpec, ...], tuple[Path, ...]]:
    """The tokenizer with what queries need, all tasks, and the files of weights that they read besides."""
    pipeline, place = model.pipeline, model.folder
    if task is not None:
        heads = any((place / f"colbert_linear{end}").is_file() for end in (".pt", ".safetensors"))
        if not heads or not isinstance(task, DenseTask):
            return tokenizer.spec, (task,), ()
        more, files, notice = bge_m3_tasks(place, model.hidden_size, vocabulary_of(place), special_tokens(place))
        notices += [] if notice is None else [notice]
        return tokenizer.spec, (task, *more), files
    vocabulary = vocabulary_of(place)
    if not vocabulary:
        msg = f"{place} has no tokenizer.json, which sparse and late-interaction models need; save the tokenizer again"
        raise InvalidModel(msg)
    if isinstance(pipeline, Late):
        spec = evolve(
            tokenizer.spec,
            markers=pipeline.markers,
            queries=pipeline.queries(special_tokens(place)),
            document_tokens=pipeline.document_length,
        )
        return spec, (pipeline.task(vocabulary, unknown_id(place, vocabulary)),), ()
    return tokenizer.spec, (pipeline.task(vocabulary, rows),) if isinstance(pipeline, Splade) else (), ()


def _about_code(config: dict[str, Any], known: dict[str, Any] | None) -> Iterator[str]:
    """What an operator should know of a model that brings code of its own."""
    if (
        known is None
        and not is_flash(config)
        and (code := own_code(config))
        and config.get("model_type") not in _COMPARED
    ):
        yield (
            f"config.json names code of the model's own ({code}); it is not run, transformers' class for "
            f"{config.get('model_type')} computes the model, as in sentence-transformers without trust_remote_code"
        )
    if is_jina(config) and config.get("lora_adaptations"):
        yield (
            f"the model's task adapters ({', '.join(map(str, config['lora_adaptations']))}) are not applied: vectors "
            "are those of the model without a task"
        )


def _keeps_length(about: dict[str, Any], *, normalizes: bool) -> bool:
    """Whether the model is made for a similarity that depends on the length of vectors, and leaves them as they are."""
    return not normalizes and str(about.get("similarity_fn_name") or "cosine") != "cosine"
