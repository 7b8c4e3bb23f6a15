"""Late-interaction models of the ColBERT family: one vector a token.

Formats: `sentence_transformers/multi_vector_encoder/model.py`, release 6.2, which also reads what PyLate before
release 4 and Stanford's ColBERT saved.
"""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from provider.domain import HeadStep, MultiVectorTask, QueryInput
from provider.errors import InvalidModel
from provider.models.folder import positive, read_object
from provider.models.kinds import first_architecture
from provider.models.pipeline import Module, dense_step, dense_weights, unsupported_modules
from provider.models.tokenizer_json import token_text
from provider.models.weights import SINGLE_FILE, tensor_shapes

STANFORD_FILE = "artifact.metadata"
_TOKENS = "token_embeddings"
# Keys of config_sentence_transformers.json by which a folder shows that PyLate saved it.
_PYLATE_KEYS = ("query_length", "document_length", "query_expansion")
_PYLATE_MARKS = (
    *(*_PYLATE_KEYS, "do_query_expansion", "attend_to_expansion_tokens", "attend_to_mask_tokens"),
    *("query_prefix", "document_prefix", "skiplist_words"),
)


@frozen
class Late:
    """Linear layers over tokens; see `Pipeline` for the attributes of the same names.

    Attributes:
        skiplist: words whose tokens are left out.
        skips: whose: `query`, `document` or both.
        expansion: sentence-transformers' `query_expansion`; None for none.
        query_length: most tokens of a query, beside the expansion; None for no such limit.
        document_length: the same for documents.
        markers: texts before queries and documents that may be one token each.
    """

    head: tuple[HeadStep, ...]
    dimension: int
    normalizes: bool
    skiplist: tuple[str, ...]
    skips: tuple[str, ...]
    expansion: Mapping[str, Any] | None
    query_length: int | None
    document_length: int | None
    markers: tuple[str, ...]
    files: tuple[Path, ...]

    def weights(self) -> tuple[Path, ...]:
        """See `Pipeline.weights`."""
        folders = [step.folder for step in self.head if step.kind == "dense" and step.folder is not None]
        return tuple(map(dense_weights, folders))

    def task(self, vocabulary: Mapping[str, int], unknown: int | None) -> MultiVectorTask:
        """What the model does; words that are no token of `vocabulary` are not skipped."""
        ids = {vocabulary[word] for word in self.skiplist if word in vocabulary} - {unknown}
        skipped = {role: frozenset(ids) if role in self.skips else frozenset() for role in ("query", "document")}
        return MultiVectorTask(
            self.dimension, self.head, skipped["document"], skipped["query"], normalize=self.normalizes
        )

    def queries(self, tokens: Mapping[str, Any]) -> QueryInput:
        """How queries become tokens; `tokens` are the special ones by name, as in `tokenizer_config.json`."""
        if self.expansion is None:
            return QueryInput(self.query_length)
        length = positive(self.expansion.get("length"), "the length of query_expansion")
        named = (
            self.expansion.get("token") or token_text(tokens.get("mask_token")) or token_text(tokens.get("eos_token"))
        )
        if not named:
            msg = "the model fills up queries (query_expansion), but tokenizer_config.json names no mask_token; add it"
            raise InvalidModel(msg)
        most: int | None = length
        if self.expansion.get("strategy") == "min":
            most = None if self.query_length is None else max(self.query_length, length)
        return QueryInput(most, length, named, bool(self.expansion.get("attend")))


def is_late(way: Sequence[Module], about: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether these modules, or with none this configuration, give one vector a token."""
    if not way:
        return first_architecture(dict(config)) == "HF_ColBERT"
    named = about.get("model_type") in ("MultiVectorEncoder", "ColBERT")
    return named or any(module.kind == "MultiVectorMask" for module in way)


def read_late(  # noqa: C901 - one branch a module
    folder: Path, way: Sequence[Module], about: Mapping[str, Any], transformer: Mapping[str, Any], hidden_size: int
) -> Late:
    """Read what follows the transformer of a late-interaction model.

    Args:
        folder: the model's.
        way: its modules; empty for a folder of Stanford's ColBERT.
        about: `config_sentence_transformers.json`.
        transformer: settings of the Transformer module.
        hidden_size: width of the hidden states.

    Raises:
        InvalidModel: a module is not supported, or its configuration is missing or does not fit.
    """
    if not way:
        return _read_stanford(folder, hidden_size)
    files = [folder / "modules.json"]
    head: list[HeadStep] = []
    width, skiplist, skips, has_mask = hidden_size, (), ("document",), False
    for module in way[1:]:
        where = module.folder / "config.json"
        config = read_object(where)
        if module.kind == "Dense":
            taken = config.get("module_input_name") or _TOKENS
            if (taken, config.get("module_output_name") or taken) != (_TOKENS, _TOKENS):
                raise unsupported_modules(folder, way, f"Dense over {_TOKENS}")
            head.append(dense_step(module.folder, config, width))
            width = head[-1].out_features or width
            files.append(where)
        elif module.kind == "MultiVectorMask":
            if config.get("keep_only_token_ids"):
                msg = f"{where} has keep_only_token_ids, which is for images of pages and not supported"
                raise InvalidModel(msg)
            said = config.get("skiplist_tasks")
            skips = ("document",) if said is None else (said,) if isinstance(said, str) else tuple(said)
            skiplist, has_mask = tuple(config.get("skiplist_words") or ()), True
            files.append(where)
        elif module.kind == "Normalize":
            # On the pooled vector, which there is not, it does nothing.
            if config.get("module_input_name", "sentence_embedding") == _TOKENS:
                head.append(HeadStep("normalize"))
                files.append(where)
        elif module.kind != "Dropout":
            raise unsupported_modules(
                folder, way, "Dense, MultiVectorMask, Normalize and Dropout behind the Transformer"
            )
    settings, is_pylate = _pylate_settings(about), about.get("model_type") == "ColBERT"
    settings |= {key: transformer[key] for key in _PYLATE_KEYS if key in transformer}
    if is_pylate:
        words = about.get("skiplist_words")
        skiplist, has_mask = tuple(string.punctuation if words is None else words), True
        head.append(HeadStep("normalize"))
    if settings.get("query_expansion") and not has_mask:
        msg = f"{folder / 'modules.json'} has no MultiVectorMask, without which the filling of queries is not scored"
        raise InvalidModel(msg)
    normalizes = bool(head) and head[-1].kind == "normalize"
    while head and head[-1].kind == "normalize":
        head.pop()
    _, markers = marked_prompts(about)
    return _late(folder, head, width, settings, skiplist, skips, markers, files, normalizes=normalizes)


def _read_stanford(folder: Path, hidden_size: int) -> Late:
    metadata = read_object(folder / STANFORD_FILE)
    weights = folder / SINGLE_FILE
    shape = tensor_shapes(weights).get("linear.weight") if weights.is_file() else []
    if shape is None or (shape and shape[1] != hidden_size):
        msg = f"{weights} has no linear.weight over {hidden_size}, as Stanford's ColBERT saves it"
        raise InvalidModel(msg)
    width = shape[0] if shape else hidden_size
    markers = list(_stanford_markers(folder).values())
    expansion = {
        "strategy": "fixed",
        "attend": bool(metadata.get("attend_to_mask_tokens")),
        "length": metadata.get("query_maxlen") or 32,
    }
    settings = {"document_length": metadata.get("doc_maxlen"), "query_expansion": expansion}
    words = tuple(string.punctuation) if metadata.get("mask_punctuation", True) else ()
    files = [folder / STANFORD_FILE] if metadata else []
    head = [HeadStep("linear", weights, width)]
    roles = ("document",)
    return _late(folder, head, width, settings, words, roles, markers, files, normalizes=True)


def _pylate_settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """What PyLate says at the top of config_sentence_transformers.json, as settings of the Transformer module."""
    found = {
        key: about[key] for key in _PYLATE_KEYS if key in about and (about[key] is not None or key.endswith("ion"))
    }
    if "query_expansion" in found or not any(key in about for key in _PYLATE_MARKS):
        return found
    if about.get("do_query_expansion") is False:
        return {**found, "query_expansion": None}
    attend = about.get("attend_to_expansion_tokens", about.get("attend_to_mask_tokens"))
    length = found.pop("query_length", None) or 32
    return {**found, "query_expansion": {"strategy": "fixed", "attend": bool(attend), "length": length}}


def _late(  # noqa: PLR0917 - the parts of one noun
    folder: Path,
    head: Sequence[HeadStep],
    width: int,
    settings: Mapping[str, Any],
    skiplist: Sequence[str],
    skips: Sequence[str],
    markers: Sequence[str],
    files: Sequence[Path],
    *,
    normalizes: bool,
) -> Late:
    lengths = {
        key: None if settings.get(key) is None else positive(settings[key], f"{key} of {folder}")
        for key in ("query_length", "document_length")
    }
    expansion = settings.get("query_expansion")
    if expansion is not None and (not isinstance(expansion, dict) or expansion.get("strategy") not in ("fixed", "min")):
        msg = f"{folder} has query_expansion {expansion!r}, supported are the strategies 'fixed' and 'min'"
        raise InvalidModel(msg)
    return Late(
        tuple(head),
        width,
        normalizes,
        tuple(skiplist),
        tuple(skips),
        expansion,
        lengths["query_length"],
        lengths["document_length"],
        tuple(marker for marker in markers if marker),
        tuple(files),
    )


def with_markers(folder: Path, way: Sequence[Module], about: Mapping[str, Any]) -> dict[str, Any]:
    """`config_sentence_transformers.json` with prompts that begin with the markers of queries and documents."""
    if way and not is_late(way, about, {}):
        return dict(about)
    config = {} if way else read_object(folder / "config.json")
    if not way and not is_late(way, about, config):
        return dict(about)
    return {**about, "prompts": _stanford_markers(folder) if not way else marked_prompts(about)[0]}


def marked_prompts(about: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The prompts with PyLate's markers before them, and these markers."""
    prompts, markers = dict(about.get("prompts") or {}), []
    for key, name in (("query_prefix", "query"), ("document_prefix", "document")):
        if key in about:
            marker = about[key] or ""
            markers.append(marker)
            prompts[name] = marker + (prompts.get(name) or "").removeprefix(marker)
    return prompts, markers


def _stanford_markers(folder: Path) -> dict[str, str]:
    metadata = read_object(folder / STANFORD_FILE)
    return {
        "query": (metadata.get("query_token_id") or "[unused0]") + " ",
        "document": (metadata.get("doc_token_id") or "[unused1]") + " ",
    }
