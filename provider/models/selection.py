"""Which files of a repository or folder a model needs.

Two steps, so that a model that cannot be served is refused before its weights are downloaded: `describing` picks by
name the small files that say what the model is; `select` reads `modules.json` among them and picks the rest.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Self

from attrs import evolve, frozen

from provider.errors import InvalidModel
from provider.models.bge_m3 import HEADS
from provider.models.configs import check_supported
from provider.models.folder import check_vocabulary, is_tokenizer_file, no_config
from provider.models.pipeline import read_modules
from provider.models.router import read_ways
from provider.models.weights import INDEX_FILE, PICKLED_FILE, PICKLED_INDEX, SINGLE_FILE, no_weights

SelectFiles = Callable[[Sequence[str]], Iterable[str]]
"""Given the names of all files in a repository, sorted: those to download besides what every model needs."""

# At the top, and in folders: what sentence-transformers' modules consist of.
_DESCRIBING = re.compile(
    r"([^/]+/){0,2}(config[^/]*|modules|sentence_[^/]*_config|router_config|adapter_config|tokenizer_config|idf)\.json"
    r"|artifact\.metadata|chat_template\.jinja"
)
# Folders with the same model in other formats, or from the middle of its training.
_OTHER_COPIES = re.compile(r"(onnx|openvino|coreml|gguf|original|checkpoint[^/]*)/")
# Weights as transformers writes them, whole or in shards: first the index, then what it lists.
_FORMATS = (
    (SINGLE_FILE, INDEX_FILE, re.compile(r"model-\d+-of-\d+\.safetensors")),
    (PICKLED_FILE, PICKLED_INDEX, re.compile(r"pytorch_model-\d+-of-\d+\.bin")),
)


def nothing_more(_names: Sequence[str]) -> tuple[str, ...]:
    """The safetensors are enough: a `SelectFiles` for whoever reads no other format."""
    return ()


@frozen
class Selection:
    """The files that make a model; paths inside its repository or folder, sorted.

    Attributes:
        files: all of them.
        own: those that the backend reads instead of, or beside, the safetensors.
        pickled: weights that have to be converted before they can be loaded.
        pickled_heads: heads that the model can do without, pickled beside safetensors (of bge-m3).
    """

    files: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    pickled: tuple[str, ...] = ()
    pickled_heads: tuple[str, ...] = ()

    def with_heads(self) -> Self:
        """The selection with all pickled heads to be converted."""
        return evolve(self, pickled=(*self.pickled, *self.pickled_heads), pickled_heads=())


def describing(source: str, names: Iterable[str]) -> tuple[str, ...]:
    """The files out of `names` that say what the model is: small, and to be read first.

    Args:
        source: the repository, for messages.
        names: of all its files.

    Raises:
        InvalidModel: there is none that could say so.
    """
    present = _inside(names)
    if "config.json" not in present and "modules.json" not in present:
        raise no_config(source, present)
    return _describing(present)


def select(source: str, names: Iterable[str], folder: Path, select_more: SelectFiles = nothing_more) -> Selection:
    """The files to use out of `names`: what every model needs, and what `select_more` picks besides.

    Args:
        source: the repository or folder, for messages.
        names: of all files in it.
        folder: where those that `describing` picks are.
        select_more: picks what the backend reads in other formats; if anything, weights may be missing, and pickled
            ones are left out.

    Raises:
        InvalidModel: the model cannot be served, or has no weights.
        BackendUnavailable: the backend's options cannot be met by any file.
    """
    present = _inside(names)
    try:
        firsts, others = _module_places(folder)
        own = _own(present, firsts, select_more)
        check_supported(folder, needs_class=not own)
        for place in firsts:
            here = [name.removeprefix(place) for name in present if name.startswith(place)]
            check_vocabulary(folder / place, here)
    except InvalidModel as exc:
        raise InvalidModel(exc.message.replace(str(folder), source)) from exc
    weights: tuple[str, ...] = ()
    pickled: tuple[str, ...] = ()
    for place in firsts:
        found, found_pickled = _weights(present, place)
        if not own and not found:
            raise no_weights(source, present)
        if not own or not found_pickled:
            weights, pickled = weights + found, pickled + found_pickled
    for place in others:
        more, more_pickled = _weights(present, place)
        weights, pickled = weights + more, pickled + more_pickled
    tokenizer = (n for n in present for place in ("", *firsts) if is_tokenizer_file(n.removeprefix(place)))
    heads = () if own else tuple(f"{firsts[0]}{name}" for name in HEADS if f"{firsts[0]}{name}" in present)
    found_heads = tuple(name for name in heads if name.endswith(".pt") and name[:-2] + "safetensors" not in heads)
    files = tuple(sorted({*_describing(present), *tokenizer, *weights, *heads, *own}))
    selection = Selection(files, own, pickled, found_heads)
    # Where the weights are converted anyway, the heads are too.
    return selection.with_heads() if pickled else selection


def _own(present: Sequence[str], firsts: Sequence[str], select_more: SelectFiles) -> tuple[str, ...]:
    """What the backend reads itself: in the folder of the module that takes tokens, or else at the top."""
    places = {name: name for name in present}
    if len(firsts) == 1:
        places |= {name.removeprefix(firsts[0]): name for name in present if name.startswith(firsts[0])}
    return tuple(sorted(places[name] for name in set(select_more(sorted(places))) if name in places))


def _describing(present: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in present if _DESCRIBING.fullmatch(name) and not _OTHER_COPIES.match(name))


def _weights(present: Sequence[str], place: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The weights in one module's folder, and those of them that are pickled."""
    here = [name.removeprefix(place) for name in present if name.startswith(place)]
    for single, index, shard in _FORMATS:
        names = [single] if single in here else [n for n in here if n == index or shard.fullmatch(n)]
        if single in here or index in here:
            found = tuple(place + name for name in names)
            return found, found if single == PICKLED_FILE else ()
    return (), ()


def _module_places(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folders of the modules that take tokens, and of those behind them, as prefixes: "" or with a slash."""
    ways = read_ways(folder, read_modules(folder)).all
    places = [[each.folder.relative_to(folder) for each in way] for way in ways]
    prefixes = [[f"{place.as_posix()}/" if place.parts else "" for place in way] for way in places]
    firsts = tuple(dict.fromkeys(way[0] for way in prefixes if way)) or ("",)
    return firsts, tuple(dict.fromkeys(place for way in prefixes for place in way[1:] if place not in firsts))


def _inside(names: Iterable[str]) -> list[str]:
    """The names that do not lead out of the download folder, sorted."""
    paths = {name: PurePosixPath(name) for name in names}
    return sorted(name for name, path in paths.items() if not path.is_absolute() and ".." not in path.parts)
