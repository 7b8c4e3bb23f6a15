"""What of a call of `embed_dataset` is known to be wrong before anything runs."""

import logging
from collections.abc import Sequence

import pyarrow as pa
from ray.data import Dataset

from emb_provider_ray.room import Reservation, may_grow, nodes, shortage
from provider.errors import InvalidRequest

_log = logging.getLogger(__name__)


def check_columns(names: Sequence[str], column: str, to: str) -> None:
    """Refuse a dataset without the column of texts, or with that of vectors.

    Raises:
        InvalidRequest: it is one.
    """
    if column not in names:
        msg = f"the dataset has no column {column!r}; it has: {', '.join(names) or 'none'}"
        raise InvalidRequest(msg)
    if to in names:
        msg = f"the dataset has a column {to!r} already; name another one with `to`"
        raise InvalidRequest(msg)


def check_dataset(ds: Dataset, column: str, to: str) -> None:
    """Look at the schema, where it is known without running the dataset.

    Raises:
        InvalidRequest: as `check_columns`; or the column holds something else than texts.
    """
    for name, value in (("column", column), ("to", to)):
        if not isinstance(value, str) or not value:
            msg = f"embed_dataset: {name}: got {value!r}; give the name of a column"
            raise InvalidRequest(msg)
    schema = ds.schema(fetch_if_missing=False)
    if schema is None or not schema.names:
        return
    check_columns(schema.names, column, to)
    kind = dict(zip(schema.names, schema.types, strict=True))[column]
    if isinstance(kind, pa.DataType) and _is_never_text(kind):
        msg = f"column {column!r}: expected texts, got {kind}; name another column, or convert it before"
        raise InvalidRequest(msg)


def check_counts(actors: int | tuple[int, int], *, rows_per_call: int, batch_size: int) -> None:
    """Refuse numbers of actors, rows and texts that are none.

    Raises:
        InvalidRequest: one is.
    """
    pair = actors if isinstance(actors, tuple) and len(actors) == 2 else (actors, actors)
    if not all(map(_is_count, pair)) or pair[0] > pair[1]:
        msg = f"embed_dataset: actors: got {actors!r}; give a whole number from 1, or fewest and most as (2, 8)"
        raise InvalidRequest(msg)
    for name, value in (("rows_per_call", rows_per_call), ("batch_size", batch_size)):
        if not _is_count(value):
            msg = f"embed_dataset: {name}: got {value!r}; it is a whole number from 1"
            raise InvalidRequest(msg)


def check_room(actor: Reservation) -> None:
    """Refuse actors that no node can run; warn of them where an autoscaler may start one.

    Raises:
        InvalidRequest: there is no such node, and nothing starts one.
    """
    problem = shortage([actor], nodes())
    if problem is None:
        return
    if not may_grow():
        raise InvalidRequest(problem)
    _log.warning("%s. Waiting for the autoscaler", problem)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_never_text(kind: pa.DataType) -> bool:
    types = pa.types
    return any(each(kind) for each in (types.is_primitive, types.is_nested, types.is_binary, types.is_large_binary))
