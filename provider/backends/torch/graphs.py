"""Short batches as CUDA graphs: one call in place of a launch for each kernel, which takes longer than the kernels do.

A graph has fixed shapes. There is one for each of some rectangles, and a batch runs in the smallest that holds it. All
are captured when the model is loaded, and each must give what the usual way gives.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from provider.backends.torch.device import Array, Capture, Captured
from provider.domain import TokenBatch, Vectors

# Cells of the largest rectangle: above, kernels take longer than their launches.
_MOST_CELLS = 4096
_NARROWEST = 16
_MOST_SECONDS = 30.0
# How far vectors may be from the usual ones, as a share of their length: float32, half precision.
TOLERANCES = (1e-3, 4e-2)

_log = logging.getLogger(__name__)


class RectangleModel(Protocol):
    """What gives vectors of a rectangle, in fixed shapes and without waiting for anything."""

    def arrays(self, batch: TokenBatch, rectangle: "Rectangle") -> list[Array]:
        """`batch`, in a rectangle that holds it, for `vectors`."""

    def vectors(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Vectors (rows of the rectangle, dimension) float32 by the tensors of `arrays`."""


@frozen
class Rectangle:
    """So many rows of so many tokens."""

    rows: int
    width: int

    @property
    def cells(self) -> int:
        """Tokens, filling included."""
        return self.rows * self.width

    def holds(self, batch: TokenBatch) -> bool:
        """Whether `batch` fits in."""
        return batch.rows <= self.rows and int(batch.lengths.max()) <= self.width


@runtime_checkable
class RectangleEncoder(Protocol):
    """An encoder whose work on a rectangle has fixed shapes and waits for nothing."""

    def inputs_of(self, ids: Array, lengths: Array, types: Array | None) -> list[Array]:
        """The arrays for `states`; see `PaddedEncoder.inputs_of`."""

    def states(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Hidden states (rows, width, hidden_size) by the tensors of `inputs_of`."""


Finish = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From hidden states (rows, width, hidden_size), lengths and skips, (rows,) int64 each, to vectors (rows, dimension)
float32, all on the device."""


@frozen(eq=False)
class EncodedRectangles:
    """A `RectangleModel` of an encoder and what becomes of its hidden states; `pad_id` fills rectangles."""

    encoder: RectangleEncoder
    finish: Finish
    pad_id: int

    def arrays(self, batch: TokenBatch, rectangle: Rectangle) -> list[Array]:
        """See `RectangleModel.arrays`."""
        ids, lengths, skips, types = filled(batch, rectangle, self.pad_id)
        return [lengths, skips, *self.encoder.inputs_of(ids, lengths, types)]

    def vectors(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `RectangleModel.vectors`."""
        lengths, skips, *inputs = tensors
        return self.finish(self.encoder.states(inputs), lengths, skips)


def filled(batch: TokenBatch, rectangle: Rectangle, pad_id: int) -> tuple[Array, Array, Array, Array | None]:
    """Ids (rows, width), lengths and skips (rows,) and types (rows, width) of a rectangle, int64; None for types of 0.

    A row that is not there has one token, as softmax needs one.
    """
    lengths, skips = np.ones(rectangle.rows, np.int64), np.zeros(rectangle.rows, np.int64)
    lengths[: batch.rows], skips[: batch.rows] = batch.lengths, batch.skips
    cells = np.arange(rectangle.width) < batch.lengths[:, None]

    def spread(values: NDArray[np.int32], filling: int) -> Array:
        array = np.full((rectangle.rows, rectangle.width), filling, np.int64)
        array[: batch.rows][cells] = values
        return array

    types = None if batch.type_ids is None else spread(batch.type_ids, 0)
    return spread(batch.ids, pad_id), lengths, skips, types


def rectangles(longest: int) -> list[Rectangle]:
    """All that have a graph, the smallest first, for rows of at most `longest` tokens."""
    widths = [_NARROWEST]
    while widths[-1] < longest:
        widths.append(2 * widths[-1])
    widths[-1] = longest
    found = [Rectangle(1 << i, width) for width in widths for i in range(_MOST_CELLS.bit_length())]
    return sorted((each for each in found if each.cells <= _MOST_CELLS), key=lambda each: (each.cells, each.rows))


class Graphs:
    """The captured rectangles of one model. Safe from several threads."""

    def __init__(self, model: RectangleModel) -> None:
        """Use `captured_by`."""
        self._model = model
        self._captured: dict[Rectangle, Captured] = {}

    @classmethod
    def captured_by(
        cls,
        model: RectangleModel,
        capture: Capture,
        usual: Callable[[TokenBatch], Vectors],
        *,
        longest: int,
        tolerance: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Capture rectangles, the smallest first, until one cannot be, or gives other vectors, which the log says.

        Args:
            model: on the device.
            capture: that of the device.
            usual: vectors of a batch without graphs.
            longest: most tokens of a row.
            tolerance: how far vectors may be apart, as a share of their length.
            clock: seconds, monotonic.
        """
        graphs = cls(model)
        begun = clock()
        for rectangle in rectangles(longest):
            reason: str | None = f"{_MOST_SECONDS:.0f} s were not enough to capture all"
            if clock() - begun < _MOST_SECONDS:
                reason = graphs._add(rectangle, capture, usual, tolerance)
            if reason is not None:
                _log.warning(
                    "batches of %d rows of %d tokens and larger ones run without CUDA graphs: %s",
                    *(rectangle.rows, rectangle.width, reason),
                )
                break
        return graphs

    def __len__(self) -> int:
        """How many there are."""
        return len(self._captured)

    def run(self, batch: TokenBatch) -> Vectors | None:
        """Vectors (rows, dimension) float32 of `batch`; None where it fits in no rectangle."""
        if batch.unattended is not None:
            return None
        for rectangle, captured in self._captured.items():
            if rectangle.holds(batch):
                return captured.run(self._model.arrays(batch, rectangle), batch.rows)
        return None

    def _add(
        self, rectangle: Rectangle, capture: Capture, usual: Callable[[TokenBatch], Vectors], tolerance: float
    ) -> str | None:
        """Capture one; or why not."""
        model = self._model
        full, mixed = _examples(rectangle)
        try:
            captured = capture(model.vectors, model.arrays(full, rectangle))
            found = captured.run(model.arrays(mixed, rectangle), mixed.rows)
            expected = usual(mixed)
        except Exception as exc:  # noqa: BLE001 - whatever a class fails by, it runs without
            return " ".join(f"{type(exc).__name__}: {exc}".split())
        apart = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        if not apart.max() <= tolerance:
            return f"there they give vectors that differ by {apart.max():.1e} of their length, allowed {tolerance:.0e}"
        self._captured[rectangle] = captured
        return None


def _examples(rectangle: Rectangle) -> tuple[TokenBatch, TokenBatch]:
    """A batch that fills it, and one of rows of all lengths and a place that stays empty."""
    random = np.random.default_rng(0)
    rows = max(1, rectangle.rows - 1)
    lengths = random.integers(1, rectangle.width, rows, endpoint=True)

    def batch(lengths: Sequence[int]) -> TokenBatch:
        # Every vocabulary has so many.
        return TokenBatch.of_rows([random.integers(0, 8, length).astype(np.int32) for length in lengths])

    return batch([rectangle.width] * rectangle.rows), batch(list(lengths))
