"""The `torch` backend: a transformers model, run eagerly, on CUDA, MPS or the CPU."""

import threading
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from attrs import frozen

from provider.backends.bert_checkpoint import BertCheckpoint
from provider.backends.devices import Accelerators, choose_device, choose_dtype
from provider.backends.pooling import pool
from provider.backends.protocol import BackendOptions, BackendTraits
from provider.backends.torch_head import load_head
from provider.backends.torch_packed import PackedBert
from provider.domain import ModelSpec, TokenBatch, Vectors
from provider.errors import BackendUnavailable

# On the CPU, batches that keep the activations in the cache are fastest; a GPU wants to be filled.
_CPU_BATCH_TOKENS = 512
_ACCELERATOR_BATCH_TOKENS = 16_384

_PACKED_ATTENTION = ("auto", "sdpa")


@frozen
class TorchOptions:
    """Options of the `torch` backend.

    Attributes:
        attention: the attention implementation, as transformers calls them. `auto` is `sdpa` where the architecture
            has it, else `eager`. `flash_attention_2` needs its own package and half precision on CUDA.
        packed: run rows without padding where the model and the device allow it: the BERT family, on the CPU, with
            `sdpa`. False is the plain way for every model.
    """

    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    packed: bool = True


class TorchBackend:
    """Eager PyTorch: without padding for the BERT family on the CPU, over a padded rectangle otherwise."""

    Options: ClassVar[type] = TorchOptions
    concurrent: ClassVar[bool] = True

    def __init__(
        self,
        spec: ModelSpec,
        encoder: PackedBert | torch.nn.Module,
        head: torch.nn.Module,
        traits: BackendTraits,
        threads: int,
    ) -> None:
        """Use `load`."""
        self.traits = traits
        self._spec = spec
        self._encoder: PackedBert | torch.nn.Module | None = encoder
        self._head = head
        self._device = torch.device(traits.device)
        self._threads = threads
        self._lane = threading.local()

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """See `ChecksOptions.check_options`."""
        have = Accelerators.present(torch)
        choose_dtype(options.dtype, choose_device(options.device, have, worker=options.worker), have)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Load the safetensors in `spec.folder` onto the device; see `Backend.load`."""
        have = Accelerators.present(torch)
        device = choose_device(options.device, have, worker=options.worker)
        # Loading and initialising run on this thread.
        torch.set_num_threads(options.threads)
        attention: str = options.own.attention
        dtype = choose_dtype(options.dtype, device, have)
        # On a GPU the many small calls for the groups of a batch would cost more than the padding.
        encoder: PackedBert | torch.nn.Module | None = None
        if options.own.packed and attention in _PACKED_ATTENTION and device == "cpu":
            encoder = _packed(spec, getattr(torch, dtype))
        is_packed = encoder is not None
        try:
            if encoder is None:
                from provider.backends.torch_loading import load_encoder  # noqa: PLC0415 - see `bert_checkpoint`

                encoder, dtype, attention = load_encoder(
                    spec,
                    lambda checkpoint: choose_dtype(options.dtype, device, have, checkpoint_dtype=checkpoint),
                    attention,
                    device,
                )
            head = load_head(spec).to(device)
        except (RuntimeError, AssertionError) as exc:
            msg = f"the model {spec.name!r} does not fit on or run on {device}: {exc}"
            raise BackendUnavailable(msg) from exc
        extra: dict[str, Any] = {"attention": "sdpa" if is_packed else attention, "packed": is_packed}
        if isinstance(encoder, PackedBert):
            extra |= {"linear": encoder.linear, "bfloat16_speedup": encoder.bfloat16_speedup}
        traits = BackendTraits(
            device=device,
            dtype=dtype,
            padding_is_free=is_packed,
            batch_tokens=_CPU_BATCH_TOKENS if device == "cpu" else _ACCELERATOR_BATCH_TOKENS,
            extra=extra,
        )
        return cls(spec, encoder, head, traits, options.threads)

    @torch.inference_mode()
    def embed(self, batch: TokenBatch) -> Vectors:
        """See `Backend.embed`."""
        self._enter_lane()
        if self._encoder is None:
            msg = "the backend is closed"
            raise RuntimeError(msg)
        if isinstance(self._encoder, PackedBert):
            pooled = self._encoder.pooled(batch, self._spec.pooling)
        else:
            pooled = self._padded(self._encoder, batch)
        vectors: Vectors = self._head(pooled).cpu().numpy()
        return np.ascontiguousarray(vectors, np.float32)

    def _padded(self, encoder: torch.nn.Module, batch: TokenBatch) -> torch.Tensor:
        ids, mask = batch.padded(pad_id=self._spec.pad_id)
        lengths = self._on_device(batch.lengths)
        # Equal lengths need no mask, and attention without a mask is faster.
        attention_mask = None if mask.all() else self._on_device(mask)
        hidden = encoder(input_ids=self._on_device(ids), attention_mask=attention_mask).last_hidden_state
        pooled: torch.Tensor = pool(torch, hidden, lengths, self._on_device(batch.skips), self._spec.pooling)
        return pooled

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


def _packed(spec: ModelSpec, dtype: torch.dtype) -> PackedBert | None:
    checkpoint = BertCheckpoint.open(spec.folder, dtype)
    return PackedBert(checkpoint) if checkpoint is not None and PackedBert.supports(checkpoint) else None
