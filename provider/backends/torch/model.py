"""Which encoder runs a model on a device: without padding where both allow it, over padded rectangles otherwise."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, frozen

from provider.backends.kit.devices import DtypeName
from provider.backends.kit.sparse import TokenWeights
from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.blocks import StateEncoder
from provider.backends.torch.device import Device
from provider.backends.torch.int8 import quantize_encoder
from provider.backends.torch.linear import Step, plain_linear
from provider.backends.torch.linear_layers import LaterLinear, use_fastest_linear
from provider.backends.torch.native import is_at_hand
from provider.backends.torch.packed_bert import PackedBert
from provider.backends.torch.padded import PaddedEncoder
from provider.backends.torch.scores import (
    ClassificationHead,
    PackedClassifier,
    PackedScorer,
    PaddedScorer,
    ScoreModel,
)
from provider.backends.torch.static import StaticTable, load_static
from provider.backends.torch.token_outputs import bert_logits
from provider.domain import ModelSpec, ScoreTask, SparseTask

if TYPE_CHECKING:
    from provider.backends.torch.backend import TorchOptions

Encoder = StateEncoder | PackedClassifier | PackedScorer | PaddedScorer | StaticTable | TokenWeights
"""What turns tokens into hidden states, pooled vectors or logits."""

_PACKED_ATTENTION = ("auto", "sdpa")
_SWITCHED_OFF = "options.packed is false"


@frozen(eq=False)
class LaterBert:
    """Weights of an encoder that can be made anew with kernels of our own; `helped` as in `PackedBert`."""

    checkpoint: BertCheckpoint
    helped: bool


@frozen(eq=False)
class LoadedModel:
    """A model without the steps behind its encoder.

    Attributes:
        to_logits: from hidden states to logits of a masked language model; None where there are none, or the states
            are these logits.
        dtype: what it computes in.
        padding_is_free: as in `BackendTraits`.
        details: `BackendTraits.extra`.
        later: what can be made faster once kernels have been compiled; see `improved`.
    """

    encoder: Encoder
    to_logits: Step | None
    dtype: str
    padding_is_free: bool
    details: Mapping[str, Any]
    later: LaterLinear | LaterBert | None = None


def load_model(
    spec: ModelSpec,
    own: "TorchOptions",
    device: Device,
    dtype: DtypeName,
    choose: Callable[[str], DtypeName],
    *,
    int8: bool,
    helped: bool,
) -> LoadedModel:
    """Load the safetensors in `spec.folder` onto `device`.

    Args:
        spec: of the model.
        own: attention, and whether it may run without padding.
        device: where to.
        dtype: for models whose files do not matter for it; float32 with `int8`.
        choose: from the checkpoint's dtype to that of others.
        int8: whether linear layers run in int8.
        helped: whether a pass that is the only one may use a second core.

    Raises:
        BackendUnavailable: it cannot run so.
        InvalidModel: its files are damaged or do not fit.
    """
    if spec.encoder == "static":
        table = load_static(spec, getattr(torch, dtype), device, int8=int8)
        return LoadedModel(table, None, dtype, padding_is_free=True, details={"static": True})
    # Until kernels have been compiled, torch runs the model.
    waits = device.is_cpu and dtype == "float32" and not int8 and not is_at_hand()
    if own.packed and own.attention in _PACKED_ATTENTION and device.is_cpu:
        checkpoint = BertCheckpoint.open(spec.folder, getattr(torch, dtype))
        encoder, to_logits = _packed(spec, checkpoint, int8=int8, measured=not waits, helped=helped)
        if encoder is not None:
            details = {"attention": "sdpa", "packed": True, **_details(encoder)}
            later = LaterBert(checkpoint, helped) if waits and checkpoint is not None else None
            return LoadedModel(encoder, to_logits, dtype, padding_is_free=True, details=details, later=later)
    return _of_transformers(spec, own, device, choose, int8=int8)


def improved(loaded: LoadedModel, spec: ModelSpec) -> Iterator[tuple[Callable[[], None], LoadedModel]]:
    """Steps that make a model in use faster, and what it is after each; see `GetsFaster.improvements`."""
    if isinstance(loaded.later, LaterLinear):
        for step in loaded.later.steps():
            yield step, evolve(loaded, details={**loaded.details, "linear": loaded.later.name})
    elif loaded.later is not None:
        checkpoint, helped = loaded.later.checkpoint, loaded.later.helped
        encoder, to_logits = _packed(spec, checkpoint, int8=False, measured=True, helped=helped)
        if encoder is not None:
            details = {**loaded.details, **_details(encoder)}
            yield (lambda: None), evolve(loaded, encoder=encoder, to_logits=to_logits, details=details, later=None)


def _of_transformers(
    spec: ModelSpec, own: "TorchOptions", device: Device, choose: Callable[[str], DtypeName], *, int8: bool
) -> LoadedModel:
    from provider.backends.torch.loading import load_encoder  # noqa: PLC0415
    from provider.backends.torch.packed_transformer import without_padding  # noqa: PLC0415

    model, dtype, attention = load_encoder(spec, choose, own.attention, str(device.place))
    more: dict[str, Any] = {}
    later = None
    if device.is_cpu and not int8:
        later = LaterLinear(model) if dtype == "float32" and not is_at_hand() else None
        more = {"linear": use_fastest_linear(model) if later is None else later.name}
    found, to_logits = without_padding(model, spec, device) if own.packed else (_SWITCHED_OFF, None)
    if int8:
        more = {"linear": "int8", "int8_speedup": quantize_encoder(spec, model)}
    if not isinstance(found, str):
        details = {"attention": "sdpa", "packed": True, **more}
        return LoadedModel(found, to_logits, dtype, padding_is_free=True, details=details, later=later)
    details = {"attention": attention, "packed": False, **more, "padded_because": found}
    scores = spec.find(ScoreTask)
    encoder: Encoder = PaddedEncoder(model, spec, device)
    if scores is not None and scores.kind != "pooled":
        encoder = PaddedScorer(ScoreModel(model, scores), device, pad_id=spec.pad_id)
    return LoadedModel(encoder, to_logits, dtype, padding_is_free=False, details=details, later=later)


def _packed(
    spec: ModelSpec, checkpoint: BertCheckpoint | None, *, int8: bool, measured: bool, helped: bool
) -> tuple[PackedBert | PackedClassifier | None, Step | None]:
    """The encoder without padding, and its masked-LM head if the model needs it; None for what cannot run so."""
    scores = spec.find(ScoreTask)
    if scores is not None and scores.kind == "logits":
        return None, None
    if checkpoint is None or not PackedBert.supports(checkpoint):
        return None, None
    if scores is not None and scores.kind == "classifier":
        head = ClassificationHead.of(checkpoint, len(scores.labels))
        encoder = PackedBert(checkpoint, typed=True, int8=int8, measured=measured, helped=helped)
        return (None if head is None else PackedClassifier(encoder, head)), None
    encoder = PackedBert(checkpoint, typed=scores is not None, int8=int8, measured=measured, helped=helped)
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
