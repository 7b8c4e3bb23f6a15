"""From a model's folder to a tokenizer of the `tokenizers` library that gives sentence-transformers' ids."""

import importlib.util
from pathlib import Path

import tokenizers
from tokenizers import normalizers

from provider.domain import TokenizerSpec
from provider.errors import InvalidModel

# What transformers converts SentencePiece's files with.
_CONVERTERS = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
_CONVERTED = (".model", ".spm")


def load_tokenizer(folder: Path, spec: TokenizerSpec) -> tokenizers.Tokenizer:
    """The tokenizer in `folder`, without truncation and padding.

    Args:
        folder: the transformer's.
        spec: as the folder was read.

    Raises:
        InvalidModel: its files are damaged, or transformers has the tokenizer in Python only.
    """
    if spec.stands_alone:
        path = folder / "tokenizer.json"
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as exc:
            msg = f"the tokenizer in {path} cannot be read: {exc}; restore the file or download the model again"
            raise InvalidModel(msg) from exc
    else:
        tokenizer = _built(folder, spec)
    if spec.lowercase:
        _put_lowercase_first(tokenizer)
    # The file may carry the truncation and padding of its training run.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _put_lowercase_first(tokenizer: tokenizers.Tokenizer) -> None:
    """As sentence-transformers does it (`Transformer.__init__`): unless a Lowercase is there already."""
    own = tokenizer.normalizer
    several = isinstance(own, normalizers.Sequence)
    steps = [own[i] for i in range(len(own))] if several else [own] if own is not None else []
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def _built(folder: Path, spec: TokenizerSpec) -> tokenizers.Tokenizer:
    """What transformers' class builds from all files, taken out of it."""
    # Imported here: it takes a second, and only such folders need it.
    from transformers import AutoTokenizer  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.set_verbosity_error()
    try:
        built = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **spec.arguments)
    except Exception as exc:
        named = _class_named(folder)
        # For a class that is refused anyway, that is the reason, not what its files lack.
        _check_class(folder, named)
        raise InvalidModel(_reason(folder, named, exc)) from exc
    _check_class(folder, type(built))
    tokenizer: tokenizers.Tokenizer = built.backend_tokenizer
    return tokenizer


def _class_named(folder: Path) -> type | None:
    """The class that the files name, without an instance of it."""
    from transformers import AutoConfig  # noqa: PLC0415
    from transformers.models.auto import tokenization_auto as auto  # noqa: PLC0415

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        name = auto.get_tokenizer_config(folder, local_files_only=True).get("tokenizer_class")
        name = name or getattr(config, "tokenizer_class", None) or auto.TOKENIZER_MAPPING_NAMES.get(config.model_type)
        kind: type | None = auto.tokenizer_class_from_name(str(name))
    except Exception:  # noqa: BLE001 - the caller has the reason why the tokenizer was not loaded
        return None
    return kind


def _check_class(folder: Path, kind: type | None) -> None:
    """See that all the work is done by the `tokenizers` library."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    if kind is None:
        return
    if issubclass(kind, PreTrainedTokenizerFast):
        methods = ("__call__", "_encode_plus")
        if all(getattr(kind, each) is getattr(PreTrainedTokenizerFast, each) for each in methods):
            return
    msg = (
        f"the tokenizer of {folder} is transformers' {kind.__name__}, which works in Python, at least in part; "
        "supported are those that the tokenizers library runs alone (tokenizer.json). Choose a model with such a one"
    )
    raise InvalidModel(msg)


def _reason(folder: Path, kind: type | None, exc: Exception) -> str:
    """Why the tokenizer was not loaded, and the way out."""
    sources = sorted(path.name for path in folder.iterdir() if path.suffix in _CONVERTED)
    missing = [package for module, package in _CONVERTERS.items() if not _has(module)]
    if sources and missing and not (folder / "tokenizer.json").is_file():
        return (
            f"the tokenizer in {folder} has to be converted from {sources[0]}, which needs packages that are not "
            f"installed: pip install {' '.join(missing)}"
        )
    text = " ".join(str(exc).split())
    text = text if len(text) <= 300 else f"{text[:300]} …"
    return (
        f"transformers' {kind.__name__ if kind else 'tokenizer'} cannot be made from the files in {folder}: "
        f"{type(exc).__name__}: {text}; check tokenizer_class and the other keys of tokenizer_config.json, or download "
        "the model again"
    )


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
