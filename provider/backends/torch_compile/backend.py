"""The `torch-compile` backend: a model compiled ahead of time by Inductor, on the CPU and on CUDA.

Everything is compiled when the model is loaded, or was at an earlier start; what serves has no compiler, so that
nothing can be compiled in the middle of traffic. On the CPU it is a shared object with its weights frozen in; where the
`torch` backend's own kernels compute a whole model in one call there is nothing that compiling would make faster, and
they run it. On CUDA it is a package, whose passes over short batches are captured as graphs; never run on a card.
"""

import logging
from typing import ClassVar, Self

import torch
from attrs import evolve, field, frozen

from provider.backends.kit.devices import (
    Accelerators,
    DtypeName,
    batch_tokens,
    choose_device,
    choose_dtype,
    memory_errors,
)
from provider.backends.protocol import BackendOptions, BackendTraits, Memory
from provider.backends.torch.backend import TorchBackend, TorchOptions
from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.device import Device, memory_of, open_device
from provider.backends.torch.native import native_library
from provider.backends.torch.packed_bert import PackedBert
from provider.backends.torch_compile.cache import Artefact, CompileJob, compiled
from provider.backends.torch_compile.graphs import output_of, shapes_of
from provider.backends.torch_compile.package import Package, PackagePasses
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
        graphs: on CUDA, capture the passes of short batches as graphs when the model is loaded.
    """

    cache_folder: str | None = field(default=None, repr=False)
    graphs: bool = field(default=True, repr=False)


class TorchCompileBackend:
    """Compiled PyTorch; own kernels, where they are faster, or compiled without padding, for the BERT family."""

    Options: ClassVar[type] = TorchCompileOptions
    concurrent: ClassVar[bool] = True
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE, SCORES})

    def __init__(self, model: CompiledPasses | PackagePasses | TorchBackend, traits: BackendTraits) -> None:
        """Use `load`."""
        self._model, self.traits = model, traits

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """See `ChecksOptions.check_options`."""
        _choose(options)

    @classmethod
    def device_memory(cls, options: BackendOptions) -> Memory | None:
        """See `HasDeviceMemory.device_memory`."""
        return memory_of(_choose(options)[0])

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Take the compiled model from the cache, or compile it, or leave it to our kernels; see `Backend.load`."""
        device, dtype = _choose(options, spec)
        store = evolve(Store.at(options.own.cache_folder, "torch-compile"), is_private=True)
        if device != "cpu":
            return cls(*_load_package(spec, options, dtype, open_device(device), store))
        native = _native(spec, options) if dtype == "float32" else None
        if native is not None:
            _log.info("model %r is not compiled: our own kernels run all of it", spec.name)
            return cls(native, evolve(native.traits, extra={**native.traits.extra, "compiled": False}))
        with compiled(CompileJob(spec, dtype, options.threads), store) as artefact:
            facts = artefact.facts
            try:
                model = CompiledModel(
                    artefact.path, inputs=len(shapes_of(facts.kind, typed=facts.types > 0)), width=output_of(spec)[1]
                )
            except OSError as exc:
                raise _not_loaded(artefact, exc) from exc
        traits = BackendTraits(
            device=device,
            dtype=dtype,
            padding_is_free=facts.kind == "packed",
            batch_tokens=batch_tokens(device),
            extra={**_details(artefact), "linear": facts.linear},
        )
        return cls(CompiledPasses(spec, model, facts, options.threads), traits)

    @memory_errors()
    def run(self, batch: TokenBatch) -> Outputs:
        """See `Backend.run`."""
        return self._model.run(batch)

    def close(self) -> None:
        """Free the weights; see `Backend.close`."""
        self._model.close()


def _load_package(
    spec: ModelSpec, options: BackendOptions, dtype: DtypeName, device: Device, store: Store
) -> tuple[PackagePasses, BackendTraits]:
    """The compiled model on a device with a queue."""
    job = CompileJob(spec, dtype, options.threads, form="package", place=str(device.place))
    package = None
    try:
        with compiled(job, store) as artefact, device.work():
            try:
                package = Package(artefact.path, job.place)
            except OSError as exc:
                raise _not_loaded(artefact, exc) from exc
        with device.work(), torch.inference_mode():
            model = PackagePasses(spec, package, artefact.facts, device, dtype, graphs=options.own.graphs)
    except Exception as exc:
        # Whatever it fails by, nothing of it stays on the device: the next try needs the memory.
        if package is not None:
            package.close()
        device.close()
        if not isinstance(exc, RuntimeError):
            raise
        msg = f"the model {spec.name!r} does not fit on or run on {device.name}: {exc}"
        raise BackendUnavailable(msg) from exc
    traits = BackendTraits(
        device=device.name,
        dtype=dtype,
        padding_is_free=False,
        batch_tokens=batch_tokens(device.name),
        extra={**_details(artefact), "graphs": model.graphs},
        lanes=device.lanes,
    )
    return model, traits


def _details(artefact: Artefact) -> dict[str, object]:
    facts = artefact.facts
    return {
        "packed": facts.kind == "packed",
        "compiled": True,
        "cached": artefact.is_cached,
        "compile_seconds": facts.seconds,
    }


def _not_loaded(artefact: Artefact, reason: OSError) -> BackendUnavailable:
    msg = f"the compiled model cannot be loaded: {reason}. Remove {artefact.path.parent} to compile it again"
    return BackendUnavailable(msg)


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


def _choose(options: BackendOptions, spec: ModelSpec | None = None) -> tuple[str, DtypeName]:
    """Device and dtype; where `auto` depends on the checkpoint, by that of `spec`."""
    have = Accelerators.present(torch)
    device = choose_device(options.device, have, worker=options.worker)
    if device == "mps":
        msg = "torch-compile runs on the CPU and on CUDA, not on 'mps': set device to cpu, or use backend torch"
        raise BackendUnavailable(msg)
    if spec is None or device == "cpu":
        return device, choose_dtype(options.dtype, device, have)
    from provider.backends.torch.loading import checkpoint_dtype, read_config  # noqa: PLC0415 - brings transformers

    return device, choose_dtype(options.dtype, device, have, checkpoint_dtype=checkpoint_dtype(read_config(spec)))
