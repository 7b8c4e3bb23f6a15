"""The files of a model's folder, read with errors that say which file and what to do."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provider.errors import InvalidModel, ModelError

# Vocabularies under the names that transformers' classes give them, and what goes with them.
_VOCABULARY = re.compile(
    r"tokenizer\.json|[^/]*vocab[^/]*\.(json|txt)|tekken\.json|dict\.txt|[^/]+\.(model|spm|tiktoken|tokenizer)"
)
_BESIDE = frozenset(
    {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "bpe.codes"}
    | {"chat_template.jinja", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"}
)
# Files by which repositories without a config.json show what they are, by the ends of their names.
_OTHER_KINDS = (
    ("adapter_config.json", "an adapter's; merge it into its model (peft: merge_and_unload) and save that"),
    ("open_clip_config.json", "that of a model for images and text; choose a model for text"),
    ("model_index.json", "that of a model that makes images; choose a model for text"),
    (".gguf", "for llama.cpp; choose the repository with the original weights (model.safetensors)"),
)
_WITHOUT_VOCABULARY = frozenset({"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"})


def read_document(path: Path) -> Any:  # noqa: ANN401 - whatever the JSON document holds
    """The JSON document at `path`; None where there is no such file.

    Raises:
        InvalidModel: it cannot be read, or is no JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith("\ufeff"):
            msg = (
                f"{path} begins with a byte order mark, which transformers does not read; save it as UTF-8 without one"
            )
            raise InvalidModel(msg)
        return json.loads(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else f"it is no valid JSON ({exc})"
        msg = f"{path} cannot be read: {reason}; restore the file or download the model again"
        raise InvalidModel(msg) from exc


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object at `path`; empty where there is no such file.

    Raises:
        InvalidModel: it cannot be read, or is something else than an object.
    """
    document = read_document(path)
    if document is None:
        return {}
    if not isinstance(document, dict):
        msg = f"{path} holds a {type(document).__name__}, expected a JSON object; restore the file"
        raise InvalidModel(msg)
    return document


def names_in(folder: Path) -> tuple[str, ...]:
    """The files of `folder` down to two folders in it, as a repository would name them, sorted; no hidden folders."""
    found = (path for depth in range(3) for path in folder.glob("[!.]*/" * depth + "*"))
    return tuple(sorted(path.relative_to(folder).as_posix() for path in found if path.is_file()))


def check_free(to: Path) -> None:
    """See that the folder `to` may be written: there is none, or it is empty.

    Raises:
        ModelError: it holds something.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        msg = f"{to} exists and is not empty; choose another folder, or remove it first"
        raise ModelError(msg)


def read_config(folder: Path) -> dict[str, Any]:
    """The model's `config.json`.

    Raises:
        InvalidModel: there is none, or it cannot be read.
    """
    if not folder.is_dir():
        msg = f"{folder} is no folder; give the folder that holds the model's config.json"
        raise InvalidModel(msg)
    if not (folder / "config.json").is_file():
        raise no_config(str(folder), names_in(folder))
    return read_object(folder / "config.json")


def no_config(source: str, names: Sequence[str]) -> InvalidModel:
    """The error for a repository or folder without `config.json`: what it holds instead, and what to give in its place.

    Args:
        source: which.
        names: of the files in it.
    """
    for ends, what in _OTHER_KINDS:
        if found := [name for name in names if name.endswith(ends)]:
            return InvalidModel(f"{source} has no config.json; {found[0]} is {what}")
    msg = f"{source} has no config.json, so it is no model that could be loaded"
    inside = [name.removesuffix("/config.json") for name in names if name.endswith("/config.json")]
    if "modules.json" in names or not inside:
        msg += "; give the folder that holds config.json, the tokenizer and model.safetensors, or download it again"
    else:
        msg += f"; {', '.join(inside)} in it has one: give that folder, or restore the modules.json that names it"
    return InvalidModel(msg)


def is_tokenizer_file(name: str) -> bool:
    """Whether a file of that name can decide token ids."""
    return _VOCABULARY.fullmatch(name) is not None or name in _BESIDE


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """All files that can decide token ids, sorted by name.

    Raises:
        InvalidModel: there is no vocabulary among them.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    check_vocabulary(folder, [path.name for path in files])
    return tuple(path for path in files if is_tokenizer_file(path.name))


def check_vocabulary(folder: Path, names: Sequence[str]) -> None:
    """See that there is a vocabulary among the files `names` of a tokenizer's `folder`.

    Raises:
        InvalidModel: there is none.
    """
    if any(map(_VOCABULARY.fullmatch, names)):
        return
    kind = str(read_object(folder / "tokenizer_config.json").get("tokenizer_class", "")).removesuffix("Fast")
    if kind in _WITHOUT_VOCABULARY:
        msg = f"the tokenizer of {folder} is a {kind}, which transformers has in Python only; choose another model"
    else:
        msg = (
            f"{folder} has no tokenizer (no tokenizer.json, and no vocabulary such as vocab.txt, vocab.json or "
            "spiece.model); copy the model's tokenizer.json there, or download the model again"
        )
    raise InvalidModel(msg)


def positive(value: object, what: str) -> int:
    """`value` as a whole number above 0.

    Raises:
        InvalidModel: it is something else; `what` names file and field.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < math.inf or value % 1:
        msg = f"{what} is {value!r}, expected a whole number above 0; the file is damaged or of an unknown kind"
        raise InvalidModel(msg)
    return int(value)
