"""The `torch-compile` backend: a model compiled ahead of time by Inductor, with its weights frozen in, on the CPU.

Everything is compiled when the model is loaded, or was at an earlier start; what serves is a shared object without a
compiler, so that nothing can be compiled in the middle of traffic. Where the `torch` backend's own kernels compute a
whole model in one call there is nothing that compiling would make faster, and they run it.
"""

import logging
from typing import ClassVar, Self

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
from provider.backends.protocol import BackendOptions, BackendTraits
from provider.backends.torch.backend import TorchBackend, TorchOptions
from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.native import native_library
from provider.backends.torch.packed_bert import PackedBert
from provider.backends.torch_compile.cache import CompileJob, compiled
from provider.backends.torch_compile.graphs import output_of, shapes_of
from provider.backends.torch_compile.passes import CompiledPasses
from provider.backends.torch_compile.shared_object import CompiledModel
from provider.domain import DENSE, SCORES, ModelSpec, Outputs, TokenBatch
from provider.errors import BackendUnavailable
from provider.store import Store

_log = logging.getLogger(__name__)


@frozen
class TorchCompileOptions:
    """Options of the `torch-compile` backend.

    Attributes:
        cache_folder: where compiled models are kept; None for `emb-provider/torch-compile` in the user's cache.
    """

    cache_folder: str | None = None


class TorchCompileBackend:
    """Compiled PyTorch; own kernels, where they are faster, or compiled without padding, for the BERT family."""

    Options: ClassVar[type] = TorchCompileOptions
    concurrent: ClassVar[bool] = True
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE, SCORES})

    def __init__(self, model: CompiledPasses | TorchBackend, traits: BackendTraits) -> None:
        """Use `load`."""
        self._model, self.traits = model, traits

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """See `ChecksOptions.check_options`."""
        _choose(options)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Take the compiled model from the cache, or compile it, or leave it to our kernels; see `Backend.load`."""
        device, dtype = _choose(options)
        native = _native(spec, options) if dtype == "float32" else None
        if native is not None:
            _log.info("model %r is not compiled: our own kernels run all of it", spec.name)
            return cls(native, evolve(native.traits, extra={**native.traits.extra, "compiled": False}))
        store = evolve(Store.at(options.own.cache_folder, "torch-compile"), is_private=True)
        with compiled(CompileJob(spec, dtype, options.threads), store) as artefact:
            facts = artefact.facts
            try:
                model = CompiledModel(
                    artefact.path, inputs=len(shapes_of(facts.kind, typed=facts.types > 0)), width=output_of(spec)[1]
                )
            except OSError as exc:
                msg = f"the compiled model cannot be loaded: {exc}. Remove {artefact.path.parent} to compile it again"
                raise BackendUnavailable(msg) from exc
        traits = BackendTraits(
            device=device,
            dtype=dtype,
            padding_is_free=facts.kind == "packed",
            batch_tokens=batch_tokens(device),
            extra={
                "packed": facts.kind == "packed",
                "linear": facts.linear,
                "compiled": True,
                "cached": artefact.is_cached,
                "compile_seconds": facts.seconds,
            },
        )
        return cls(CompiledPasses(spec, model, facts, options.threads), traits)

    @memory_errors()
    def run(self, batch: TokenBatch) -> Outputs:
        """See `Backend.run`."""
        return self._model.run(batch)

    def close(self) -> None:
        """Free the weights; see `Backend.close`."""
        self._model.close()


def _native(spec: ModelSpec, options: BackendOptions) -> TorchBackend | None:
    """The model by the `torch` backend, if its own kernels are what computes it fastest there; else None."""
    if native_library() is None or not _is_of_bert(spec):
        return None
    backend = TorchBackend.load(spec, evolve(options, own=TorchOptions()))
    if backend.traits.extra["linear"] == "native":
        return backend
    backend.close()
    return None


def _is_of_bert(spec: ModelSpec) -> bool:
    checkpoint = BertCheckpoint.open(spec.folder, torch.float32)
    return checkpoint is not None and PackedBert.supports(checkpoint)


def _choose(options: BackendOptions) -> tuple[str, DtypeName]:
    have = Accelerators.present(torch)
    device = choose_device(options.device, have)
    if device != "cpu":
        msg = f"torch-compile runs on the CPU only, not on {device!r}: set device to cpu, or use backend torch"
        raise BackendUnavailable(msg)
    return device, choose_dtype(options.dtype, device, have)
