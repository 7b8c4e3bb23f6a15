"""What servers with OpenAI's API answer, read without trust in it."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import orjson
from attrs import frozen
from numpy.typing import NDArray

from provider.domain import DENSE, SPARSE, SparseVector, Truncated


@frozen(eq=False)
class EmbeddingsResponse:
    """The answer to a request for vectors.

    Attributes:
        inputs: how many were answered.
        outputs: as `Embedded` has them.
        tokens: of all inputs; 0 where the server does not say.
        truncated: the inputs that this service says it cut; other servers do not say.
    """

    inputs: int
    outputs: Mapping[str, Any]
    tokens: int
    truncated: tuple[Truncated, ...]

    @classmethod
    def of(cls, body: bytes, wanted: Sequence[str]) -> Self | None:
        """Read `body`; None if an output of `wanted` is missing, has another form, or is not finite."""
        document = _document(body)
        try:
            data = sorted(document["data"], key=lambda each: each["index"])
            outputs = {name: _output(name, data) for name in wanted}
        except (KeyError, TypeError, ValueError):
            return None
        usage = document.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        return cls(len(data), outputs, tokens if isinstance(tokens, int) else 0, _truncated(document))


def listed_models(body: bytes) -> Iterator[tuple[str, Sequence[str] | None]]:
    """Each model's name and the outputs that it gives; None where the server does not say, as only this one does."""
    listed = _document(body).get("data")
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and each.get("id"):
            outputs = each.get("outputs")
            yield str(each["id"]), outputs if isinstance(outputs, list) else None


def described_model(body: bytes, name: str) -> dict[str, object]:
    """Backend and dtype of the model called `name`, among those that are listed; empty where they are not known."""
    listed = _document(body).get("data")
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and name in (each.get("id"), *(each.get("aliases") or ())):
            return {fact: each[fact] for fact in ("backend", "dtype") if isinstance(each.get(fact), str)}
    return {}


def error_fields(body: bytes) -> dict[str, Any]:
    """What OpenAI's error envelope holds; empty if it is something else."""
    error = _document(body).get("error")
    return error if isinstance(error, dict) else {}


def _document(body: bytes) -> dict[str, Any]:
    """The JSON object of an answer; empty if it is something else."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _output(name: str, data: Sequence[Mapping[str, Any]]) -> Any:  # noqa: ANN401 - as `Embedded` has it
    """Raises KeyError, TypeError or ValueError where it is none."""
    if name == DENSE:
        return _matrix([each["embedding"] for each in data])
    if name == SPARSE:
        return tuple(_sparse(each[name]) for each in data)
    return tuple(_matrix(each[name]) for each in data)


def _matrix(rows: Sequence[Any]) -> NDArray[np.float32]:
    """Vectors in either encoding, (rows, dimension)."""
    matrix = np.stack([_vector(row) for row in rows]).astype(np.float32, copy=False)
    return _finite(matrix, 2)


def _vector(value: Any) -> NDArray[np.float32]:  # noqa: ANN401 - JSON
    decoded = np.frombuffer(base64.b64decode(value), "<f4") if isinstance(value, str) else np.array(value, np.float32)
    return decoded.astype(np.float32, copy=False)


def _sparse(value: Mapping[str, Any]) -> SparseVector:
    ids, weights = np.array(value["indices"], np.int32), _finite(np.array(value["values"], np.float32), 1)
    if ids.shape != weights.shape:
        msg = f"{len(ids)} indices with {len(weights)} values"
        raise ValueError(msg)
    return SparseVector(ids, weights)


def _finite(array: NDArray[np.float32], ndim: int) -> NDArray[np.float32]:
    if array.ndim != ndim or not np.isfinite(array).all():
        msg = f"an array of shape {array.shape}, or NaN or infinity in it"
        raise ValueError(msg)
    return array


def _truncated(document: dict[str, Any]) -> tuple[Truncated, ...]:
    listed = document.get("truncated")
    return tuple(
        Truncated(each["index"], each["kept_tokens"], each["original_tokens"])
        for each in (listed if isinstance(listed, list) else ())
        if isinstance(each, dict) and {"index", "kept_tokens", "original_tokens"} <= each.keys()
    )
