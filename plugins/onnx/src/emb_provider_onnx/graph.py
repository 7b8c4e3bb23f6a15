"""What an ONNX file says about itself, read without loading it.

An ONNX file is one protobuf message, `ModelProto` of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; the
numbers below are its fields. Few of them are needed here, and walking over the others is quick: each says its length.
"""

import hashlib
import math
import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from attrs import frozen

from provider.backends import InvalidModel

_GRAPH = 7  # of ModelProto
_NODE, _INITIALIZER = 1, 5  # of GraphProto
_OP_TYPE = 4  # of NodeProto
_DIMS, _DATA_TYPE, _EXTERNAL_DATA = 1, 2, 13  # of TensorProto
_KEY, _VALUE = 1, 2  # of StringStringEntryProto
_TYPE_NAMES = {1: "float32", 10: "float16", 16: "bfloat16"}
_QUANTISED = frozenset(
    {"DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat"}
    | {"MatMulNBits", "QAttention", "QGemm", "QLinearMatMul", "QuantizeLinear"}
)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_CHUNK_BYTES = 1 << 20


@frozen
class Graph:
    """The facts.

    Attributes:
        dtype: `int8` if there are quantised operators, else the type of most of the weights.
        files: the file, then those beside it that hold its larger weights.
    """

    dtype: str
    files: tuple[Path, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Walk over the file at `path`.

        Raises:
            InvalidModel: it is no whole ONNX file, or weights beside it are missing.
        """
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data[:8] == b"version ":
                    msg = f"{path} is a Git LFS pointer and not the graph itself; run `git lfs pull` there"
                    raise InvalidModel(msg)
                graph = _graph(data)
        except (OSError, ValueError, IndexError, UnicodeDecodeError) as exc:
            msg = f"{path} cannot be read or is no whole ONNX file ({exc}); export or download it again"
            raise InvalidModel(msg) from exc
        operators, elements, places = graph
        dtype = "int8" if _QUANTISED & operators else max(_TYPE_NAMES.values(), key=lambda name: elements[name])
        files = (path, *(path.parent / place for place in sorted(places)))
        missing = [each.name for each in files if not each.is_file()]
        if missing:
            msg = f"{path} keeps weights in {', '.join(missing)}, which is not beside it; copy it there"
            raise InvalidModel(msg)
        return cls(dtype, files)

    def digest(self) -> str:
        """SHA-256 over the content of all files, in hexadecimal digits."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        return digest.hexdigest()


def _graph(data: mmap.mmap) -> tuple[set[str], Counter[str], set[str]]:
    """Operators, elements of the initializers by dtype, and names of files with further weights."""
    operators: set[str] = set()
    elements: Counter[str] = Counter()
    places: set[str] = set()
    graph = next((part for number, part in _fields(data, (0, len(data))) if number == _GRAPH), None)
    if graph is None:
        msg = "it holds no graph"
        raise ValueError(msg)
    for number, part in _fields(data, graph):
        if number == _NODE:
            operators |= {_text(data, each) for field, each in _fields(data, part) if field == _OP_TYPE}
        elif number == _INITIALIZER:
            dtype, size, place = _tensor(data, part)
            elements[dtype] += size
            places |= {place} if place else set()
    for place in places:
        # A graph may not name files elsewhere on this machine.
        if Path(place).name != place:
            msg = f"it keeps weights in {place!r}, expected the name of a file beside it"
            raise ValueError(msg)
    return operators, elements, places


def _tensor(data: mmap.mmap, span: "_Span | int") -> tuple[str, int, str]:
    """An initializer's dtype, its elements, and the file that holds them, "" for this one."""
    dtype, size, place = "other", 1, ""
    for field, part in _fields(data, span):
        if field == _DATA_TYPE and isinstance(part, int):
            dtype = _TYPE_NAMES.get(part, "other")
        elif field == _DIMS:
            size *= math.prod([part] if isinstance(part, int) else _packed(data, part))
        elif field == _EXTERNAL_DATA:
            entry = {key: _text(data, value) for key, value in _fields(data, part)}
            place = entry[_VALUE] if entry.get(_KEY) == "location" else place
    return dtype, size, place


_Span = tuple[int, int]


def _fields(data: mmap.mmap, span: _Span | int) -> Iterator[tuple[int, _Span | int]]:
    """The fields of a message: number, and the value of a varint or where the bytes stand."""
    if isinstance(span, int):
        msg = "a number stands where a message is expected"
        raise ValueError(msg)  # noqa: TRY004 - it is the file that is wrong
    at, end = span
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            msg = f"unknown wire type {wire}"
            raise ValueError(msg)
        if at + length > end:
            msg = "it ends too early"
            raise ValueError(msg)
        yield number, (at, at + length)
        at += length


def _packed(data: mmap.mmap, span: _Span) -> Iterator[int]:
    at, end = span
    while at < end:
        value, at = _varint(data, at)
        yield value


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _text(data: mmap.mmap, span: _Span | int) -> str:
    return "" if isinstance(span, int) else data[slice(*span)].decode()
