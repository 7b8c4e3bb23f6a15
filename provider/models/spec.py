"""What a model's folder says about itself, read without loading weights and without running code from it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from attrs import frozen

from provider.domain import ModelSpec
from provider.errors import InvalidModel, SettingsError
from provider.models.arguments import read_transformer
from provider.models.folder import positive, read_config
from provider.models.kinds import (
    ABOUT_FILE,
    check_adapter,
    check_config,
    check_saved_as,
    first_architecture,
    own_code,
)
from provider.models.own_code import is_jina, read_as_known
from provider.models.pipeline import Pipeline, plain_pipeline, read_modules, read_pipeline
from provider.models.tokenizer_files import read_tokenizer
from provider.models.weights import (
    POSITION_TABLE,
    TOKEN_TABLE,
    check_safetensors,
    fingerprint,
    has_weights,
    table_rows,
    weight_files,
)

# Without an explicit limit no input is longer, whatever the model could take: memory grows with the length.
DEFAULT_MAX_TOKENS = 512

_HIDDEN_SIZE_KEYS = ("hidden_size", "d_model", "dim", "n_embd", "emb_dim")
_POSITION_KEYS = ("max_position_embeddings", "n_positions")
# Repositories of these often name code of their own, with which transformers' class was compared.
_COMPARED = frozenset({"nomic_bert", "gte", "eurobert"})
# Positions are relative: `n_positions` in these configurations is the length they were trained with.
_RELATIVE = frozenset({"t5", "mt5", "umt5", "longt5", "switch_transformers", "xlnet"})
# Beyond some length it is drawn at random which blocks see each other; below, all do (`BigBirdModel.forward`).
_DRAWN = frozenset({"big_bird", "bigbird_pegasus"})
# Their first token has position pad_token_id + 1, so that the first rows of the table are never used
# (`create_position_ids_from_input_ids` in transformers' modeling files).
_POSITIONS_BEHIND_PAD = frozenset(
    {"roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"}
    | {"data2vec-text", "ibert", "luke", "xmod"}
)


@frozen
class _Documents:
    """The JSON files that say what a model is.

    Attributes:
        folder: the transformer's: the model's own, or one in it.
        config: `config.json`.
        text: the part of it that is about the encoder of text, where there are several.
        about: `config_sentence_transformers.json`; empty without `modules.json`, as sentence-transformers has it.
        transformer: settings of the Transformer module.
        transformer_file: where they stand; None where there are none.
        pipeline: what follows the transformer.
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
    pipeline: Pipeline
    is_pipeline: bool
    known: dict[str, Any] | None
    files: tuple[Path, ...]

    @classmethod
    def read(cls, root: Path, *, needs_class: bool) -> Self:
        """Read and check them; see `check_supported`."""
        about = check_saved_as(root)
        modules = read_modules(root)
        about = about if modules else {}
        folder = modules[0].folder if modules else root
        check_adapter(folder)
        config = read_config(folder)
        check_config(folder, config, first_module=modules[0].type if modules else "", needs_class=needs_class)
        text: dict[str, Any] = next(
            (config[key] for key in ("text_config", "encoder") if isinstance(config.get(key), dict)), {}
        )
        hidden_size = _hidden_size(folder, config, text)
        transformer, where = read_transformer(folder, config) if modules else ({}, None)
        pipeline = read_pipeline(root, modules, hidden_size) if modules else plain_pipeline(config, hidden_size)
        files = (folder / "config.json", *pipeline.files, *([root / ABOUT_FILE] if about else []))
        try:
            known = read_as_known(folder, config)
        except InvalidModel:
            if needs_class:
                raise
            known = None
        return cls(folder, config, text, about, transformer, where, hidden_size, pipeline, bool(modules), known, files)


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
    _Documents.read(folder, needs_class=needs_class)


def read_spec(
    folder: Path,
    *,
    name: str,
    max_context_length: int | None,
    default_prompt: str | None,
    prompts: Mapping[str, str] = MappingProxyType({}),
    normalize: bool | None = None,
    needs_class: bool = True,
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

    Returns:
        The spec, and sentences that an operator should read.

    Raises:
        InvalidModel: files are missing, damaged or of an unsupported kind.
        SettingsError: the model has no prompt called `default_prompt`.
    """
    model = _Documents.read(folder, needs_class=needs_class)
    config, text, about, pipeline = model.config, model.text, model.about, model.pipeline
    weights = weight_files(model.folder) if needs_class or has_weights(model.folder) else ()
    for path in weights:
        check_safetensors(path)
    notices = list(_about_code(config, model.known))
    if not model.is_pipeline:
        notices.append(
            f"the model has no modules.json: {pipeline.pooling[0]} pooling is used, as sentence-transformers does; "
            "if the model was trained otherwise, add a modules.json and a pooling configuration"
        )
        if (folder / ABOUT_FILE).is_file():
            notices.append(
                f"{ABOUT_FILE} is not read without a modules.json, as in sentence-transformers; prompts can be set as "
                "model.prompts"
            )
    tokenizer = read_tokenizer(
        model.folder, config, model.transformer, where=model.transformer_file, is_pipeline=model.is_pipeline
    )
    notices += tokenizer.notices
    model_type = str(config.get("model_type") or "")
    positions = _first(_POSITION_KEYS, text, config)
    if positions is None:
        # transformers takes its class's default then, which the weights fit or do not.
        positions = table_rows(weights, POSITION_TABLE)
    max_positions = _max_positions(model_type, config, positions)
    known_prompts, chosen = _prompts(folder, about, prompts, default_prompt)
    own_length = _keeps_length(about, pipeline)
    if own_length and normalize is None:
        notices.append(
            f"vectors keep the length that the model gives them, which its similarity function "
            f"({about['similarity_fn_name']!r} in {ABOUT_FILE}) depends on; model.normalize: true scales them to 1"
        )
    if about.get("truncate_dim"):
        notices.append(
            f"the model asks to be cut to {about['truncate_dim']} dimensions (truncate_dim, {ABOUT_FILE}); "
            'its full width is answered unless a request says "dimensions"'
        )
    said = _first(("vocab_size",), text, config)
    where = f"vocab_size in {model.folder / 'config.json'}"
    rows = table_rows(weights, TOKEN_TABLE) if said is None else positive(said, where)
    spec = ModelSpec(
        name=name,
        folder=model.folder,
        architecture=first_architecture(config) or model_type or "unknown",
        hidden_size=model.hidden_size,
        dimension=pipeline.dimension,
        max_tokens=_max_tokens(max_context_length, tokenizer.limit, max_positions, notices),
        max_positions=max_positions,
        pooling=pipeline.pooling,
        fingerprint=fingerprint(folder, (*model.files, *tokenizer.files, *weights, *pipeline.weights())),
        pools_prompt=pipeline.pools_prompt,
        head=pipeline.head,
        prompts=known_prompts,
        default_prompt=chosen,
        normalize=not own_length if normalize is None else normalize,
        vocabulary_size=rows,
        pad_id=_pad_id(model_type, config, text, tokenizer.pad_id, rows),
        tokenizer=tokenizer.spec,
        config=model.known,
    )
    return spec, tuple(notices)


def _about_code(config: dict[str, Any], known: dict[str, Any] | None) -> Iterator[str]:
    """What an operator should know of a model that brings code of its own."""
    if known is None and (code := own_code(config)) and config.get("model_type") not in _COMPARED:
        yield (
            f"config.json names code of the model's own ({code}); it is not run, transformers' class for "
            f"{config.get('model_type')} computes the model, as in sentence-transformers without trust_remote_code"
        )
    if is_jina(config) and config.get("lora_adaptations"):
        yield (
            f"the model's task adapters ({', '.join(map(str, config['lora_adaptations']))}) are not applied: vectors "
            "are those of the model without a task"
        )


def _first(keys: tuple[str, ...], *sources: dict[str, Any]) -> Any:  # noqa: ANN401 - what the file holds
    return next((source[key] for source in sources for key in keys if source.get(key) is not None), None)


def _hidden_size(folder: Path, config: dict[str, Any], text: dict[str, Any]) -> int:
    found = _first(_HIDDEN_SIZE_KEYS, text, config)
    if found is None:
        msg = f"{folder / 'config.json'} names no hidden size ({', '.join(_HIDDEN_SIZE_KEYS)}); it is no text encoder's"
        raise InvalidModel(msg)
    return positive(found, f"the hidden size in {folder / 'config.json'}")


def _max_positions(model_type: str, config: dict[str, Any], found: object) -> int | None:
    """Most tokens of a row, of the positions that `config.json` or the weights say there are."""
    if model_type in _RELATIVE or isinstance(found, bool) or not isinstance(found, int) or found < 1:
        return None
    if model_type in _DRAWN and config.get("attention_type", "block_sparse") == "block_sparse":
        return min(found, int((5 + 2 * config.get("num_random_blocks", 3)) * config.get("block_size", 64)))
    if model_type not in _POSITIONS_BEHIND_PAD:
        return found
    pad = config.get("pad_token_id")
    return found - (pad if isinstance(pad, int) and model_type != "mpnet" else 1) - 1


def _max_tokens(asked: int | None, own: int | None, positions: int | None, notices: list[str]) -> int:
    if asked is None:
        return min(limit for limit in (DEFAULT_MAX_TOKENS, own, positions) if limit is not None)
    if positions is not None and asked > positions:
        notices.append(f"max_context_length is {asked}, but the model has positions for {positions}: {positions} it is")
        return positions
    return asked


def _keeps_length(about: dict[str, Any], pipeline: Pipeline) -> bool:
    """Whether the model is made for a similarity that depends on the length of vectors, and leaves them as they are."""
    return not pipeline.normalizes and str(about.get("similarity_fn_name") or "cosine") != "cosine"


def _prompts(
    folder: Path, about: dict[str, Any], given: Mapping[str, str], wanted: str | None
) -> tuple[dict[str, str], str]:
    """The model's prompts, and the text of the one for requests that choose none."""
    found = about.get("prompts") or {}
    if not isinstance(found, dict) or not all(isinstance(text, str | None) for text in found.values()):
        msg = f"prompts in {folder / ABOUT_FILE} are {found!r}, expected names with texts; restore the file"
        raise InvalidModel(msg)
    prompts = {str(name): text or "" for name, text in found.items()} | dict(given)
    if wanted is not None:
        if wanted not in prompts:
            msg = (
                f"model.default_prompt is {wanted!r}, but this model's prompts are: "
                f"{', '.join(sorted(prompts)) or 'none'}; name one of them, add it to model.prompts, or leave the "
                "setting out"
            )
            raise SettingsError(msg)
        return prompts, prompts[wanted]
    name = about.get("default_prompt_name")
    # sentence-transformers gives every model an empty `query` and `document`.
    known = {"query": "", "document": "", **prompts}
    if name is not None and name not in known:
        msg = (
            f"default_prompt_name in {folder / ABOUT_FILE} is {name!r}, but its prompts are "
            f"{', '.join(sorted(prompts)) or 'none'}; mend the file"
        )
        raise InvalidModel(msg)
    return prompts, known[name] if name is not None else ""


def _pad_id(
    model_type: str, config: dict[str, Any], text: dict[str, Any], tokenizers_own: int | None, rows: int | None
) -> int:
    """The model's own padding token, else the tokenizer's, else 0: padding is masked, any id with a row does."""
    found = _first(("pad_token_id",), config, text)
    if not isinstance(found, int) or found < 0:
        found = 1 if model_type in _POSITIONS_BEHIND_PAD else tokenizers_own or 0
    return found if rows is None or found < rows else 0
