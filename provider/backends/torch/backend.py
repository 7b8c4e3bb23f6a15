"""The `torch` backend: a transformers model, run eagerly, on CUDA, MPS or the CPU."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from attrs import evolve, frozen

from provider.backends.kit.devices import (
    Accelerators,
    DtypeName,
    batch_tokens,
    choose_device,
    choose_dtype,
    memory_errors,
)
from provider.backends.kit.pooling import pool
from provider.backends.kit.sparse import TokenWeights
from provider.backends.protocol import BackendOptions, BackendTraits, Memory
from provider.backends.torch.blocks import Block, StateEncoder, pooled
from provider.backends.torch.device import Device, memory_of, open_device
from provider.backends.torch.graphs import TOLERANCES, EncodedRectangles, Graphs, RectangleEncoder
from provider.backends.torch.head import load_head, load_steps
from provider.backends.torch.int8 import weight_bits
from provider.backends.torch.model import Encoder, LoadedModel, improved, load_model
from provider.backends.torch.scores import PackedClassifier, PackedScorer, PaddedScorer
from provider.backends.torch.static import StaticTable
from provider.backends.torch.token_outputs import TokenHeads
from provider.domain import (
    DENSE,
    MULTI_VECTOR,
    SCORES,
    SPARSE,
    DenseTask,
    ModelSpec,
    Outputs,
    TokenBatch,
    Vectors,
)
from provider.errors import BackendUnavailable

# A table costs next to nothing a token.
_log = logging.getLogger(__name__)

_STATIC_BATCH_TOKENS = 16_384


@frozen
class TorchOptions:
    """Options of the `torch` backend.

    Attributes:
        attention: the attention implementation, as transformers calls them. `auto` is `sdpa` where the architecture
            has it, else `eager`. `flash_attention_2` needs its own package and half precision on CUDA.
        packed: run rows without padding where the model and the device allow it, with `sdpa` on the CPU or in half
            precision on CUDA. False is the plain way for every model.
        graphs: on CUDA, capture the passes of short batches as graphs when the model is loaded.
    """

    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    packed: bool = True
    graphs: bool = True


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
        device: Device,
    ) -> None:
        """Use `load`."""
        self.traits = traits
        self._spec = spec
        self._encoder: Encoder | None = encoder
        self._token_head, self._head, self._heads = token_head, head, heads
        self._device = device
        self._graphs: Graphs | None = None
        self._threads = threads
        self._lane = threading.local()
        self._to_improve: LoadedModel | None = None

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """See `ChecksOptions.check_options`."""
        have = Accelerators.present(torch)
        choose_dtype(options.dtype, choose_device(options.device, have, worker=options.worker), have, has_int8=True)

    @classmethod
    def device_memory(cls, options: BackendOptions) -> Memory | None:
        """See `HasDeviceMemory.device_memory`."""
        name = choose_device(options.device, Accelerators.present(torch), worker=options.worker)
        return memory_of(name)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Load the safetensors in `spec.folder` onto the device; see `Backend.load`."""
        have = Accelerators.present(torch)
        name = choose_device(options.device, have, worker=options.worker)
        # Loading and initialising run on this thread.
        torch.set_num_threads(options.threads)
        _check_attention(spec, options.own.attention)
        dtype = choose_dtype(options.dtype, name, have, has_int8=True)
        is_int8 = dtype == "int8"
        # It is quantised from float32.
        asked, dtype = ("float32", "float32") if is_int8 else (options.dtype, dtype)

        def choose(checkpoint: str) -> DtypeName:
            return choose_dtype(asked, name, have, checkpoint_dtype=checkpoint)

        try:
            device = open_device(name)
            with device.work():
                loaded = load_model(spec, options.own, device, dtype, choose, int8=is_int8, helped=options.cores > 1)
                heads = TokenHeads(spec, loaded.to_logits, device)
                over_tokens = () if spec.pooled is None else spec.pooled.token_head
                token_head = load_steps(over_tokens).to(device.place) if over_tokens else None
                head = load_head(spec).to(device.place)
                traits = BackendTraits(
                    device=name,
                    dtype="int8" if is_int8 else loaded.dtype,
                    padding_is_free=loaded.padding_is_free,
                    batch_tokens=_STATIC_BATCH_TOKENS if spec.encoder == "static" else batch_tokens(name),
                    weights_digest=f"{weight_bits()} bits" if is_int8 else "",
                    extra=loaded.details,
                    lanes=device.lanes,
                )
                made = cls(spec, loaded.encoder, token_head, head, heads, traits, options.threads, device)
                made._to_improve = loaded if loaded.later is not None else None
                if options.own.graphs:
                    made._capture()
        except (RuntimeError, AssertionError) as exc:
            msg = f"the model {spec.name!r} does not fit on or run on {name}: {exc}"
            raise BackendUnavailable(msg) from exc
        return made

    def improvements(self) -> Iterator[Callable[[], None]]:
        """See `GetsFaster.improvements`."""
        loaded, self._to_improve = self._to_improve, None
        if loaded is None:
            return
        # What is fastest is measured on this thread.
        torch.set_num_threads(self._threads)
        for step, after in improved(loaded, self._spec):
            is_same = after.encoder is loaded.encoder
            heads = self._heads if is_same else TokenHeads(self._spec, after.to_logits, self._device)
            yield partial(self._become, step, after, heads)
        _log.info("linear layers of %r run by %s from now on", self._spec.name, self.traits.extra["linear"])

    def _become(self, step: Callable[[], None], after: LoadedModel, heads: TokenHeads) -> None:
        step()
        self._encoder, self._heads = after.encoder, heads
        self.traits = evolve(self.traits, extra=after.details)

    @memory_errors()
    @torch.inference_mode()
    def run(self, batch: TokenBatch) -> Outputs:
        """See `Backend.run`."""
        self._enter_lane()
        if self._encoder is None:
            msg = "the backend is closed"
            raise RuntimeError(msg)
        with self._device.work():
            return self._outputs(self._encoder, batch)

    def _outputs(self, encoder: Encoder, batch: TokenBatch) -> Outputs:
        if isinstance(encoder, PackedClassifier | PackedScorer | PaddedScorer):
            logits = self._device.get(encoder.logits(batch).float())
            return {SCORES: np.ascontiguousarray(logits, np.float32)}
        if isinstance(encoder, TokenWeights):
            return encoder.run(batch, self._spec)
        way = self._spec.pooled
        if isinstance(encoder, StaticTable):
            return {DENSE: self._dense(encoder.pooled(batch))}
        wanted = batch.outputs & {DENSE, SCORES}
        if way is not None and len(wanted) == len(batch.outputs):
            vectors = None if self._graphs is None else self._graphs.run(batch)
            return dict.fromkeys(wanted, self._vectors(encoder, batch, way) if vectors is None else vectors)
        blocks = encoder.blocks(batch)
        outputs = self._heads.run(batch, blocks)
        if way is None or not wanted:
            return outputs
        return {**outputs, **dict.fromkeys(wanted, self._dense(self._pooled(blocks, way)))}

    def _vectors(self, encoder: StateEncoder, batch: TokenBatch, way: DenseTask) -> Vectors:
        if self._token_head is None:
            return self._dense(encoder.pooled(batch, way.pooling))
        return self._dense(self._pooled(encoder.blocks(batch), way))

    def _pooled(self, blocks: Sequence[Block], way: DenseTask) -> torch.Tensor:
        if self._token_head is not None:
            blocks = [evolve(block, states=self._token_head(block.states.float())) for block in blocks]
        return pooled(blocks, way.pooling, self._device)

    def _dense(self, states: torch.Tensor) -> Vectors:
        return np.ascontiguousarray(self._device.get(self._head(states)), np.float32)

    @torch.inference_mode()
    def _capture(self) -> None:
        """Short batches as graphs, where the device has them and the model gives vectors by its states alone."""
        encoder, way, capture = self._encoder, self._spec.pooled, self._device.capture
        if capture is None or way is None or not isinstance(encoder, RectangleEncoder):
            return

        def finish(states: torch.Tensor, lengths: torch.Tensor, skips: torch.Tensor) -> torch.Tensor:
            states = states if self._token_head is None else self._token_head(states.float())
            vectors: torch.Tensor = self._head(pool(torch, states, lengths, skips, way.pooling))
            return vectors

        self._graphs = Graphs.captured_by(
            *(EncodedRectangles(encoder, finish, self._spec.pad_id), capture),
            lambda batch: self._vectors(encoder, batch, way),
            longest=self._spec.max_tokens,
            tolerance=TOLERANCES[self.traits.dtype != "float32"],
        )
        self.traits = evolve(self.traits, extra={**self.traits.extra, "graphs": len(self._graphs)})

    def close(self) -> None:
        """Drop the weights; see `Backend.close`."""
        if self._encoder is not None:
            self._encoder, self._graphs = None, None
            self._head, self._token_head = torch.nn.Identity(), None
            self._device.close()

    def use_threads(self, threads: int) -> None:
        """See `AdjustsThreads.use_threads`."""
        self._threads = threads

    def _enter_lane(self) -> None:
        """The number of OpenMP threads is kept per calling thread, so every lane says it once."""
        if getattr(self._lane, "threads", 0) != self._threads:
            torch.set_num_threads(self._threads)
            self._lane.threads = self._threads


def _check_attention(spec: ModelSpec, attention: str) -> None:
    queries = spec.tokenizer.queries
    if attention == "flash_attention_2" and queries is not None and queries.fill_to and not queries.attends_to_filling:
        msg = (
            f"queries of the model {spec.name!r} are filled up with tokens that no other sees, which flash_attention_2 "
            "leaves out; choose sdpa"
        )
        raise BackendUnavailable(msg)
