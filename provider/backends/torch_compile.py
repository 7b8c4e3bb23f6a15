"""The `torch-compile` backend: a model compiled ahead of time by Inductor, with its weights frozen in, on the CPU.

Everything is compiled when the model is loaded, or was at an earlier start; what serves is a shared object without a
compiler, so that nothing can be compiled in the middle of traffic.
"""

import threading
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray

from provider.backends.compiled_model import CompiledModel
from provider.backends.devices import Accelerators, DtypeName, choose_device, choose_dtype
from provider.backends.protocol import BackendOptions, BackendTraits
from provider.backends.torch_artefact import Facts, Job, compiled, default_folder
from provider.backends.torch_graphs import INPUTS, arrays_of
from provider.domain import ModelSpec, TokenBatch, Vectors
from provider.errors import BackendUnavailable

_BATCH_TOKENS = 512

# What a cell of padding costs in attention, in tokens, at a width of 0 and for each token of width; and what a forward
# pass costs beyond its tokens. Measured with all-MiniLM-L6-v2; larger models spend less on attention.
_CELL_COST, _CELL_COST_BY_WIDTH, _PASS_COST = 0.02, 0.0007, 16


@frozen
class TorchCompileOptions:
    """Options of the `torch-compile` backend.

    Attributes:
        cache_folder: where compiled models are kept; None for `emb-provider/torch-compile` in the user's cache.
    """

    cache_folder: str | None = None


class TorchCompileBackend:
    """Compiled PyTorch: without padding for the BERT family, over a padded rectangle otherwise."""

    Options: ClassVar[type] = TorchCompileOptions
    concurrent: ClassVar[bool] = True

    def __init__(
        self, spec: ModelSpec, model: CompiledModel, facts: Facts, traits: BackendTraits, threads: int
    ) -> None:
        """Use `load`."""
        self.traits = traits
        self._spec, self._model, self._facts, self._threads = spec, model, facts, threads
        self._lane = threading.local()

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """See `ChecksOptions.check_options`."""
        _choose(options)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Take the compiled model from the cache, or compile it; see `Backend.load`."""
        device, dtype = _choose(options)
        folder = options.own.cache_folder
        cache = default_folder() if folder is None else Path(folder).expanduser()
        with compiled(Job(spec, dtype, options.threads), cache) as artefact:
            facts = artefact.facts
            try:
                model = CompiledModel(artefact.path, inputs=INPUTS[facts.kind], dimension=spec.dimension)
            except OSError as exc:
                msg = f"the compiled model cannot be loaded: {exc}. Remove {artefact.path.parent} to compile it again"
                raise BackendUnavailable(msg) from exc
        traits = BackendTraits(
            device=device,
            dtype=dtype,
            padding_is_free=facts.kind == "packed",
            batch_tokens=_BATCH_TOKENS,
            extra={
                "packed": facts.kind == "packed",
                "linear": facts.linear,
                "cached": artefact.is_cached,
                "compile_seconds": facts.seconds,
            },
        )
        return cls(spec, model, facts, traits, options.threads)

    def embed(self, batch: TokenBatch) -> Vectors:
        """See `Backend.embed`."""
        self._enter_lane()
        self._check(batch)
        if self._facts.kind == "padded":
            return self._run(batch)
        passes = split(batch.lengths)
        if len(passes) == 1:
            return self._run(batch)
        vectors = np.empty((batch.rows, self._spec.dimension), np.float32)
        for rows in passes:
            vectors[rows] = self._run(TokenBatch.of_rows([batch.row(i) for i in rows], batch.skips[rows]))
        return vectors

    def close(self) -> None:
        """Free the weights; see `Backend.close`."""
        self._model.close()

    def _run(self, batch: TokenBatch) -> Vectors:
        return self._model.run(arrays_of(self._facts.kind, batch, self._spec.pad_id), batch.rows)

    def _check(self, batch: TokenBatch) -> None:
        """Compiled code with several threads has no way to report what is out of bounds: it ends the process."""
        facts = self._facts
        least, most = int(batch.ids.min()), int(batch.ids.max())
        if least < 0 or most >= facts.vocabulary:
            msg = f"token id {least if least < 0 else most} is not among the model's {facts.vocabulary}"
            raise ValueError(msg)
        longest = int(batch.lengths.max())
        if facts.positions is not None and longest > facts.positions:
            msg = f"a row of {longest} tokens is longer than the model's {facts.positions} positions"
            raise ValueError(msg)

    def _enter_lane(self) -> None:
        """The number of threads of the libraries is kept per calling thread, so every lane says it once."""
        if not getattr(self._lane, "is_set_up", False):
            torch.set_num_threads(self._threads)
            self._lane.is_set_up = True


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


def _choose(options: BackendOptions) -> tuple[str, DtypeName]:
    have = Accelerators.present(torch)
    device = choose_device(options.device, have)
    if device != "cpu":
        msg = f"torch-compile runs on the CPU only, not on {device!r}: set device to cpu, or use backend torch"
        raise BackendUnavailable(msg)
    return device, choose_dtype(options.dtype, device, have)
