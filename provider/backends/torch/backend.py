"""The `torch` backend: a transformers model, run eagerly, on CUDA, MPS or the CPU."""

import threading
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from attrs import evolve, frozen

from provider.backends.kit.devices import Accelerators, batch_tokens, choose_device, choose_dtype, memory_errors
from provider.backends.kit.sparse import TokenWeights
from provider.backends.protocol import BackendOptions, BackendTraits
from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.blocks import Block, PackedEncoder, pooled
from provider.backends.torch.head import load_head, load_steps
from provider.backends.torch.int8 import quantize_encoder, weight_bits
from provider.backends.torch.linear import Step, plain_linear, use_fastest_linear
from provider.backends.torch.packed_bert import PackedBert
from provider.backends.torch.scores import (
    ClassificationHead,
    PackedClassifier,
    PackedScorer,
    PaddedScorer,
    ScoreModel,
    takes_types,
)
from provider.backends.torch.static import StaticTable, load_static
from provider.backends.torch.token_outputs import TokenHeads, bert_logits
from provider.domain import (
    DENSE,
    MULTI_VECTOR,
    SCORES,
    SPARSE,
    ModelSpec,
    Outputs,
    ScoreTask,
    SparseTask,
    TokenBatch,
    Vectors,
)
from provider.errors import BackendUnavailable

# A table costs next to nothing a token.
_STATIC_BATCH_TOKENS = 16_384

Encoder = PackedEncoder | PackedClassifier | PackedScorer | PaddedScorer | StaticTable | TokenWeights | torch.nn.Module
"""What turns tokens into hidden states, pooled vectors or logits."""

# 256 MB in float32.
_MOST_LOGITS = 1 << 26
_PACKED_ATTENTION = ("auto", "sdpa")
_SWITCHED_OFF = "options.packed is false"


@frozen
class TorchOptions:
    """Options of the `torch` backend.

    Attributes:
        attention: the attention implementation, as transformers calls them. `auto` is `sdpa` where the architecture
            has it, else `eager`. `flash_attention_2` needs its own package and half precision on CUDA.
        packed: run rows without padding where the model and the device allow it, with `sdpa` on the CPU or in half
            precision on CUDA. False is the plain way for every model.
    """

    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    packed: bool = True


class TorchBackend:
    """Eager PyTorch: without padding where model and device allow it, over a padded rectangle otherwise."""

    Options: ClassVar[type] = TorchOptions
    concurrent: ClassVar[bool] = True
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE, SPARSE, MULTI_VECTOR, SCORES})
    encoders: ClassVar[frozenset[str]] = frozenset({"transformer", "layered", "static"})

    def __init__(  # noqa: PLR0917 - the parts that `load` makes
        self,
        spec: ModelSpec,
        encoder: Encoder,
        token_head: torch.nn.Module | None,
        head: torch.nn.Module,
        heads: TokenHeads,
        traits: BackendTraits,
        threads: int,
    ) -> None:
        """Use `load`."""
        self.traits = traits
        self._spec = spec
        self._encoder: Encoder | None = encoder
        self._token_head, self._head, self._heads = token_head, head, heads
        self._takes_types = isinstance(encoder, torch.nn.Module) and takes_types(encoder)
        self._device = torch.device(traits.device)
        self._threads = threads
        self._lane = threading.local()

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """See `ChecksOptions.check_options`."""
        have = Accelerators.present(torch)
        choose_dtype(options.dtype, choose_device(options.device, have, worker=options.worker), have, has_int8=True)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Load the safetensors in `spec.folder` onto the device; see `Backend.load`."""
        have = Accelerators.present(torch)
        device = choose_device(options.device, have, worker=options.worker)
        # Loading and initialising run on this thread.
        torch.set_num_threads(options.threads)
        attention: str = options.own.attention
        dtype = choose_dtype(options.dtype, device, have, has_int8=True)
        is_int8, is_static = dtype == "int8", spec.encoder == "static"
        # It is quantised from float32.
        asked, dtype = ("float32", "float32") if is_int8 else (options.dtype, dtype)
        encoder: Encoder | None = None
        to_logits: Step | None = None
        more: dict[str, Any] = {}
        _check_attention(spec, attention)
        if options.own.packed and attention in _PACKED_ATTENTION and device == "cpu" and not is_static:
            encoder, to_logits = _packed(spec, getattr(torch, dtype), int8=is_int8)
        is_packed = encoder is not None
        try:
            if is_static:
                encoder = load_static(spec, getattr(torch, dtype), device, int8=is_int8)
            if encoder is None:
                from provider.backends.torch.loading import load_encoder  # noqa: PLC0415
                from provider.backends.torch.packed_transformer import without_padding  # noqa: PLC0415

                model, dtype, attention = load_encoder(
                    spec,
                    lambda checkpoint: choose_dtype(asked, device, have, checkpoint_dtype=checkpoint),
                    attention,
                    device,
                )
                if device == "cpu" and not is_int8:
                    more = {"linear": use_fastest_linear(model)}
                found, to_logits = without_padding(model, spec) if options.own.packed else (_SWITCHED_OFF, None)
                encoder, is_packed = (model, False) if isinstance(found, str) else (found, True)
                if is_int8:
                    more = {"linear": "int8", "int8_speedup": quantize_encoder(spec, model)}
                if isinstance(found, str):
                    more["padded_because"] = found
            scores = spec.find(ScoreTask)
            if scores is not None and scores.kind != "pooled" and isinstance(encoder, torch.nn.Module):
                encoder = PaddedScorer(ScoreModel(encoder, scores), pad_id=spec.pad_id)
            head, heads = load_head(spec).to(device), TokenHeads(spec, to_logits, device)
            over_tokens = () if spec.pooled is None else spec.pooled.token_head
            token_head = load_steps(over_tokens).to(device) if over_tokens else None
        except (RuntimeError, AssertionError) as exc:
            msg = f"the model {spec.name!r} does not fit on or run on {device}: {exc}"
            raise BackendUnavailable(msg) from exc
        extra: dict[str, Any] = {"attention": "sdpa" if is_packed else attention, "packed": is_packed}
        extra = {"static": True} if is_static else extra | more | _details(encoder)
        traits = BackendTraits(
            device=device,
            dtype="int8" if is_int8 else dtype,
            padding_is_free=is_packed or is_static,
            batch_tokens=_STATIC_BATCH_TOKENS if is_static else batch_tokens(device),
            weights_digest=f"{weight_bits()} bits" if is_int8 else "",
            extra=extra,
        )
        return cls(spec, encoder, token_head, head, heads, traits, options.threads)

    @memory_errors()
    @torch.inference_mode()
    def run(self, batch: TokenBatch) -> Outputs:
        """See `Backend.run`."""
        self._enter_lane()
        if self._encoder is None:
            msg = "the backend is closed"
            raise RuntimeError(msg)
        if isinstance(self._encoder, PackedClassifier | PackedScorer | PaddedScorer):
            logits = self._encoder.logits(batch).float().cpu().numpy()
            return {SCORES: np.ascontiguousarray(logits, np.float32)}
        if isinstance(self._encoder, TokenWeights):
            return self._encoder.run(batch, self._spec)
        if isinstance(self._encoder, StaticTable):
            return {DENSE: self._dense(self._encoder.pooled(batch))}
        way = self._spec.pooled
        if isinstance(self._encoder, PackedEncoder):
            if (
                way is not None
                and self._token_head is None
                and len(batch.outputs & {DENSE, SCORES}) == len(batch.outputs)
            ):
                vectors = self._dense(self._encoder.pooled(batch, way.pooling))
                return dict.fromkeys(batch.outputs, vectors)
            blocks = self._encoder.blocks(batch)
        else:
            blocks = self._padded(self._encoder, batch)
        outputs = self._heads.run(batch, blocks)
        if way is None or not batch.outputs & {DENSE, SCORES}:
            return outputs
        if self._token_head is not None:
            blocks = [evolve(block, states=self._token_head(block.states.float())) for block in blocks]
        vectors = self._dense(pooled(blocks, batch, way.pooling))
        return {**outputs, **dict.fromkeys(batch.outputs & {DENSE, SCORES}, vectors)}

    def _dense(self, states: torch.Tensor) -> Vectors:
        return np.ascontiguousarray(self._head(states).cpu().numpy(), np.float32)

    def _padded(self, encoder: torch.nn.Module, batch: TokenBatch) -> list[Block]:
        """The hidden states, or for a masked language model the logits, of which not too many are made at a time."""
        rows = np.arange(batch.rows)
        task = self._spec.find(SparseTask)
        if task is None or task.kind != "splade":
            return [Block(rows, states_of(encoder, *self._inputs(batch)), self._on_device(batch.lengths))]
        step = max(_MOST_LOGITS // (int(batch.lengths.max()) * task.width), 1)
        parts = [(rows[at : at + step], batch.take(rows[at : at + step])) for at in range(0, batch.rows, step)]
        return [
            Block(places, states_of(encoder, *self._inputs(part)), self._on_device(part.lengths))
            for places, part in parts
        ]

    def _inputs(self, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        ids, mask = batch.padded(pad_id=self._spec.pad_id)
        types = None
        if self._takes_types and batch.type_ids is not None:
            types = self._on_device(batch.padded_types())
        # Equal lengths need no mask, and attention without a mask is faster.
        return self._on_device(ids), None if mask.all() else self._on_device(mask), types

    def close(self) -> None:
        """Drop the weights; see `Backend.close`."""
        self._encoder = None
        self._head = torch.nn.Identity()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _on_device(self, array: "np.ndarray[Any, Any]") -> torch.Tensor:
        # A copy: torch cannot express that the batch's arrays are read-only.
        return torch.tensor(array, device=self._device)

    def use_threads(self, threads: int) -> None:
        """See `AdjustsThreads.use_threads`."""
        self._threads = threads

    def _enter_lane(self) -> None:
        """The number of OpenMP threads is kept per calling thread, so every lane says it once."""
        if getattr(self._lane, "threads", 0) != self._threads:
            torch.set_num_threads(self._threads)
            self._lane.threads = self._threads


def states_of(
    encoder: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor | None, types: torch.Tensor | None
) -> torch.Tensor:
    """What a transformers model gives for each token: hidden states, or the logits of a masked language model."""
    more = {} if types is None else {"token_type_ids": types}
    answer = encoder(input_ids=ids, attention_mask=mask, **more)
    states: torch.Tensor = answer.logits if hasattr(answer, "logits") else answer.last_hidden_state
    return states


def _packed(
    spec: ModelSpec, dtype: torch.dtype, *, int8: bool
) -> tuple[PackedBert | PackedClassifier | None, Step | None]:
    """The encoder without padding, and its masked-LM head if the model needs it; None for what cannot run so."""
    scores = spec.find(ScoreTask)
    if scores is not None and scores.kind == "logits":
        return None, None
    checkpoint = BertCheckpoint.open(spec.folder, dtype)
    if checkpoint is None or not PackedBert.supports(checkpoint):
        return None, None
    if scores is not None and scores.kind == "classifier":
        head = ClassificationHead.of(checkpoint, len(scores.labels))
        return (None if head is None else PackedClassifier(PackedBert(checkpoint, typed=True, int8=int8), head)), None
    encoder = PackedBert(checkpoint, typed=scores is not None, int8=int8)
    task = spec.find(SparseTask)
    if task is None or task.kind != "splade":
        return encoder, None
    to_logits = bert_logits(checkpoint, plain_linear if int8 else encoder.make_linear, encoder.activation)
    return (None, None) if to_logits is None else (encoder, to_logits)


def _details(encoder: Encoder) -> dict[str, Any]:
    """What a packed encoder measured when it was made."""
    packed = encoder.encoder if isinstance(encoder, PackedClassifier) else encoder
    if not isinstance(packed, PackedBert):
        return {}
    if packed.int8_speedup is not None:
        return {"linear": packed.linear, "int8_speedup": packed.int8_speedup}
    return {"linear": packed.linear, "bfloat16_speedup": packed.bfloat16_speedup}


def _check_attention(spec: ModelSpec, attention: str) -> None:
    queries = spec.tokenizer.queries
    if attention == "flash_attention_2" and queries is not None and queries.fill_to and not queries.attends_to_filling:
        msg = (
            f"queries of the model {spec.name!r} are filled up with tokens that no other sees, which flash_attention_2 "
            "leaves out; choose sdpa"
        )
        raise BackendUnavailable(msg)
