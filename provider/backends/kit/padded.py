"""The padded runner: a backend over an engine that takes a rectangle of ids, and gives hidden states or logits."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from provider.backends.kit.devices import choose_name, memory_errors
from provider.backends.kit.head import Head
from provider.backends.kit.pooling import pool
from provider.backends.protocol import BackendOptions, BackendTraits, NoOptions
from provider.domain import DENSE, SCORES, DenseTask, ModelSpec, Outputs, ScoreTask, TokenBatch
from provider.errors import BackendUnavailable, InvalidModel

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""What an engine may take, by the names of transformers; each is (rows, width) int64."""

Engine = Callable[..., NDArray[np.float32]]
"""Called with the arrays of its inputs, by place: hidden states (rows, width, hidden_size), or for classifiers logits
(rows, labels). What stands on padding does not matter. The array is read before the next call from the same thread."""


class PaddedBackend:
    """Runs batches over a padded rectangle, pools, and applies the head, in numpy.

    A subclass has a `load` that ends in `cls(spec, engine, traits)`, and says what differs of the class attributes.

    Attributes:
        devices: names that `model.device` may have beside `auto`, which is the first.
        dtypes: the same for `model.dtype`.
    """

    Options: ClassVar[type] = NoOptions
    concurrent: ClassVar[bool] = True
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE})
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)

    def __init__(
        self,
        spec: ModelSpec,
        engine: Engine,
        traits: BackendTraits,
        *,
        inputs: Sequence[str] = INPUTS[:2],
        multiple_of: int = 1,
    ) -> None:
        """Take a loaded engine.

        Args:
            spec: of the model.
            engine: dropped by `close`.
            traits: see `BackendTraits`.
            inputs: names of what the engine takes, out of `INPUTS`, in its order.
            multiple_of: widths are rounded up to a multiple of this, where each new shape costs time.
        """
        self.traits = traits
        self._spec, self._inputs, self._multiple_of = spec, tuple(inputs), multiple_of
        self._engine: Engine | None = engine
        self._dense = spec.find(DenseTask)
        self._head = None if self._dense is None else Head.load(spec)

    @classmethod
    def choose(cls, options: BackendOptions) -> tuple[str, str]:
        """Device and dtype for what the configuration says.

        Raises:
            BackendUnavailable: it is none of `devices` or `dtypes`.
        """
        return choose_name("device", options.device, cls.devices), choose_name("dtype", options.dtype, cls.dtypes)

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """See `ChecksOptions.check_options`."""
        cls.choose(options)

    @classmethod
    def check_model(cls, spec: ModelSpec) -> None:
        """Refuse a model that no padded engine runs; for the start of `load`, before weights are read.

        Raises:
            BackendUnavailable: it is a reranker whose scores are logits of a language model.
        """
        task = spec.find(ScoreTask)
        if task is not None and task.kind != "classifier":
            msg = (
                f"the model {spec.name!r} is a reranker that is a language model ({spec.architecture}), and this "
                "backend runs those with a classification head only; use backend torch"
            )
            raise BackendUnavailable(msg)

    @memory_errors()
    def run(self, batch: TokenBatch) -> Outputs:
        """See `Backend.run`."""
        engine = self._engine
        if engine is None:
            msg = "the backend is closed"
            raise RuntimeError(msg)
        ids, mask = batch.padded(pad_id=self._spec.pad_id, multiple_of=self._multiple_of)
        types = None if batch.type_ids is None else batch.padded_types(multiple_of=self._multiple_of)
        answer = engine(*arrays_of(self._inputs, ids, mask, types))
        if SCORES in batch.outputs:
            return {SCORES: np.array(answer, np.float32)}
        if self._head is None or self._dense is None:
            msg = f"the backend computes no {', '.join(sorted(batch.outputs))}"
            raise RuntimeError(msg)
        return {DENSE: self._head(pool(np, answer, batch.lengths, batch.skips, self._dense.pooling))}

    def close(self) -> None:
        """Drop the engine; see `Backend.close`."""
        self._engine = None


def arrays_of(
    names: Sequence[str], ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64] | None = None
) -> list[NDArray[Any]]:
    """The arrays for an engine with the inputs `names`, in their order, C-contiguous.

    Args:
        names: out of `INPUTS`.
        ids: (rows, width), filled on the right.
        mask: (rows, width), 1 where a token stands.
        types: (rows, width), the text of a pair that each token belongs to; None where all are 0.

    Raises:
        ValueError: there are types, and the engine does not take them.
    """
    if types is not None and "token_type_ids" not in names:
        msg = "the engine takes no token_type_ids, which tell the texts of a pair apart"
        raise ValueError(msg)
    arrays: dict[str, NDArray[Any]] = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in names:
        arrays["token_type_ids"] = np.zeros_like(ids) if types is None else types
    if "position_ids" in names:
        arrays["position_ids"] = np.ascontiguousarray(np.broadcast_to(np.arange(ids.shape[1]), ids.shape))
    return [arrays[name] for name in names]


def check_interface(spec: ModelSpec, what: str, inputs: Sequence[str], shape: Sequence[object], *, advice: str) -> None:
    """See that a ready-made graph takes ids and gives what the model's task needs, so that the rest is ours.

    Args:
        spec: of the model.
        what: what the graph is called in messages.
        inputs: names of its inputs.
        shape: of its output; a size that varies is no integer.
        advice: what to do, for the end of messages.

    Raises:
        InvalidModel: an input is not among `INPUTS`, or the output is neither (rows, width, hidden_size) nor for
            classifiers (rows, labels).
    """
    strange = [name for name in inputs if name not in INPUTS]
    if strange or "input_ids" not in inputs:
        msg = f"{what} asks for the inputs {', '.join(inputs)}; supported are {', '.join(INPUTS)}; {advice}"
        raise InvalidModel(msg)
    task = spec.find(ScoreTask)
    if task is not None and spec.tokenizer.type_ids and "token_type_ids" not in inputs:
        msg = f"{what} takes no token_type_ids, by which this model tells the texts of a pair apart; {advice}"
        raise InvalidModel(msg)
    wanted = ("rows", "width", spec.hidden_size) if task is None else ("rows", len(task.labels))
    if len(shape) != len(wanted) or (isinstance(shape[-1], int) and shape[-1] != wanted[-1]):
        kind = "hidden states" if task is None else "logits"
        got, expected = (f"({', '.join(map(str, each))})" for each in (shape, wanted))
        msg = f"{what} gives an output of shape {got}, expected {kind} {expected}; {advice}"
        raise InvalidModel(msg)
