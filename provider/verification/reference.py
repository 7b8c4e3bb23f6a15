"""What every configuration is measured against: the model by transformers' own code, eager, in float32, on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from provider.backends import Backend, BackendOptions, find_backend, own_options
from provider.backends.kit.routed import class_for
from provider.cores import available_cores
from provider.engine.loading import ModelParts
from provider.engine.neighbours import batching
from provider.engine.plan import LanePlan
from provider.errors import InvalidModel
from provider.models.weights import has_weights
from provider.settings import ModelSettings
from provider.verification.runner import ModelRunner

BACKEND, DEVICE, DTYPE = "torch", "cpu", "float32"
# Nothing of ours in the way: no packing, and attention written out step by step.
_OPTIONS = {"attention": "eager", "packed": False}


def is_reference(settings: ModelSettings, backend: Backend) -> bool:
    """Whether a loaded configuration is the very one that serves as reference."""
    kind = find_backend(BACKEND)
    return (
        type(backend) is kind
        and (backend.traits.device, backend.traits.dtype) == (DEVICE, DTYPE)
        and own_options(BACKEND, kind, settings.options) == _own(kind)
    )


@contextmanager
def loaded_reference(parts: ModelParts, settings: ModelSettings, *, one_lane: bool = False) -> Iterator[ModelRunner]:
    """The reference of a loaded model, with the same files and tokenizer; its memory is freed afterwards.

    Args:
        parts: the model.
        settings: of the model.
        one_lane: one forward pass at a time on all cores; else as the service would run it.

    Raises:
        BackendError, InvalidModel: it cannot be loaded, or there are no weights for it beside the backend's own files.
    """
    folder = parts.spec.folder
    if not has_weights(folder):
        msg = (
            f"{folder} has no model.safetensors, and the reference is computed from them; verify a copy of the model "
            "that has them, or leave model.verify_at_start out"
        )
        raise InvalidModel(msg)
    kind = find_backend(BACKEND)
    plain = attrs.evolve(settings, lanes=1 if one_lane else None, threads_per_lane=None, max_batch_tokens=None)
    plan = LanePlan.of(plain, is_concurrent=kind.concurrent, cores=available_cores())
    options = BackendOptions(device=DEVICE, dtype=DTYPE, threads=plan.threads, own=_own(kind))
    backend = class_for(kind, parts.spec).load(parts.spec, options)
    try:
        neighbours, limits = batching(backend, parts.tokenizer, parts.spec, plain)
        loaded = attrs.evolve(parts, backend=backend, plan=plan, neighbours=neighbours, limits=limits)
        yield ModelRunner.of(loaded, attrs.evolve(plain, backend=BACKEND))
    finally:
        backend.close()


def _own(kind: type[Backend]) -> Any:  # noqa: ANN401 - the class is the backend's
    return own_options(BACKEND, kind, _OPTIONS)
