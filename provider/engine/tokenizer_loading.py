"""From a model's folder to a tokenizer of the `tokenizers` library that gives sentence-transformers' ids."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import tokenizers
from attrs import frozen
from tokenizers import normalizers

from provider.domain import TokenizerSpec
from provider.errors import InvalidModel

# What transformers converts SentencePiece's files with.
_CONVERTERS = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
_CONVERTED = (".model", ".spm")


@frozen(eq=False)
class BuiltTokenizer:
    """A tokenizer that transformers' class built.

    Attributes:
        of_transformers: the object; not to be changed.
    """

    of_transformers: Any

    @property
    def gives_types(self) -> bool:
        """Whether it gives types of tokens to the model."""
        return "token_type_ids" in self.of_transformers.model_input_names

    def renderer(self, messages: Literal["flat", "structured"]) -> Callable[[str, str, str], str]:
        """What writes an instruction ("" for none), a query and a document into one text by the chat template.

        Args:
            messages: whether the template takes texts as they are, or as lists of parts.
        """

        def message(role: str, text: str) -> dict[str, Any]:
            return {"role": role, "content": text if messages == "flat" else [{"type": "text", "text": text}]}

        def render(instruction: str, query: str, document: str) -> str:
            system = [message("system", instruction)] if instruction else []
            pair = [message("query", query), message("document", document)]
            return str(self.of_transformers.apply_chat_template([*system, *pair], tokenize=False))

        return render


@contextlib.contextmanager
def panics_raised() -> Iterator[None]:
    """Raise a panic of the tokenizers library, which is no `Exception`, as a RuntimeError."""
    try:
        yield
    except BaseException as exc:
        # The class cannot be imported.
        if type(exc).__name__ != "PanicException":
            raise
        msg = f"the tokenizers library failed: {exc}"
        raise RuntimeError(msg) from exc


def load_tokenizer(folder: Path, spec: TokenizerSpec) -> tuple[tokenizers.Tokenizer, BuiltTokenizer | None]:
    """The tokenizer in `folder`, without truncation and padding, and transformers' own if it had to be built.

    Args:
        folder: the transformer's.
        spec: as the folder was read.

    Raises:
        InvalidModel: its files are damaged, or transformers has the tokenizer in Python only.
    """
    built = None
    if spec.stands_alone:
        path = folder / "tokenizer.json"
        try:
            with panics_raised():
                tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as exc:
            msg = f"the tokenizer in {path} cannot be read: {exc}; restore the file or download the model again"
            raise InvalidModel(msg) from exc
    else:
        built = BuiltTokenizer(_built(folder, spec))
        tokenizer = built.of_transformers.backend_tokenizer
    if spec.lowercase:
        _put_lowercase_first(tokenizer)
    if not spec.adds_special_tokens:
        tokenizer.post_processor = None
    try:
        with panics_raised():
            _make_single(tokenizer, spec.markers)
    except RuntimeError as exc:
        msg = f"the tokenizer in {folder} does not encode its own markers: {exc}; download the model again"
        raise InvalidModel(msg) from exc
    # The file may carry the truncation and padding of its training run.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, built


def _make_single(tokenizer: tokenizers.Tokenizer, markers: Sequence[str]) -> None:
    """Make each marker one token, if the vocabulary has it: as `MultiVectorEncoder._register_prefix_tokens` does it."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = []
    for marker in markers:
        # PyLate adds a marker with the blank behind it.
        known = next((each for each in (marker, *marker.split()[:1]) if each in vocabulary), None)
        if known is not None and tokenizer.encode(known, add_special_tokens=False).tokens != [known]:
            added.append(tokenizers.AddedToken(known, normalized=False, special=True))
    if added:
        tokenizer.add_special_tokens(added)


def _put_lowercase_first(tokenizer: tokenizers.Tokenizer) -> None:
    """As sentence-transformers does it (`Transformer.__init__`): unless a Lowercase is there already."""
    own = tokenizer.normalizer
    several = isinstance(own, normalizers.Sequence)
    steps = [own[i] for i in range(len(own))] if several else [own] if own is not None else []
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def named_special_ids(folder: Path, spec: TokenizerSpec) -> frozenset[int]:
    """Ids of the special tokens that the files in `folder` name, and transformers' class by default.

    Raises:
        InvalidModel: as `load_tokenizer`.
    """
    return frozenset(_built(folder, spec).all_special_ids)


def _built(folder: Path, spec: TokenizerSpec) -> Any:  # noqa: ANN401 - transformers comes lazily
    """What transformers' class builds from all files."""
    # Imported here: it takes a second, and only few folders need it.
    from transformers import AutoTokenizer  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.set_verbosity_error()
    try:
        with panics_raised():
            built = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **spec.arguments
            )
    except Exception as exc:
        named = _class_named(folder)
        # For a class that is refused anyway, that is the reason, not what its files lack.
        _check_class(folder, named)
        raise InvalidModel(_reason(folder, named, exc)) from exc
    _check_class(folder, type(built))
    return built


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
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast  # noqa: PLC0415

    if kind is None:
        return
    # A class whose package is not installed is a placeholder of transformers' that names it in `_backends`.
    if not issubclass(kind, PreTrainedTokenizerBase) and not hasattr(kind, "_backends"):
        msg = (
            f"the files in {folder} name {kind.__name__} as tokenizer_class, which is no tokenizer's class; name the "
            "tokenizer's own in tokenizer_config.json, or leave the key out"
        )
        raise InvalidModel(msg)
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
