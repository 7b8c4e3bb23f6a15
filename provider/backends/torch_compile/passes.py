"""Forward passes of a compiled model: batches as its inputs, checked and cut so that padding costs little."""

import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from provider.backends.torch_compile.cache import Facts
from provider.backends.torch_compile.graphs import arrays_of, output_of
from provider.backends.torch_compile.shared_object import CompiledModel
from provider.domain import ModelSpec, Outputs, TokenBatch

# What a cell of padding costs in attention, in tokens, at a width of 0 and for each token of width; and what a forward
# pass costs beyond its tokens. Measured with all-MiniLM-L6-v2; larger models spend less on attention.
_CELL_COST, _CELL_COST_BY_WIDTH, _PASS_COST = 0.02, 0.0007, 16


class CompiledPasses:
    """A compiled model that takes batches. Several threads may call `run` at the same time."""

    def __init__(self, spec: ModelSpec, model: CompiledModel, facts: Facts, threads: int) -> None:
        """Take what was compiled for `threads` CPU threads a forward pass."""
        self._spec, self._model, self._facts, self._threads = spec, model, facts, threads
        self._output, self._width = output_of(spec)
        self._lane = threading.local()

    def run(self, batch: TokenBatch) -> Outputs:
        """As `Backend.run`."""
        self._enter_lane()
        check(batch, self._facts)
        passes = split(batch.lengths) if self._facts.kind == "packed" else []
        if len(passes) <= 1:
            return {self._output: self._pass(batch)}
        answer = np.empty((batch.rows, self._width), np.float32)
        for rows in passes:
            answer[rows] = self._pass(batch.take(rows))
        return {self._output: answer}

    def close(self) -> None:
        """Free the weights."""
        self._model.close()

    def _pass(self, batch: TokenBatch) -> NDArray[np.float32]:
        facts = self._facts
        arrays = arrays_of(facts.kind, batch, self._spec.pad_id, typed=facts.types > 0)
        return self._model.run(arrays, batch.rows)

    def _enter_lane(self) -> None:
        """The number of threads of the libraries is kept per calling thread, so every lane says it once."""
        if not getattr(self._lane, "is_set_up", False):
            torch.set_num_threads(self._threads)
            self._lane.is_set_up = True


def check(batch: TokenBatch, facts: Facts) -> None:
    """Refuse what is out of bounds: compiled code ends the process by it, or spoils the GPU for all that follows.

    Raises:
        ValueError: a token, a type or a row's length is not among the model's.
    """
    least, most = int(batch.ids.min()), int(batch.ids.max())
    if least < 0 or most >= facts.vocabulary:
        msg = f"token id {least if least < 0 else most} is not among the model's {facts.vocabulary}"
        raise ValueError(msg)
    longest = int(batch.lengths.max())
    if facts.positions is not None and longest > facts.positions:
        msg = f"a row of {longest} tokens is longer than the model's {facts.positions} positions"
        raise ValueError(msg)
    if facts.types and batch.type_ids is not None:
        least, most = int(batch.type_ids.min()), int(batch.type_ids.max())
        if least < 0 or most >= facts.types:
            msg = f"type {least if least < 0 else most} of a token is not among the model's {facts.types}"
            raise ValueError(msg)


def split(lengths: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Rows of one batch, in the forward passes that cost least: attention pays for padding up to the longest row.

    Args:
        lengths: (rows,) tokens of each row.

    Returns:
        Row numbers of each pass, the longest rows first; a single pass if that is best.
    """
    if _padding_cost(lengths, int(lengths.max())) <= _PASS_COST:
        return [np.arange(len(lengths))]
    order = np.argsort(-lengths, kind="stable")
    passes, left = [], lengths[order]
    while (cut := _best_cut(left)) is not None:
        passes.append(order[:cut])
        order, left = order[cut:], left[cut:]
    return [*passes, order]


def _best_cut(lengths: NDArray[np.int64]) -> int | None:
    """Where to cut rows that are sorted from long to short, so that most is saved; None if no cut pays."""
    width = int(lengths[0])
    # From each row to the last: how many, and how many tokens.
    rows, tokens = np.arange(len(lengths), 0, -1), np.cumsum(lengths[::-1])[::-1]
    together = (rows * width - tokens) * (_CELL_COST + _CELL_COST_BY_WIDTH * width)
    apart = (rows * lengths - tokens) * (_CELL_COST + _CELL_COST_BY_WIDTH * lengths)
    saved = together - apart
    best = int(np.argmax(saved))
    return best if saved[best] > _PASS_COST else None


def _padding_cost(lengths: NDArray[np.int64], width: int) -> float:
    return float((len(lengths) * width - int(lengths.sum())) * (_CELL_COST + _CELL_COST_BY_WIDTH * width))
