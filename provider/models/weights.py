"""Weights on disk: which files, whether they are whole, and a digest of what they say. Nothing is loaded.

The format is described at https://huggingface.co/docs/safetensors: eight bytes with the header's length
(little-endian), the header (JSON: tensor name to dtype, shape and `data_offsets`), then the tensors.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import safe_open

from provider.errors import InvalidModel
from provider.models.folder import names_in, read_object

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED_FILE = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
# Of the training, and of other heads of the model.
_NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "_linear.pt", "rng_state.pth", "openvino_model.bin")
_PLUGIN = (
    "install emb-provider-{0} (its wheel, or ./plugins/{0} of emb-provider's repository) and serve with --backend {0}"
)
# Other formats by the ends of their names: what they are, and the way out. The first that is there counts.
_OTHER_FORMATS = (
    ((".onnx",), "ONNX files", _PLUGIN.format("onnx")),
    (("openvino_model.xml",), "OpenVINO files", _PLUGIN.format("openvino")),
    ((".gguf",), "GGUF files, which are llama.cpp's", "choose the repository that they were made from"),
    (
        (".h5", ".msgpack", ".tflite", ".mlmodel", ".ckpt", ".pt", ".pth", ".bin", ".pkl", ".npz"),
        "weights of another library",
        f"choose a repository with {SINGLE_FILE} or {PICKLED_FILE}",
    ),
    ((".safetensors",), "safetensors of other names", f"choose a repository with {SINGLE_FILE}, or rename the file"),
)

# safetensors itself refuses longer headers.
_LONGEST_HEADER = 100_000_000
_CHUNK_BYTES = 1 << 20
TOKEN_TABLE = re.compile(r"(.*\.)?(word_embeddings?|embed_tokens|tok_embeddings|wte|shared)\.weight")
"""The usual names for the table of token embeddings."""
POSITION_TABLE = re.compile(r"(.*\.)?(position_embeddings|wpe)\.weight")
"""The same for that of positions counted from the first token."""


def has_weights(folder: Path) -> bool:
    """Whether there are safetensors, whole or in shards."""
    return (folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()


def weight_files(folder: Path) -> tuple[Path, ...]:
    """`model.safetensors`, or the shards that `model.safetensors.index.json` lists, sorted by name.

    Raises:
        InvalidModel: there are none, a shard is missing, or the weights are of another kind.
    """
    if (folder / SINGLE_FILE).is_file():
        return (folder / SINGLE_FILE,)
    if (folder / INDEX_FILE).is_file():
        return _shards(folder)
    raise no_weights(str(folder), names_in(folder) if folder.is_dir() else ())


def no_weights(source: str, names: Sequence[str]) -> InvalidModel:
    """The error for a model without safetensors: what it has instead, and the way out.

    Args:
        source: its repository or folder.
        names: of all files in it.
    """
    if pickled := [name for name in names if PurePosixPath(name).name in (PICKLED_FILE, PICKLED_INDEX)]:
        return pickled_only(source, pickled)
    for endings, what, way in _OTHER_FORMATS:
        if found := [name for name in names if name.endswith(endings) and not name.endswith(_NO_WEIGHTS)]:
            return InvalidModel(f"{source} has no {SINGLE_FILE}, only {what} ({_some(found)}): {way}")
    return InvalidModel(f"{source} has no {SINGLE_FILE} and no weights of another kind; download the model again")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def pickled_only(source: str, names: Sequence[str]) -> InvalidModel:
    """The error for weights that would have to be converted first.

    Args:
        source: the repository or folder.
        names: of the pickled files in it.
    """
    return InvalidModel(
        f"{source} has weights only in {', '.join(names)}: pickled weights are not loaded, because loading them can "
        f"run code. Convert them once, which runs none: `emb-provider convert {source}`, or set "
        "model.convert_weights: true (EMB_PROVIDER_MODEL_CONVERT_WEIGHTS)"
    )


def safetensors_name(pickled: str) -> str:
    """What the safetensors of a pickled file are called: `pytorch_model-00001-of-00002.bin` gives `model-00001-…`."""
    path = PurePosixPath(pickled)
    name = path.name.removeprefix("pytorch_")
    name = name.removesuffix(".pt") + ".safetensors" if name.endswith(".pt") else name.replace(".bin", ".safetensors")
    return str(path.with_name(name))


def _shards(folder: Path) -> tuple[Path, ...]:
    index = read_object(folder / INDEX_FILE)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        msg = f"{folder / INDEX_FILE} has no weight_map; download the model again"
        raise InvalidModel(msg)
    if not isinstance(index.get("metadata"), dict):
        msg = f'{folder / INDEX_FILE} has no "metadata", which transformers needs; add "metadata": {{}} to it'
        raise InvalidModel(msg)
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        # An index may not name files elsewhere on this machine.
        if Path(name).name != name or not name.endswith(".safetensors"):
            msg = f"{folder / INDEX_FILE} names {name!r}, expected the name of a .safetensors file beside it"
            raise InvalidModel(msg)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        msg = f"{folder} lacks {', '.join(missing)}, which {INDEX_FILE} lists; download the model again"
        raise InvalidModel(msg)
    return tuple(folder / name for name in names)


def check_safetensors(path: Path) -> None:
    """See that the file is as long as its header says. Reads the header only.

    Raises:
        InvalidModel: it is truncated, or no safetensors file.
    """
    try:
        has = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if start == b"version ":
                msg = f"{path} is a Git LFS pointer and not the weights themselves; run `git lfs pull` there"
                raise InvalidModel(msg)
            length = int.from_bytes(start, "little")
            if len(start) == 8 and length > _LONGEST_HEADER:
                raise _damaged(path)
            header = file.read(length)
    except OSError as exc:
        msg = f"{path} cannot be read: {exc.strerror}; restore the file or download the model again"
        raise InvalidModel(msg) from exc
    if len(start) < 8 or len(header) < length:
        expected = f"more than {8 + length if len(start) == 8 else 8}"
        msg = f"{path} is truncated: {has} bytes, expected {expected}; download it again"
        raise InvalidModel(msg)
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        expected_size = 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, RecursionError) as exc:
        raise _damaged(path) from exc
    if has < expected_size:
        msg = f"{path} is truncated: {has} bytes, expected {expected_size}; download it again"
        raise InvalidModel(msg)
    if has > expected_size:
        msg = f"{path} is damaged: {has} bytes, expected {expected_size}; download it again"
        raise InvalidModel(msg)


def tensor_headers(path: Path) -> dict[str, Any]:
    """The tensors of a whole file by name: each with its `dtype` and `shape`. Reads the header only."""
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of a whole file's tensors by name. Reads the header only."""
    return {name: entry["shape"] for name, entry in tensor_headers(path).items()}


def _damaged(path: Path) -> InvalidModel:
    return InvalidModel(f"{path} is damaged: it has no safetensors header; download it again")


def weight_bytes(folder: Path) -> int:
    """Size of the weights on disk, in bytes.

    Raises:
        InvalidModel: as `weight_files`.
    """
    return sum(path.stat().st_size for path in weight_files(folder))


def fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """Digest of the files that determine a model's vectors: 16 hexadecimal digits of SHA-256.

    Args:
        folder: the model's folder. Its own name and place do not count: a copy elsewhere has the same fingerprint.
        files: files in it; each counts with its path inside the folder, its size and its content.

    Raises:
        InvalidModel: a file cannot be read.
    """
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    for path in sorted(set(files)):
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
                while count := file.readinto(buffer):
                    digest.update(view[:count])
        except OSError as exc:
            msg = f"{path} cannot be read: {exc.strerror}; restore the file or download the model again"
            raise InvalidModel(msg) from exc
    return digest.hexdigest()[:16]


def table_rows(paths: Iterable[Path], table: re.Pattern[str]) -> int | None:
    """Rows of a table of embeddings; None where it cannot be told.

    Args:
        paths: all files with the model's weights, whole.
        table: its names: `TOKEN_TABLE` or `POSITION_TABLE`.
    """
    found = set()
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            found |= {file.get_slice(name).get_shape()[0] for name in file.keys() if table.fullmatch(name)}  # noqa: SIM118 - it is no mapping
    return found.pop() if len(found) == 1 else None
