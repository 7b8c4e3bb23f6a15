"""transformers' models over rows without padding: see `packed_attention`.

No list says which architectures run so. A model is tried when it is loaded: a few rows one behind the other must give
what each gives alone. Models whose attention does not go through transformers' interface (MPNet, T5, DeBERTa) or whose
tokens mix outside of attention (convolutions, Fourier transforms) fail that, and run padded.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from provider.backends.torch.blocks import Block, pooled
from provider.backends.torch.linear import Step
from provider.backends.torch.packed_attention import PACKED, Rows
from provider.backends.torch.scores import PackedScorer, ScoreModel
from provider.domain import Ids, ModelSpec, PoolingMode, ScoreTask, SparseTask, TokenBatch

# A few tokens of filling behind the last row: with every number of tokens a shape of its own, the memory of oneDNN's
# kernels and of the allocator would go on growing for thousands of batches.
_TOKENS_MULTIPLE = 16
# Lengths of the rows that are tried. The second has a padding token within.
_TRIAL_LENGTHS = (5, 5, 9)
# The largest difference that rounding explains, as a share of the outputs' length.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 4e-2, torch.bfloat16: 4e-2}

Places = Callable[[Ids], NDArray[np.int64]]
"""From a row's token ids to its `position_ids`."""


class PackedTransformer:
    """An encoder of transformers that needs no padding. Safe from several threads."""

    def __init__(self, model: PreTrainedModel, places: Places) -> None:
        """Use `of`."""
        self._model = model
        self._base = cast("PreTrainedModel", model.base_model)
        self._places = places
        self._device = model.device
        accepted = inspect.signature(self._base.forward).parameters
        self._takes_types = "token_type_ids" in accepted
        self._more = {"use_cache": False} if "use_cache" in accepted else {}
        # Some classes have tables by position, of which they take as many entries as there are tokens.
        self._most_tokens = int(getattr(model.config, "max_position_embeddings", 0) or 0)

    @classmethod
    def of(cls, model: torch.nn.Module, spec: ModelSpec) -> Self | str:
        """Take over a loaded model if it computes without padding what it computes with it; else the reason why not.

        Args:
            model: with or without a head. If it is taken over, it runs by `emb_packed` alone.
            spec: its padding token is tried within a row.
        """
        name = type(model).__name__
        if not isinstance(model, PreTrainedModel):
            return f"{name} is no model of transformers"
        if model.config._attn_implementation != "sdpa":  # noqa: SLF001
            return f"attention is {model.config._attn_implementation}, and rows without padding need sdpa"  # noqa: SLF001
        # On a GPU the many small calls for the groups of a batch would cost more than the padding, and the one kernel
        # for all rows takes half precision only.
        if model.device.type != "cpu" and (model.device.type != "cuda" or model.dtype == torch.float32):
            return "without padding a model runs on the CPU, or on CUDA in half precision"
        base = cast("PreTrainedModel", model.base_model)
        if "position_ids" not in inspect.signature(base.forward).parameters:
            return f"{name} takes no position_ids"
        batch = _trial(spec, int(model.config.get_text_config().vocab_size))
        with torch.inference_mode():
            alone = _alone(base, batch, "last_hidden_state")
            logits = None if model is base else _alone(model, batch, "logits")
            model.set_attn_implementation(PACKED)
            for places in (_from_zero, _behind_padding(spec.pad_id)):
                packed = cls(model, places)
                if packed._gives(alone, batch) and (logits is None or _take_states(model, alone, logits, batch)):
                    return packed
        model.set_attn_implementation("sdpa")
        return f"a trial of {name} without padding failed, or gave other outputs than with it"

    def pooled(self, batch: TokenBatch, modes: Sequence[PoolingMode]) -> torch.Tensor:
        """Run the encoder and pool: (rows, len(modes) * hidden_size) float32, in the order of the batch."""
        return pooled(self.blocks(batch), batch, modes)

    def blocks(self, batch: TokenBatch) -> list[Block]:
        """Run the encoder: hidden states of all rows, those of one length together."""
        blocks = []
        for places in self._parts(batch):
            part = batch.take(places)
            rows = Rows.of(part, self._device)
            states, row = self._states(part, rows), 0
            for start, number, width in rows.groups:
                hidden = states[start : start + number * width].view(number, width, -1)
                lengths = torch.full((number,), width, device=self._device)
                blocks.append(Block(places[rows.order[row : row + number]], hidden, lengths))
                row += number
        return blocks

    def to_logits(self, states: torch.Tensor) -> torch.Tensor:
        """From hidden states (rows, width, hidden_size) of rows without padding to the logits of the model's head."""
        ids = torch.zeros(states.shape[:2], dtype=torch.int64, device=states.device)
        with _given(states):
            logits: torch.Tensor = self._model(input_ids=ids).logits
        return logits

    def _parts(self, batch: TokenBatch) -> list[NDArray[np.int64]]:
        """Rows that run together, in order of length."""
        order = np.argsort(batch.lengths, kind="stable")
        if not self._most_tokens or batch.tokens <= self._most_tokens:
            return [order]
        parts: list[list[int]] = [[]]
        tokens = 0
        for place in order:
            length = int(batch.lengths[place])
            tokens += length
            if parts[-1] and tokens > self._most_tokens:
                parts.append([])
                tokens = length
            parts[-1].append(int(place))
        return [np.array(part) for part in parts]

    def _states(self, batch: TokenBatch, rows: Rows) -> torch.Tensor:
        filling = np.zeros(-batch.tokens % _TOKENS_MULTIPLE, np.int64)

        def tensor(parts: Iterable[NDArray[Any]]) -> torch.Tensor:
            return torch.from_numpy(np.concatenate([*parts, filling], dtype=np.int64))[None].to(self._device)

        arguments: dict[str, Any] = {
            "input_ids": tensor(batch.row(i) for i in rows.order),
            "position_ids": tensor(self._places(batch.row(i)) for i in rows.order),
        }
        if self._takes_types:
            types = np.zeros(batch.tokens, np.int32) if batch.type_ids is None else batch.type_ids
            arguments["token_type_ids"] = tensor(types[batch.offsets[i] : batch.offsets[i + 1]] for i in rows.order)
        with rows.current():
            states: torch.Tensor = self._base(**arguments, **self._more).last_hidden_state
        return states[0]

    def _gives(self, alone: Sequence[torch.Tensor], batch: TokenBatch) -> bool:
        """Whether the rows of `batch` have these hidden states."""
        try:
            blocks = self.blocks(batch)
        except Exception:  # noqa: BLE001 - whatever a class fails by, it runs padded
            return False
        found = {int(place): state for block in blocks for place, state in zip(block.rows, block.states, strict=True)}
        return all(_is_close(found[i], states) for i, states in enumerate(alone))


def without_padding(
    model: torch.nn.Module, spec: ModelSpec
) -> tuple[PackedTransformer | PackedScorer | str, Step | None]:
    """What runs a loaded model without padding, and what turns hidden states into logits of a masked language model.

    Instead of the former the reason, where the model has to run padded.
    """
    encoder = PackedTransformer.of(model, spec)
    if isinstance(encoder, str):
        return encoder, None
    task = spec.find(ScoreTask)
    if task is None or task.kind == "pooled":
        sparse = spec.find(SparseTask)
        is_masked_lm = sparse is not None and sparse.kind == "splade"
        return encoder, encoder.to_logits if is_masked_lm else None
    scorer = ScoreModel(model, task)

    def head(ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        with _given(states):
            logits: torch.Tensor = scorer(ids)
        return logits

    return PackedScorer(encoder, head), None


class _Given(torch.nn.Module):
    """In the place of the encoder of a model with a head: it returns the hidden states that are `_given`."""

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__()
        self.base = base

    def forward(self, *_: object, **__: object) -> BaseModelOutputWithPooling:
        states = _STATES.get()
        pooler = getattr(self.base, "pooler", None)
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=None if pooler is None else pooler(states)
        )


_STATES: ContextVar[torch.Tensor] = ContextVar("states")


@contextmanager
def _given(states: torch.Tensor) -> Iterator[None]:
    """In this thread a model that was taken over runs its head alone, on these hidden states."""
    token = _STATES.set(states)
    try:
        yield
    finally:
        _STATES.reset(token)


def _take_states(
    model: PreTrainedModel, states: Sequence[torch.Tensor], logits: Sequence[torch.Tensor], batch: TokenBatch
) -> bool:
    """Put `_Given` into a model with a head; False, with the model as it was, if that does not give these logits."""
    name, base = model.base_model_prefix, cast("PreTrainedModel", model.base_model)
    setattr(model, name, _Given(base))
    try:
        for i, (of_row, expected) in enumerate(zip(states, logits, strict=True)):
            with _given(of_row[None]):
                if not _is_close(model(input_ids=_tensor(batch.row(i), model.device)).logits[0], expected):
                    break
        else:
            return True
    except Exception:  # noqa: BLE001, S110 - as above
        pass
    setattr(model, name, base)
    return False


def _trial(spec: ModelSpec, vocabulary_size: int) -> TokenBatch:
    random = np.random.default_rng(0)
    rows = [random.integers(0, vocabulary_size, length).astype(np.int32) for length in _TRIAL_LENGTHS]
    for row in rows:
        row[row == spec.pad_id] = (spec.pad_id + 1) % vocabulary_size
    rows[1][2] = spec.pad_id
    return TokenBatch.of_rows(rows)


def _alone(model: torch.nn.Module, batch: TokenBatch, output: str) -> list[torch.Tensor]:
    """What `model` gives for each row by itself, without the leading dimension."""
    device = next(model.parameters()).device
    return [getattr(model(input_ids=_tensor(batch.row(i), device)), output)[0] for i in range(batch.rows)]


def _is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    difference = torch.linalg.vector_norm(found.float() - expected.float())
    return bool(difference <= _TOLERANCE[expected.dtype] * torch.linalg.vector_norm(expected.float()))


def _tensor(ids: Ids, device: torch.device) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=device)[None]


def _from_zero(ids: Ids) -> NDArray[np.int64]:
    return np.arange(len(ids))


def _behind_padding(pad_id: int) -> Places:
    """RoBERTa's positions: from the padding token's on, which padding tokens keep."""

    def places(ids: Ids) -> NDArray[np.int64]:
        counted = np.not_equal(ids, pad_id).astype(np.int64)
        return np.cumsum(counted) * counted + pad_id

    return places
