"""What transformers' tokenizer classes build by their own code, for the usual classes.

Sources: transformers 5.23, `models/*/tokenization_*.py`, `tokenization_utils_tokenizers.py`,
`models/auto/tokenization_auto.py`. Parts of tokenizers are written as in `tokenizer.json`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from attrs import frozen

Json = dict[str, Any]


@frozen
class TokenizerClass:
    """What a tokenizer class builds by itself.

    Attributes:
        tokens: names of special tokens with their defaults.
        around: names of the tokens before and behind a text; None where `tokenizer.json` says so.
        parts: from options and `tokenizer.json` to `normalizer`, `pre_tokenizer` and `model` (without vocabulary); None
            where `tokenizer.json` gives them.
        adds_again: whether it adds its special tokens once more, without flags, whatever `tokenizer.json` says of them.
        pair: how it joins the texts of a pair: `typed` (one separator, the second text has type 1) or `doubled` (two
            separators, all types are 0); None where `tokenizer.json` says so.
        gives_types: whether it gives types of tokens where `tokenizer_config.json` does not say.
    """

    tokens: Mapping[str, str]
    around: tuple[str, str] | None = None
    parts: Callable[[Json, Json], Json] | None = None
    adds_again: bool = False
    pair: Literal["typed", "doubled"] | None = None
    gives_types: bool = False

    def builds(self, document: Json, options: Json) -> bool:
        """Whether the class builds the parts that `document` (`tokenizer.json`) has, with `options` of its own."""
        if self.parts is None:
            return True
        model = {key: value for key, value in document["model"].items() if key not in {"vocab", "merges"}}
        if model["type"] == "BPE":
            # An empty affix is none, and older files leave out what they do not use.
            affixes = {key: model.pop(key, None) or None for key in ("continuing_subword_prefix", "end_of_word_suffix")}
            model = _bpe(**model, **affixes)
        elif model["type"] == "Unigram":
            model.setdefault("byte_fallback", False)
        has = {
            "normalizer": document.get("normalizer"),
            "pre_tokenizer": _plain(document.get("pre_tokenizer")),
            "model": model,
        }
        return has == self.parts(options, document)


def _wordpiece(options: Json, _document: Json) -> Json:
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": options.get("tokenize_chinese_chars", True),
        "strip_accents": options.get("strip_accents"),
        "lowercase": options.get("do_lower_case", True),
    }
    model = {
        "type": "WordPiece",
        "unk_token": options["unk_token"],
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    return {"normalizer": normalizer, "pre_tokenizer": {"type": "BertPreTokenizer"}, "model": model}


def _unigram(options: Json, document: Json) -> Json:
    normalizer = document.get("normalizer") or {}
    charsmap = normalizer.get("precompiled_charsmap")
    scheme = "always" if options.get("add_prefix_space", True) else "never"
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": True}
    return {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap} if charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "model": {"type": "Unigram", "unk_id": 3, "byte_fallback": False},
    }


def _bpe(**more: object) -> Json:
    plain = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    return {
        **plain, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **more
    }  # fmt: skip


def _by_bytes(options: Json, *, use_regex: bool) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": bool(options.get("add_prefix_space")), "use_regex": use_regex}


def _roberta(options: Json, _document: Json) -> Json:
    return {"normalizer": None, "pre_tokenizer": _by_bytes(options, use_regex=True), "model": _bpe()}


_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _qwen(options: Json, _document: Json) -> Json:
    words = {"type": "Split", "pattern": {"Regex": _QWEN_WORDS}, "behavior": "Isolated", "invert": False}
    steps = [words, _by_bytes(options, use_regex=False)]
    return {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": _bpe(),
    }


def _gemma(options: Json, _document: Json) -> Json:
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False
        },
        "model": _bpe(unk_token=options["unk_token"], fuse_unk=True, byte_fallback=True),
    }  # fmt: skip


def _plain(pre_tokenizer: Json | None) -> Json | None:
    """A pre-tokeniser without what concerns offsets only, and with today's names of its options."""
    if pre_tokenizer is None:
        return None
    kind = pre_tokenizer["type"]
    if kind == "Sequence":
        return {**pre_tokenizer, "pretokenizers": [_plain(each) for each in pre_tokenizer["pretokenizers"]]}
    if kind == "ByteLevel":
        has = {"use_regex": True, **pre_tokenizer}
        del has["trim_offsets"]
        return has
    if kind == "Metaspace":
        has = {"prepend_scheme": "always", "split": True, **pre_tokenizer}
        has.pop("str_rep", None)
        if has.pop("add_prefix_space", True) is True:
            return has
    return pre_tokenizer


_BERT_TOKENS = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"
}  # fmt: skip
_ROBERTA_TOKENS = {
    "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
    "pad_token": "<pad>", "mask_token": "<mask>",
}  # fmt: skip
_END_OF_TEXT = "<|endoftext|>"
_GEMMA_TOKENS = {
    "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"
}  # fmt: skip
_AROUND = ("cls_token", "sep_token")
_GENERIC = "TokenizersBackend"
_CLASSES = {
    _GENERIC: TokenizerClass({}),
    "BertTokenizer": TokenizerClass(_BERT_TOKENS, _AROUND, _wordpiece, pair="typed", gives_types=True),
    "DistilBertTokenizer": TokenizerClass(_BERT_TOKENS, _AROUND, _wordpiece, pair="typed"),
    "XLMRobertaTokenizer": TokenizerClass(_ROBERTA_TOKENS, ("bos_token", "eos_token"), _unigram, pair="doubled"),
    "RobertaTokenizer": TokenizerClass(_ROBERTA_TOKENS, _AROUND, _roberta, pair="doubled"),
    "MPNetTokenizer": TokenizerClass({**_ROBERTA_TOKENS, "unk_token": "[UNK]"}, _AROUND, _wordpiece, pair="doubled"),
    "Qwen2Tokenizer": TokenizerClass(
        dict.fromkeys(("unk_token", "eos_token", "pad_token"), _END_OF_TEXT), parts=_qwen, adds_again=True
    ),
    "GemmaTokenizer": TokenizerClass(_GEMMA_TOKENS, parts=_gemma),
}
# The class of a model_type, where tokenizer_config.json names none.
_REGISTERED = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "nomic_bert": "BertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "gte": "XLMRobertaTokenizer",
    "roberta": "RobertaTokenizer",
    "mpnet": "MPNetTokenizer",
    "modernbert": _GENERIC,
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "gemma3_text": "GemmaTokenizer",
    "new": None,
    None: None,
}
# Whatever class tokenizer_config.json names for them.
_ALWAYS_REGISTERED = frozenset({"modernbert", "qwen2"})


def choose_class(about: Json, config: Json) -> TokenizerClass | None:
    """The class that transformers' `AutoTokenizer` chooses; None for any that is not listed."""
    other_code = "auto_map" in about or "AutoProcessor" in (config.get("auto_map") or {})
    if other_code or "model_name" in config:
        return None
    model_type = config.get("model_type")
    if model_type not in _REGISTERED:
        return None
    registered = _REGISTERED[model_type]
    named = about.get("tokenizer_class") or config.get("tokenizer_class")
    name = registered if named is None else str(named).removesuffix("Fast")
    if model_type in _ALWAYS_REGISTERED:
        name = registered
    elif named in {"PreTrainedTokenizerFast", "PreTrainedTokenizer"}:
        name = _GENERIC
    return _CLASSES.get(name or "")


def gives_types(about: Json, config: Json) -> bool | None:
    """Whether the tokenizer gives types of tokens to the model; None for a class that is not listed."""
    named = about.get("model_input_names")
    if isinstance(named, list):
        return "token_type_ids" in named
    kind = choose_class(about, config)
    return None if kind is None else kind.gives_types
