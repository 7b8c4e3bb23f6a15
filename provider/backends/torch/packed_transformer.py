"""transformers' models over rows without padding: see `packed_attention`.

No list says which architectures run so. A model is tried when it is loaded: a few rows one behind the other must give
what each gives alone. Models whose attention does not go through transformers' interface (MPNet, T5, DeBERTa) or whose
tokens mix outside of attention (convolutions, Fourier transforms) fail that, and run padded.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from provider.backends.torch.blocks import Block, pooled
from provider.backends.torch.device import Array, Device
from provider.backends.torch.given_states import given, is_close, take_states, tensor_of
from provider.backends.torch.linear import Step
from provider.backends.torch.packed_attention import PACKED, Bands, Pass
from provider.backends.torch.packed_rows import Cut, Rows, alike, equal, last_tokens
from provider.backends.torch.scores import PackedScorer, ScoreModel
from provider.domain import Ids, ModelSpec, PoolingMode, ScoreTask, SparseTask, TokenBatch

# A few tokens of filling behind the last row: with every number of tokens a shape of its own, the memory of oneDNN's
# kernels and of the allocator would go on growing for thousands of batches.
_TOKENS_MULTIPLE = 16
# Lengths of the rows that are tried. The second has a padding token within.
_TRIAL_LENGTHS = (5, 5, 9)
# A trial of more tokens than positions, if there are no more than these.
_MOST_TRIED = 16_384

Places = Callable[[Ids, NDArray[np.int64]], NDArray[np.int64]]
"""From the token ids of rows, one behind the other, and the number of tokens of each to their `position_ids`."""


class PackedTransformer:
    """An encoder of transformers that needs no padding. Safe from several threads.

    Attributes:
        failure: of its trial.
    """

    def __init__(self, model: PreTrainedModel, places: Places, device: Device) -> None:
        """Use `of`."""
        self._model = model
        self.failure: str | None = None
        self._base = cast("PreTrainedModel", model.base_model)
        self._places = places
        self._device = device
        self._has_varlen = device.has_varlen and model.dtype != torch.float32
        accepted = inspect.signature(self._base.forward).parameters
        self._takes_types = "token_type_ids" in accepted
        self._more = {"use_cache": False} if "use_cache" in accepted else {}
        # Some classes have tables by position, of which they take as many entries as there are tokens.
        self._most_tokens = int(getattr(model.config, "max_position_embeddings", 0) or 0)
        # By the length of the longest row.
        self._bands: dict[int, Sequence[tuple[int, int]]] = {}

    @classmethod
    def of(cls, model: torch.nn.Module, spec: ModelSpec, device: Device) -> Self | str:
        """Take over a loaded model if it computes without padding what it computes with it; else the reason why not.

        Args:
            model: with or without a head. If it is taken over, it runs by `emb_packed` alone.
            spec: its padding token is tried within a row.
            device: where the model is.
        """
        name = type(model).__name__
        if not isinstance(model, PreTrainedModel):
            return f"{name} is no model of transformers"
        if model.config._attn_implementation != "sdpa":  # noqa: SLF001
            return f"attention is {model.config._attn_implementation}, and rows without padding need sdpa"  # noqa: SLF001
        # On a GPU the many small calls for the groups of a batch would cost more than the padding, and the one kernel
        # for all rows takes half precision only.
        if not device.is_cpu and (not device.has_varlen or model.dtype == torch.float32):
            return "without padding a model runs on the CPU, or on CUDA in half precision"
        base = cast("PreTrainedModel", model.base_model)
        if "position_ids" not in inspect.signature(base.forward).parameters:
            return f"{name} takes no position_ids"
        batch = _trial(spec, int(model.config.get_text_config().vocab_size))
        with torch.inference_mode():
            alone = _alone(base, batch, "last_hidden_state")
            logits = None if model is base else _alone(model, batch, "logits")
            model.set_attn_implementation(PACKED)
            failures: list[str] = []
            for places in (_from_zero, _behind_padding(spec.pad_id)):
                packed = cls(model, places, device)
                if packed._gives(alone, batch) and (logits is None or take_states(model, alone, logits, batch)):
                    packed._try_more_tokens(alone, batch)
                    return packed
                failures += [packed.failure] if packed.failure is not None else []
        model.set_attn_implementation("sdpa")
        why = f" ({'; '.join(dict.fromkeys(failures))})" if failures else ""
        return f"a trial of {name} without padding failed, or gave other outputs than with it{why}"

    def pooled(self, batch: TokenBatch, modes: Sequence[PoolingMode]) -> torch.Tensor:
        """Run the encoder and pool: (rows, len(modes) * hidden_size) float32, in the order of the batch."""
        return pooled(self.blocks(batch), modes, self._device)

    def blocks(self, batch: TokenBatch) -> list[Block]:
        """Run the encoder: hidden states of all rows, those of one length together, or of like length on CUDA."""
        return self._blocks(batch, alike if self._uses_varlen(batch) else equal)

    def equal_blocks(self, batch: TokenBatch) -> list[Block]:
        """As `blocks`, always those of one length together."""
        return self._blocks(batch, equal)

    def last_tokens(self, batch: TokenBatch) -> list[Block]:
        """As `blocks`, of each row's last token alone."""
        return self._blocks(batch, last_tokens)

    def inputs_of(self, ids: Array, lengths: Array, types: Array | None) -> list[Array]:
        """The arrays for `states` of a rectangle, whose padding becomes rows; see `PaddedEncoder.inputs_of`."""
        rows, width = ids.shape
        starts, ends = np.arange(rows, dtype=np.int32) * width, np.empty(2 * rows + 1, np.int32)
        ends[0:-1:2], ends[1::2], ends[-1] = starts, starts + lengths, rows * width
        places = self._places(ids.reshape(-1), np.full(rows, width))
        arrays: list[Array] = [ids.reshape(1, -1), places[None], ends]
        if self._takes_types:
            arrays.append(np.zeros((1, rows * width), np.int64) if types is None else types.reshape(1, -1))
        return arrays

    def states(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Hidden states (rows, width, hidden_size) by the tensors of `inputs_of`; only where there is `varlen_attn`."""
        ids, places, ends, *types = tensors
        rows = (len(ends) - 1) // 2
        width = ids.shape[1] // rows
        states = self._run([ids, places, *types], ((0, rows, width),), (None,), ends, width)
        return states.view(rows, width, -1)

    def to_logits(self, states: torch.Tensor) -> torch.Tensor:
        """From hidden states (rows, width, hidden_size) of rows without padding to the logits of the model's head."""
        ids = torch.zeros(states.shape[:2], dtype=torch.int64, device=states.device)
        with given(states):
            logits: torch.Tensor = self._model(input_ids=ids).logits
        return logits

    def _uses_varlen(self, batch: TokenBatch) -> bool:
        return self._has_varlen and batch.unattended is None

    def _parts(self, batch: TokenBatch) -> list[tuple[NDArray[np.int64], TokenBatch]]:
        """Rows that run together: their places in the batch, and a batch of them."""
        if not self._most_tokens or batch.tokens <= self._most_tokens:
            return [(np.arange(batch.rows), batch)]
        parts: list[list[int]] = [[]]
        tokens = 0
        for place in np.argsort(batch.lengths, kind="stable"):
            length = int(batch.lengths[place])
            tokens += length
            if parts[-1] and tokens > self._most_tokens:
                parts.append([])
                tokens = length
            parts[-1].append(int(place))
        return [(np.array(part), batch.take(np.array(part))) for part in parts]

    def _blocks(self, batch: TokenBatch, cut: Callable[[Rows], Sequence[Cut]]) -> list[Block]:
        blocks: list[Block] = []
        for places, part in self._parts(batch):
            rows = Rows.of(part)
            inputs, filling = self._inputs(part, rows)
            cuts, masks = cut(rows), rows.masks()
            ends = [rows.ends(filling)] if self._uses_varlen(part) else []
            kept = rows.kept(part.skips, max(each.width for each in cuts))
            gathered = [each.cells for each in cuts if each.cells is not None]
            # One copy for all of them.
            tensors = iter(
                self._device.put([*inputs, *ends, *(each for each in masks if each is not None), *kept, *gathered])
            )
            arguments = [next(tensors) for _ in inputs]
            of_rows = next(tensors) if ends else None
            seen = [None if mask is None else next(tensors) for mask in masks]
            lengths, skips = next(tensors), next(tensors)
            states = self._run(arguments, rows.groups, seen, of_rows, max(rows.longest, filling))
            for each in cuts:
                found = (
                    states[each.start : each.start + each.rows * each.width]
                    if each.cells is None
                    else states[next(tensors)]
                )
                of_block = slice(each.first, each.first + each.rows)
                hidden = found.view(each.rows, each.width, -1)
                blocks.append(Block(places[rows.order[of_block]], hidden, lengths[of_block], skips[of_block]))
        return blocks

    def _inputs(self, batch: TokenBatch, rows: Rows) -> tuple[list[Array], int]:
        """What the model takes, (1, tokens) int64 each, and how many tokens of filling there are."""
        filling = -batch.tokens % _TOKENS_MULTIPLE
        cells = rows.cells_in(batch)

        def filled(values: Array) -> Array:
            array = np.zeros((1, len(values) + filling), np.int64)
            array[0, : len(values)] = values
            return array

        ids = batch.ids[cells]
        arrays = [filled(ids), filled(self._places(ids, rows.lengths))]
        if self._takes_types:
            arrays.append(filled(np.zeros(len(ids)) if batch.type_ids is None else batch.type_ids[cells]))
        return arrays, filling

    def _run(
        self,
        inputs: Sequence[torch.Tensor],
        groups: Sequence[tuple[int, int, int]],
        seen: Sequence[torch.Tensor | None],
        ends: torch.Tensor | None,
        widest: int,
    ) -> torch.Tensor:
        """Hidden states (tokens, hidden_size) of `inputs`, (1, tokens) each; the others are those of `Pass`."""
        arguments = dict(zip(("input_ids", "position_ids", "token_type_ids"), inputs, strict=False))
        longest = groups[-1][2]
        bands = Bands(self._bands.get(longest, ()))
        with Pass(tuple(groups), seen, ends, widest, bands).current():
            states: torch.Tensor = self._base(**arguments, **self._more).last_hidden_state
        self._bands[longest] = bands.made
        return states[0]

    def _gives(self, alone: Sequence[torch.Tensor], batch: TokenBatch) -> bool:
        """Whether the rows of `batch` have these hidden states."""
        try:
            blocks = self.equal_blocks(batch)
        except Exception as exc:  # noqa: BLE001 - whatever a class fails by, it runs padded
            self.failure = " ".join(f"{type(exc).__name__}: {exc}".split())
            return False
        found = {int(place): state for block in blocks for place, state in zip(block.rows, block.states, strict=True)}
        return all(is_close(found[i], states) for i, states in enumerate(alone))

    def _try_more_tokens(self, alone: Sequence[torch.Tensor], batch: TokenBatch) -> None:
        """On a GPU, whose batches are large, see whether there may be more tokens than positions in a pass."""
        if not self._has_varlen or not 0 < self._most_tokens <= _MOST_TRIED:
            return
        most, self._most_tokens = self._most_tokens, 0
        times = most // batch.tokens + 1
        rows = [batch.row(i) for i in range(batch.rows)] * times
        if not self._gives([*alone] * times, TokenBatch.of_rows(rows)):
            self._most_tokens = most


def without_padding(
    model: torch.nn.Module, spec: ModelSpec, device: Device
) -> tuple[PackedTransformer | PackedScorer | str, Step | None]:
    """What runs a loaded model without padding, and what turns hidden states into logits of a masked language model.

    Instead of the former the reason, where the model has to run padded.
    """
    encoder = PackedTransformer.of(model, spec, device)
    if isinstance(encoder, str):
        return encoder, None
    task = spec.find(ScoreTask)
    if task is None or task.kind == "pooled":
        sparse = spec.find(SparseTask)
        is_masked_lm = sparse is not None and sparse.kind == "splade"
        return encoder, encoder.to_logits if is_masked_lm else None
    scorer = ScoreModel(model, task)

    def head(ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        with given(states):
            logits: torch.Tensor = scorer(ids)
        return logits

    # A causal model answers behind the last token.
    blocks = encoder.last_tokens if task.kind == "logits" else encoder.equal_blocks
    return PackedScorer(blocks, head, device), None


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
    return [getattr(model(input_ids=tensor_of(batch.row(i), device)), output)[0] for i in range(batch.rows)]


def _from_zero(ids: Ids, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _behind_padding(pad_id: int) -> Places:
    """RoBERTa's positions: from the padding token's on, which padding tokens keep."""

    def places(ids: Ids, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        counted = np.not_equal(ids, pad_id).astype(np.int64)
        until = np.cumsum(counted)
        firsts = np.cumsum(lengths) - lengths
        before = until[firsts] - counted[firsts]
        found: NDArray[np.int64] = (until - np.repeat(before, lengths)) * counted + pad_id
        return found

    return places
