"""What a folder says about its tokenizer: the files that decide token ids, and sentence-transformers' own arguments.

Formats: `sentence_transformers/base/modules/transformer.py` (`__init__`, `preprocess`), release 6.2, and transformers'
`tokenization_utils_base.py` (`_from_pretrained`), release 5.23.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from provider.domain import TokenizerSpec
from provider.errors import InvalidModel
from provider.models.folder import positive, read_document, read_object, tokenizer_files
from provider.models.kinds import is_known_processor
from provider.models.tokenizer_classes import gives_types
from provider.models.tokenizer_json import count_ids, stands_alone, token_text

# By these transformers recognises a processor of several modalities.
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_CHAT_TEMPLATES = ("chat_template.jinja", "additional_chat_templates")

# Arguments of tokenizer classes that are handed to them, beside every special token's name.
_APPLIED = frozenset(
    {"do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "split_special_tokens"}
    | {"add_bos_token", "add_eos_token", "keep_accents", "remove_space", "do_remove_space", "extra_ids", "legacy"}
    | {"additional_special_tokens", "extra_special_tokens", "src_lang", "tgt_lang", "language_codes", "lowercase"}
)
# Those that decide no ids: where files come from (the folder is given), padding (always masked) and decoding. The
# limit is read by `_limit`.
_WITHOUT_EFFECT = frozenset(
    {"cache_dir", "force_download", "local_files_only", "proxies", "revision", "token", "use_auth_token"}
    | {"trust_remote_code", "use_fast", "subfolder", "model_max_length", "padding_side", "pad_to_multiple_of"}
    | {"truncation_side", "model_input_names", "clean_up_tokenization_spaces", "name_or_path", "verbose", "errors"}
)
# How the tokenizer is called: the values that are the same as sentence-transformers' own, or change no ids. The limit
# is read by `_limit`.
_CALLED_WITH: Mapping[str, tuple[object, ...]] = {
    "padding": (True, "longest"),
    "truncation": (True, "longest_first", "only_first"),
    "add_special_tokens": (True,),
    "return_tensors": ("pt",),
    "stride": (0,),
    "is_split_into_words": (False,),
    "split_special_tokens": (None,),
    "return_attention_mask": (True, None),
    "return_overflowing_tokens": (False,),
    "verbose": (True, False),
}


@frozen
class TokenizerFiles:
    """A folder's tokenizer.

    Attributes:
        spec: how its ids are made.
        files: those that decide them.
        limit: most tokens that sentence-transformers gives to the model; None for no limit.
        pad_id: the padding token's id; None where there is none.
        notices: sentences that an operator should read.
    """

    spec: TokenizerSpec
    files: tuple[Path, ...]
    limit: int | None
    pad_id: int | None
    notices: tuple[str, ...]


def read_tokenizer(
    folder: Path,
    config: dict[str, Any],
    transformer: dict[str, Any],
    *,
    where: Path | None,
    is_pipeline: bool,
    pairs: bool = False,
    renders: bool = False,
    is_late: bool = False,
) -> TokenizerFiles:
    """Read and check the tokenizer in `folder`, without loading it.

    Args:
        folder: the transformer's.
        config: its `config.json`.
        transformer: settings of sentence-transformers' Transformer module; empty where there are none.
        where: the file that they stand in.
        is_pipeline: whether there is a `modules.json`.
        pairs: whether pairs of texts are tokenised too.
        renders: whether texts are rendered with the chat template first, which only transformers' class does.
        is_late: whether the model gives one vector a token, and may have limits for queries and documents.

    Raises:
        InvalidModel: there is no tokenizer, its files are damaged, or an argument is not supported.
    """
    about = read_object(folder / "tokenizer_config.json")
    found = tokenizer_files(folder)
    _check_processor(folder, about, config)
    document = read_document(folder / "tokenizer.json")
    tokens = about
    legacy: dict[str, Any] = {}
    if "added_tokens_decoder" not in about:
        # Only then transformers reads the files of its earlier releases.
        tokens = {**about, **read_object(folder / "special_tokens_map.json")}
        legacy = read_object(folder / "added_tokens.json")
    if not renders:
        _check_rendering(folder, about, transformer, where, is_pipeline=is_pipeline)
    arguments = _arguments(transformer, where, is_late=is_late)
    called = _call(transformer, where)
    applied = {key: value for key, value in arguments.items() if key not in _WITHOUT_EFFECT}
    alone = (
        not renders
        and isinstance(document, dict)
        and not applied
        and stands_alone(document, tokens, legacy, config, pairs=pairs)
    )
    lowercase = bool(transformer.get("do_lower_case"))
    ids = count_ids(document) if alone else None
    types = gives_types(about, config) if alone else None
    side = arguments.get("truncation_side") or about.get("truncation_side") or _direction(document)
    cuts_start = str(side).lower() == "left"
    spec = TokenizerSpec(alone, lowercase, applied, ids, types, cuts_start=cuts_start)
    files = (folder / "tokenizer.json",) if alone else found
    if where is not None and (lowercase or applied):
        files = (*files, where)
    limit = _limit(transformer=transformer, arguments=arguments, called=called, about=about, config=config, where=where)
    return TokenizerFiles(spec, files, limit, _pad_id(tokens, document), (CUTS_THE_START,) if cuts_start else ())


CUTS_THE_START = (
    "the model's tokenizer cuts the start of texts that are too long (truncation_side is left); "
    'so does "truncate": true, where "start" keeps the prompt, and "end" cuts the end'
)
"""What to tell an operator of a tokenizer that cuts texts at their start."""


def _check_processor(folder: Path, about: dict[str, Any], config: dict[str, Any]) -> None:
    """See that no processor of several modalities stands before the tokenizer; unknown ones are ignored, as there."""
    files = {name: read_object(folder / name) for name in _PROCESSOR_FILES}
    files |= {"tokenizer_config.json": about, "config.json": config}
    for name, document in files.items():
        named = document.get("processor_class")
        if named and is_known_processor(str(named)):
            msg = (
                f"{folder / name} has processor_class = {named!r}: sentence-transformers reads "
                "texts by that processor, which is not supported; remove it, if the model is for texts only"
            )
            raise InvalidModel(msg)


def _check_rendering(
    folder: Path, about: dict[str, Any], transformer: dict[str, Any], where: Path | None, *, is_pipeline: bool
) -> None:
    """See that sentence-transformers gives texts to the tokenizer as they are, not rendered as a chat."""
    if is_pipeline:
        asked = [f"modality 'message' in {where}"] if "message" in (transformer.get("modality_config") or {}) else []
    else:
        asked = ["a chat_template in tokenizer_config.json"] if about.get("chat_template") is not None else []
        asked += [name for name in _CHAT_TEMPLATES if (folder / name).exists()]
    if asked:
        msg = (
            f"{folder} has {asked[0]}, so that sentence-transformers renders every text with the chat template, which "
            "is not supported; if the model was trained on plain texts, "
        )
        way = "remove that modality" if is_pipeline else "add a modules.json and a pooling configuration"
        raise InvalidModel(msg + way)


def _arguments(transformer: dict[str, Any], where: Path | None, *, is_late: bool) -> dict[str, Any]:
    """The keyword arguments for the tokenizer's class, each one known."""
    for key in ("tokenizer_name_or_path", *(() if is_late else ("query_length", "document_length"))):
        if transformer.get(key) is not None:
            msg = f"{where} has {key} = {transformer[key]!r}, which changes the tokens and is not supported; "
            raise InvalidModel(msg + "remove it, if the model was trained without")
    # As there, the older name wins where a file has both.
    key = "tokenizer_args" if "tokenizer_args" in transformer else "processor_kwargs"
    arguments = transformer.get(key) or {}
    if not isinstance(arguments, dict):
        msg = f"{where} has {key} = {arguments!r}, expected a JSON object; mend the file"
        raise InvalidModel(msg)
    for name, value in arguments.items():
        if name not in _APPLIED | _WITHOUT_EFFECT and not name.endswith("_token"):
            msg = (
                f"{where} has {name} = {value!r} in {key}, which is not supported; remove it, or load the model with "
                "sentence-transformers and save it again with save_pretrained"
            )
            raise InvalidModel(msg)
    return arguments


def _call(transformer: dict[str, Any], where: Path | None) -> dict[str, Any]:
    """The keyword arguments for a call of the tokenizer, each one known."""
    given = transformer.get("processing_kwargs") or {}
    parts = [given.get(key) or {} for key in ("text", "common")] if isinstance(given, dict) else [given]
    if not all(isinstance(part, dict) for part in parts):
        msg = f"{where} has processing_kwargs = {given!r}, expected JSON objects under 'text' and 'common'; mend it"
        raise InvalidModel(msg)
    called = {key: value for part in parts for key, value in part.items()}
    for name, value in called.items():
        allowed = _CALLED_WITH.get(name, ())
        # 1 equals True.
        if name == "max_length" or any(value == each and type(value) is type(each) for each in allowed):
            continue
        supported = f" (only {' or '.join(map(repr, allowed))} is)" if allowed else ""
        msg = (
            f"{where} has {name} = {value!r} in processing_kwargs, which is not supported{supported}; "
            "remove it, if the model was trained without"
        )
        raise InvalidModel(msg)
    return called


def _limit(
    *,
    transformer: dict[str, Any],
    arguments: dict[str, Any],
    called: dict[str, Any],
    about: dict[str, Any],
    config: dict[str, Any],
    where: Path | None,
) -> int | None:
    if called.get("max_length") is not None:
        return positive(called["max_length"], f"max_length in processing_kwargs in {where}")
    said = arguments.get("model_max_length", transformer.get("max_seq_length"))
    if said is not None:
        return positive(said, f"the model's max_seq_length in {where}")
    text = config.get("text_config")
    nested = text.get("max_position_embeddings") if isinstance(text, dict) else None
    limits = (about.get("model_max_length", about.get("max_len")), config.get("max_position_embeddings", nested))
    # Tokenizers without a limit write 10^30, xlnet writes -1.
    known = [int(each) for each in limits if isinstance(each, int | float) and 0 < each < 1e9]
    return min(known, default=None)


def _direction(document: object) -> object:
    truncation = document.get("truncation") if isinstance(document, dict) else None
    return truncation.get("direction") if isinstance(truncation, dict) else None


def _pad_id(tokens: dict[str, Any], document: object) -> int | None:
    token = tokens.get("pad_token")
    content = token.get("content") if isinstance(token, dict) else token
    added = document.get("added_tokens") if isinstance(document, dict) else None
    if not content or not isinstance(added, list):
        return None
    return next((int(each["id"]) for each in added if each.get("content") == content), None)


def vocabulary_of(folder: Path) -> dict[str, int]:
    """Token to id by `tokenizer.json`, added tokens included; empty where there is no such file."""
    document = read_document(folder / "tokenizer.json")
    if not isinstance(document, dict):
        return {}
    known = document["model"]["vocab"]
    base = {piece: i for i, (piece, _) in enumerate(known)} if isinstance(known, list) else dict(known)
    return base | {token["content"]: token["id"] for token in document.get("added_tokens") or ()}


def special_tokens(folder: Path) -> dict[str, Any]:
    """The special tokens by name, as the files beside the tokenizer have them."""
    return read_object(folder / "special_tokens_map.json") | read_object(folder / "tokenizer_config.json")


def unknown_id(folder: Path, vocabulary: Mapping[str, int]) -> int | None:
    """The id of the token for unknown words; None where there is none."""
    return vocabulary.get(token_text(special_tokens(folder).get("unk_token")))
