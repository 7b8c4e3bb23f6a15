"""Which files of a repository a model needs: decided by name, before anything is downloaded."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from provider.errors import InvalidModel
from provider.models.weights import HOW_TO_CONVERT, INDEX_FILE, PICKLED_SUFFIXES, SINGLE_FILE

SelectFiles = Callable[[Sequence[str]], Iterable[str]]
"""Given the names of all files in a repository, sorted: those to download besides what every model needs."""

# At the top: configurations, tokenizer. One folder down: what sentence-transformers' modules consist of.
_WANTED = re.compile(
    r"config[^/]*\.json|sentence_[^/]*_config\.json|modules\.json|tokenizer[^/]*|special_tokens_map\.json|"
    r"added_tokens\.json|vocab\.[^/]+|merges\.txt|(sentencepiece|spiece)[^/]*\.model|"
    r"[^/]+/config\.json|[^/]+/model\.safetensors"
)
_SHARD = re.compile(r"[^/]+-\d+-of-\d+\.safetensors")
# Folders with the same model in other formats, or from the middle of its training.
_OTHER_COPIES = re.compile(r"(onnx|openvino|coreml|gguf|original|checkpoint[^/]*)/")
_DENSE_PICKLED = re.compile(r"(?P<folder>\d+_[^/]+)/pytorch_model\.bin")


def nothing_more(_names: Sequence[str]) -> tuple[str, ...]:
    """The safetensors are enough: a `SelectFiles` for whoever reads no other format."""
    return ()


def select_files(repository: str, names: Iterable[str], select_more: SelectFiles = nothing_more) -> tuple[str, ...]:
    """The files to download out of `names`, sorted: what every model needs, and what `select_more` picks besides.

    Raises:
        InvalidModel: the repository has no safetensors weights, or is no model at all.
    """
    present = sorted({name for name in names if _is_inside(name)})
    if "config.json" not in present:
        msg = f"{repository} has no config.json, so it is no transformers model; choose another repository"
        raise InvalidModel(msg)
    wanted = [name for name in present if _WANTED.fullmatch(name) and not _OTHER_COPIES.match(name)]
    if SINGLE_FILE in present:
        wanted.append(SINGLE_FILE)
    elif INDEX_FILE in present:
        wanted += [INDEX_FILE, *(name for name in present if _SHARD.fullmatch(name))]
    else:
        pickled = [name for name in present if name.endswith(PICKLED_SUFFIXES) and "/" not in name]
        if pickled:
            msg = f"{repository} has its weights only in {', '.join(pickled)}: {HOW_TO_CONVERT}"
        else:
            msg = f"{repository} has no {SINGLE_FILE}; choose a repository that has, only safetensors is loaded"
        raise InvalidModel(msg)
    for name in present:
        found = _DENSE_PICKLED.fullmatch(name)
        if found and f"{found['folder']}/{SINGLE_FILE}" not in present:
            msg = f"{repository} has the weights of {found['folder']} only in pytorch_model.bin: {HOW_TO_CONVERT}"
            raise InvalidModel(msg)
    return tuple(sorted({*wanted, *(set(select_more(present)) & set(present))}))


def _is_inside(name: str) -> bool:
    """Whether a file of that name lies in the folder that it is downloaded to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
