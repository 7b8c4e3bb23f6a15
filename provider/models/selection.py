"""Which files of a repository a model needs: decided by name, before anything is downloaded."""

import re
from collections.abc import Iterable

from provider.errors import InvalidModel
from provider.models.weights import HOW_TO_CONVERT, INDEX_FILE, PICKLED_SUFFIXES, SINGLE_FILE

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


def select_files(repository: str, names: Iterable[str]) -> tuple[str, ...]:
    """The files to download out of `names`, sorted.

    Raises:
        InvalidModel: the repository has no safetensors weights, or is no model at all.
    """
    present = sorted(set(names))
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
    return tuple(sorted(set(wanted)))
