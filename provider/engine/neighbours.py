"""Which rows may share a batch: measured, because a text's vector must not depend on its neighbours.

In some architectures padding reaches real tokens (Fourier transforms, convolutions, landmarks), in others rows share
statistics, and a backend may have the same fault. So every loaded backend runs a few short rows alone and beside
others, and its batches follow from what that shows.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from provider.backends import BackendTraits, TokenBatch, Vectors
from provider.domain import Features, Ids, ModelSpec, Outputs, TaskSpec
from provider.engine.limits import BatchLimits
from provider.engine.tokenizer import Tokenizer
from provider.errors import InvalidInput, InvalidModel
from provider.settings import ModelSettings
from provider.tasks import comparable

Flat = NDArray[np.float32]
Run = Callable[[Sequence[Ids]], Sequence[Flat]]

Precision = Literal["float32", "half", "int8"]
Neighbours = Literal["any", "equal_length", "none"]
"""Which rows may share a batch: rows of any length, rows of one length, or none."""
# The strictest last.
_STRICTNESS: tuple[Neighbours, ...] = ("any", "equal_length", "none")

SAME: dict[Precision, float] = {"float32": 0.99999, "half": 0.999, "int8": 0.95}
"""From which agreement on two vectors of one row differ by rounding only."""

# What rounding explains where even rows of equal length disagree. Half precision and int8 round by what shares the
# batch (other kernels, one scale for all activations); in float32 nothing is left to explain.
_EXPLAINED: dict[Precision, float] = {"float32": 1.0, "half": 0.99, "int8": 0.9}
# Short rows show most: in a long one the few tokens that padding reaches are lost in the mean. Odd and even, below and
# above the usual widths of convolutions, each beside a row a little longer and one much longer.
_LENGTHS, _LONGER = (1, 4, 9, 23), (31, 70)
_TEXT = "The quick brown fox jumps over the lazy dog, and 3 of 7 cats (all black) look on."


@frozen
class NeighbourCheck:
    """What the measurement showed. Agreement is 1 where two vectors are equal; see `agreement`.

    Attributes:
        allowed: which rows may share a batch.
        padded: the smallest agreement of a row alone and padded beside longer rows.
        equal: the same beside rows of its own length; None where padding changes nothing.
        seconds: what measuring took.
    """

    allowed: Neighbours
    padded: float
    equal: float | None
    seconds: float

    @property
    def notice(self) -> str | None:
        """What an operator should know; None where batches are as usual."""
        if self.equal is None:
            return None
        consequence = {
            "any": "this is rounding; `emb-provider verify` tells whether it matters",
            "equal_length": "only rows of equal length share a batch, which is slower",
            "none": "each row runs alone, which is slow",
        }[self.allowed]
        return (
            f"vectors depend on what shares their batch: cosine {self.padded:.4f} of a row alone and beside longer "
            f"rows, {self.equal:.4f} beside rows of its length; {consequence}"
        )


class Runs(Protocol):
    """What is measured: a loaded backend, or what stands before it."""

    @property
    def traits(self) -> BackendTraits:
        """See `Backend`."""
        ...

    def run(self, batch: TokenBatch) -> Outputs:
        """See `Backend.run`."""
        ...


def batching(
    backend: Runs, tokenizer: Tokenizer, spec: ModelSpec, settings: ModelSettings
) -> tuple[NeighbourCheck, BatchLimits]:
    """Which rows of a loaded backend may share a batch, measured, and what a batch may hold therefore.

    Raises:
        InvalidModel: as `check_neighbours`.
    """
    found = [_neighbours(backend, tokenizer, spec)]
    if spec.queries is not None:
        found.append(_neighbours(backend, tokenizer.queries, spec.queries))
    neighbours = max(found, key=lambda each: _STRICTNESS.index(each.allowed))
    return neighbours, BatchLimits(
        max_rows=1 if neighbours.allowed == "none" else settings.max_batch_size,
        max_tokens=settings.max_batch_tokens or backend.traits.batch_tokens,
        padding_is_free=backend.traits.padding_is_free,
        equal_lengths=neighbours.allowed == "equal_length",
    )


def _neighbours(backend: Runs, tokenizer: Tokenizer, spec: ModelSpec) -> NeighbourCheck:
    """The measurement of one way."""
    try:
        (text,) = tokenizer.encode([_TEXT], truncate="end")
    except InvalidInput as exc:
        msg = f"the tokenizer in {spec.folder} does not encode usual text such as {_TEXT[:19]!r}: {exc.reason}"
        raise InvalidModel(msg) from exc
    return check_neighbours(
        backend,
        text.ids,
        spec.tasks,
        max_tokens=spec.max_tokens,
        vocabulary_size=tokenizer.vocabulary.size,
        pad_id=spec.pad_id,
        is_query=text.features.is_query,
    )


def check_neighbours(
    backend: Runs,
    text_ids: Ids,
    tasks: Sequence[TaskSpec],
    *,
    max_tokens: int,
    vocabulary_size: int,
    pad_id: int,
    is_query: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> NeighbourCheck:
    """Run a few rows alone and beside others, on the caller's thread.

    Args:
        backend: loaded; no other thread may use it meanwhile.
        text_ids: token ids of a text, special tokens included.
        tasks: of the model; all its outputs are compared.
        max_tokens: most tokens of a row.
        vocabulary_size: token ids are below it.
        pad_id: not drawn: some models take it for padding where they get no mask.
        is_query: whether the rows are run as queries.
        clock: seconds, monotonic.

    Raises:
        InvalidModel: the same row alone has another vector each time.
    """
    started = clock()
    random = np.random.default_rng(0)

    outputs = tuple(task.output for task in tasks)

    def run(rows: Sequence[Ids]) -> Sequence[Flat]:
        found = backend.run(TokenBatch.of([Features(ids, is_query=is_query, outputs=outputs) for ids in rows]))
        return [comparable(tasks, {name: found[name][i] for name in outputs}) for i in range(len(rows))]

    def drawn(length: int) -> Ids:
        ids = random.integers(0, vocabulary_size, length).astype(np.int32)
        ids[ids == pad_id] = (pad_id + 1) % vocabulary_size
        return ids

    lengths = sorted({min(length, max_tokens) for length in _LENGTHS})
    # In turns from the start of a text and at random.
    rows = [text_ids[:length] if i % 2 else drawn(length) for i, length in enumerate(lengths)]
    alone = [each for row in rows for each in run([row])]
    # The longer row leads and ends the batch: what is first or last is not always treated as the rest.
    beside = [run([*rows, drawn(longer)])[:-1] for longer in _within(_LONGER[:1], max_tokens)]
    beside += [run([drawn(longer), *rows])[1:] for longer in _within(_LONGER[1:], max_tokens)]
    padded = min(_agreement(each, alone) for each in beside)
    precision = precision_of(backend.traits.dtype)
    if padded >= SAME[precision]:
        return NeighbourCheck("any", padded, None, clock() - started)
    again = _agreement([each for row in rows for each in run([row])], alone)
    if again < SAME[precision]:
        msg = (
            f"the same input has another vector each time (cosine {again:.4f}): the model draws at random. Fix its "
            "seed in config.json if it has one (Reformer: hash_seed), or use another model"
        )
        raise InvalidModel(msg)
    equal = min(_agreement(_first_and_last(run, row, drawn), [alone[i]] * 2) for i, row in enumerate(rows))
    return NeighbourCheck(_allowed(padded, equal, precision), padded, equal, clock() - started)


def agreement(a: Vectors, b: Vectors) -> float:
    """How much two sets of vectors agree, row by row: the smallest of 2ab / (aa + bb).

    This is the cosine of vectors of one length, and less where lengths differ too: they matter to models whose vectors
    are not normalised. Rows of `b` that are not finite are left out, equal rows agree whatever they hold.
    """
    wide, other = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        found = 2 * np.vecdot(wide, other) / (np.vecdot(wide, wide) + np.vecdot(other, other))
    found = np.where((a == b).all(axis=1), 1.0, np.nan_to_num(found, nan=-1.0))
    return float(found[np.isfinite(b).all(axis=1)].min(initial=1.0))


def precision_of(dtype: str) -> Precision:
    """The class of a dtype, as a backend names it: `int8` for integers, `half` for 16 bits, else `float32`.

    An unknown name is measured by the strictest class.
    """
    name = dtype.lower()
    if "int" in name or "q4" in name or "q8" in name:
        return "int8"
    return "half" if "16" in name or "half" in name else "float32"


def _allowed(padded: float, equal: float, precision: Precision) -> Neighbours:
    if equal >= SAME[precision]:
        return "equal_length"
    if equal < _EXPLAINED[precision]:
        return "none"
    # Rounding alone keeps them apart, or rounding and padding: equal lengths must then take away half of it.
    return "equal_length" if 1 - equal < (1 - padded) / 2 else "any"


def _first_and_last(run: Run, row: Ids, drawn: Callable[[int], Ids]) -> Sequence[Flat]:
    """Two outputs of `row`, first and last among others of its length."""
    others = [drawn(len(row)) for _ in range(3)]
    return run([row, *others, row])[:: len(others) + 1]


def _agreement(a: Sequence[Flat], b: Sequence[Flat]) -> float:
    """As `agreement`, for outputs whose lengths differ: what is missing counts as 0."""
    width = max(map(len, (*a, *b)))
    one, other = (np.stack([np.pad(each, (0, width - len(each))) for each in each_side]) for each_side in (a, b))
    return agreement(one, other)


def _within(lengths: Sequence[int], max_tokens: int) -> list[int]:
    return [min(length, max_tokens) for length in lengths]
