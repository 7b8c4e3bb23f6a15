"""Whether `tokenizer.json` alone gives the token ids that transformers gives for a folder.

A tokenizer class of transformers takes the vocabulary and the added tokens from `tokenizer.json`. Normaliser,
pre-tokeniser and special tokens it builds by its own code from `tokenizer_config.json`, whatever `tokenizer.json` says.
Here the files are compared with what the class builds, as `tokenization_utils_base.py` (`_from_pretrained`) of
transformers 5.23 reads them. The comparison errs on one side only: a class, key or value that is not listed does not
agree.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from attrs import frozen

from provider.models.tokenizer_classes import Json, TokenizerClass, choose_class

_FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
# Keys of tokenizer_config.json that change no ids of a folder with a tokenizer.json.
_WITHOUT_EFFECT = frozenset(
    {
        "name_or_path",
        "special_tokens_map_file",
        "tokenizer_file",
        "vocab_file",
        "merges_file",
        "tokenizer_class",
        "processor_class",
    }
    | {"model_max_length", "max_len", "max_length", "stride", "truncation_side", "truncation_strategy", "padding_side"}
    | {"pad_to_multiple_of", "pad_token_type_id", "model_input_names", "clean_up_tokenization_spaces", "use_fast"}
    | {"add_bos_token", "add_eos_token", "do_basic_tokenize", "never_split", "errors", "trim_offsets", "legacy"}
    | {"sp_model_kwargs", "backend", "is_local", "local_files_only", "verbose", "chat_template", "added_tokens_decoder"}
    | {"spaces_between_special_tokens", "use_default_system_prompt"}
)
# Keys that some classes read; the others ignore them.
_OPTIONS = frozenset({"do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space"})
_TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")


def stands_alone(
    document: Json, about: Json, legacy_tokens: Mapping[str, Any], config: Json, *, pairs: bool = False
) -> bool:
    """Whether `document` is known to give the same ids as transformers' class does with all the files.

    Args:
        document: `tokenizer.json`.
        about: `tokenizer_config.json`, updated by `special_tokens_map.json` where transformers reads that file.
        legacy_tokens: `added_tokens.json`, where transformers reads it.
        config: `config.json`.
        pairs: whether it has to hold for pairs of texts too.
    """
    try:
        kind = choose_class(about, config)
        return (
            kind is not None
            and _keys_are_known(about)
            and _added_tokens_agree(document, about, legacy_tokens)
            and _special_tokens_agree(document, about, kind)
            and kind.builds(document, _options(about, kind))
            and (not pairs or _pairs_agree(document, about, kind))
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        # A file of another form than these know.
        return False


def count_ids(document: Json) -> int:
    """The largest token id in `tokenizer.json`, plus one."""
    vocabulary = document["model"]["vocab"]
    largest = len(vocabulary) - 1 if isinstance(vocabulary, list) else max(vocabulary.values(), default=-1)
    return 1 + max([int(largest), *(int(token["id"]) for token in document["added_tokens"])])


def special_ids(post_processor: Json | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that a post-processor of the `tokenizers` library puts before and behind every text.

    Args:
        post_processor: as in `tokenizer.json`.

    Raises:
        ValueError: it does something else with a text.
    """
    kind = post_processor and post_processor["type"]
    if post_processor is None or kind == "ByteLevel":
        return (), ()
    if kind in {"BertProcessing", "RobertaProcessing"}:
        return (post_processor["cls"][1],), (post_processor["sep"][1],)
    if kind == "Sequence":
        found_in = [ids for ids in map(special_ids, post_processor["processors"]) if any(ids)]
        if len(found_in) > 1:
            msg = "several steps of its post-processor add special tokens"
            raise ValueError(msg)
        return found_in[0] if found_in else ((), ())
    if kind != "TemplateProcessing":
        msg = f"its post-processor is a {kind}"
        raise ValueError(msg)
    return _template_ids(post_processor["single"], post_processor["special_tokens"])


def _template_ids(pieces: list[Json], tokens: Json) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if any(part["type_id"] for piece in pieces for part in piece.values()):
        msg = "it gives tokens a type other than 0, as those of XLNet and Funnel do, and models run without types"
        raise ValueError(msg)
    texts = [i for i, piece in enumerate(pieces) if "Sequence" in piece]
    if len(texts) != 1:
        msg = "its special tokens do not stand around the text"
        raise ValueError(msg)
    ids = [tokens[piece["SpecialToken"]["id"]]["ids"] if "SpecialToken" in piece else [] for piece in pieces]
    before, behind = ids[: texts[0]], ids[texts[0] :]
    return tuple(chain.from_iterable(before)), tuple(chain.from_iterable(behind))


@frozen
class PairPart:
    """A part of a tokenised pair: one of the two texts, or special tokens.

    Attributes:
        text: which text, 0 or 1; None for special tokens.
        ids: the special tokens.
        type_id: of all its tokens.
    """

    text: int | None
    ids: tuple[int, ...]
    type_id: int


def pair_parts(post_processor: Json | None) -> tuple[PairPart, ...]:
    """What a post-processor of the `tokenizers` library makes of a pair of texts.

    Args:
        post_processor: as in `tokenizer.json`.

    Raises:
        ValueError: it does something else than put special tokens beside the texts.
    """
    kind = post_processor and post_processor["type"]
    texts = (PairPart(0, (), 0), PairPart(1, (), 1))
    if post_processor is None or kind == "ByteLevel":
        return texts
    if kind == "BertProcessing":
        first, last = (post_processor["cls"][1],), (post_processor["sep"][1],)
        return PairPart(None, first, 0), texts[0], PairPart(None, last, 0), texts[1], PairPart(None, last, 1)
    if kind == "RobertaProcessing":
        begin, end = PairPart(None, (post_processor["cls"][1],), 0), PairPart(None, (post_processor["sep"][1],), 0)
        return begin, texts[0], end, end, PairPart(1, (), 0), end
    if kind == "Sequence":
        found = [parts for parts in map(pair_parts, post_processor["processors"]) if parts != texts]
        if len(found) > 1:
            msg = "several steps of its post-processor add special tokens"
            raise ValueError(msg)
        return found[0] if found else texts
    if kind != "TemplateProcessing":
        msg = f"its post-processor is a {kind}"
        raise ValueError(msg)
    parts = []
    for piece in post_processor["pair"]:
        ((name, part),) = piece.items()
        if name == "Sequence":
            parts.append(PairPart("AB".index(part["id"]), (), part["type_id"]))
        else:
            parts.append(PairPart(None, tuple(post_processor["special_tokens"][part["id"]]["ids"]), part["type_id"]))
    if [part.text for part in parts if part.text is not None] != [0, 1]:
        msg = "its special tokens do not stand beside the texts of a pair"
        raise ValueError(msg)
    return tuple(parts)


def _pairs_agree(document: Json, about: Json, kind: TokenizerClass) -> bool:
    if kind.pair is None or kind.around is None:
        return True
    named = {**kind.tokens, **{key: value for key, value in about.items() if key.endswith("_token")}}
    ids = {token["content"]: token["id"] for token in document["added_tokens"]}
    first, last = (ids[token_text(named[name])] for name in kind.around)
    built = {
        "type": "BertProcessing" if kind.pair == "typed" else "RobertaProcessing",
        "cls": ["", first],
        "sep": ["", last],
    }
    return pair_parts(document.get("post_processor")) == pair_parts(built)


def _keys_are_known(about: Json) -> bool:
    known = _WITHOUT_EFFECT | _OPTIONS | {*_TOKEN_LISTS}
    return (
        all(key in known or key.endswith("_token") for key in about.keys() - {"split_special_tokens", "init_inputs"})
        and not about.get("split_special_tokens")
        and not about.get("init_inputs")
    )


def _added_tokens_agree(document: Json, about: Json, legacy_tokens: Mapping[str, Any]) -> bool:
    """The same tokens in all files, with the ids that they get when they are added in this order."""
    added = document["added_tokens"]
    declared = {token["id"]: tuple(token[flag] for flag in _FLAGS) for token in added}
    contents = {token["content"] for token in added}
    vocabulary = document["model"]["vocab"]
    pieces = enumerate(piece for piece, _ in vocabulary) if isinstance(vocabulary, list) else None
    known = {piece: i for i, piece in pieces if piece in contents} if pieces is not None else vocabulary
    following = len(vocabulary)
    for token in added:
        if token["content"] not in known:
            if token["id"] != following:
                return False
            following += 1
        elif token["id"] != known[token["content"]]:
            return False
    decoder = about.get("added_tokens_decoder")
    return (
        list(declared) == sorted(declared)
        and len(contents) == len(added)
        and (
            decoder is None
            or {int(i): tuple(token[flag] for flag in _FLAGS) for i, token in decoder.items()} == declared
        )
        and all(token in contents and declared.get(i, ("",))[0] == token for token, i in legacy_tokens.items())
    )


def _special_tokens_agree(document: Json, about: Json, kind: TokenizerClass) -> bool:
    """Every special token that is named is one of the added tokens, so that none is added."""
    special = {
        token["content"]
        for token in document["added_tokens"]
        if token["special"] and not (kind.adds_again and any(token[flag] for flag in _FLAGS[1:-1]))
    }
    named = {**kind.tokens, **{key: value for key, value in about.items() if key.endswith("_token")}}
    more: list[object] = []
    for key in _TOKEN_LISTS:
        tokens = about.get(key) or ()
        more += tokens.values() if isinstance(tokens, dict) else tokens
    contents = [token_text(token) for token in (*named.values(), *more) if token is not None]
    if not all(content in special for content in contents):
        return False
    before, behind = special_ids(document.get("post_processor"))
    if kind.around is None:
        return True
    ids = {token["content"]: token["id"] for token in document["added_tokens"]}
    first, last = (ids[token_text(named[name])] for name in kind.around)
    return (before, behind) == ((first,), (last,))


def _options(about: Json, kind: TokenizerClass) -> Json:
    options = {**kind.tokens, **about}
    return {**options, "unk_token": token_text(options.get("unk_token"))}


def token_text(token: Any) -> str:  # noqa: ANN401 - what the file holds
    """The text of a special token, which is a string or has its flags beside it; "" for none."""
    return str(token["content"] if isinstance(token, dict) else token or "")
