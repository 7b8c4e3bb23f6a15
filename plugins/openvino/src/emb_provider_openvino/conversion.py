"""From a folder's safetensors to an OpenVINO model: transformers' module is traced, and the result is checked."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, cast

import numpy as np
import openvino
from numpy.typing import NDArray

from emb_provider_openvino.compiled import Encoder
from provider.backends import BackendUnavailable, ModelSpec

# What the hidden states of a row may differ by between torch and OpenVINO, as a cosine.
_LEAST_COSINE = 0.9999
# A sliding window or a cache of positions shows at lengths like this at the latest.
_LONGEST_CHECK = 512

HiddenStates = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Ids and mask, both (rows, width), to hidden states, (rows, width, hidden_size)."""


def convert(spec: ModelSpec, threads: int) -> openvino.Model:
    """Load the encoder in `spec.folder` by transformers, and convert it in memory.

    Args:
        spec: which folder.
        threads: CPU threads for torch, whose forward passes are compared with OpenVINO's.

    Returns:
        A model with the inputs `input_ids` and `attention_mask`, int64 (rows, width), and the output hidden states,
        float32 (rows, width, hidden_size). It was compared with the module it comes from.

    Raises:
        InvalidModel: the weights are missing or damaged.
        BackendUnavailable: the architecture is not known, cannot be converted, or computes something else afterwards.
    """
    # torch takes seconds to import, which a start with a converted model at hand does not pay.
    import torch  # noqa: PLC0415

    from provider.backends.torch_loading import load_encoder  # noqa: PLC0415

    class HiddenStatesOnly(torch.nn.Module):
        """Tracing wants tensors out, not a mapping."""

        def __init__(self, encoder: torch.nn.Module) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return hidden

    torch.set_num_threads(threads)
    encoder, *_ = load_encoder(spec, lambda _: "float32", "auto")
    # A decoder's cache of keys and values is for continuing the text.
    cast("Any", encoder).config.use_cache = False
    module = HiddenStatesOnly(encoder).eval()
    # Rows of unlike length: with a mask of ones only, the trace would leave the mask out.
    ids, mask = _rectangle(spec, [7, 4])
    example = (torch.from_numpy(ids), torch.from_numpy(mask))
    try:
        with tracing(), torch.inference_mode():
            # Without torch's own check, which runs twice more what is compared below anyway.
            traced = torch.jit.trace(module, example, check_trace=False)
            model: openvino.Model = openvino.convert_model(traced, input=[([-1, -1], np.int64)] * 2)
        for given, name in zip(model.inputs, ("input_ids", "attention_mask"), strict=True):
            given.get_tensor().set_names({name})
    except Exception as exc:
        msg = (
            f"openvino {version('openvino')} cannot convert the architecture {spec.architecture!r} "
            f"({one_line(exc)}); use the backend torch"
        )
        raise BackendUnavailable(msg) from exc

    def theirs(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            hidden: NDArray[np.float32] = module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return hidden

    _check(spec, theirs, Encoder(model))
    return model


def _check(spec: ModelSpec, theirs: HiddenStates, ours: HiddenStates) -> None:
    """Compare on other shapes than the traced one: what was fixed by tracing shows there."""
    long = min(spec.max_tokens, _LONGEST_CHECK)
    worst = 1.0
    for lengths in ([1], [5, 11, 2], [long, 3], [3, 3]):
        ids, mask = _rectangle(spec, [min(length, spec.max_tokens) for length in lengths])
        a, b = theirs(ids, mask), ours(ids, mask)
        for row, length in enumerate(mask.sum(axis=1)):
            x, y = a[row, :length].ravel().astype(np.float64), b[row, :length].ravel().astype(np.float64)
            cosine = float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
            # NaN counts as different.
            worst = min(worst, cosine) if cosine == cosine else -1.0  # noqa: PLR0124
    if worst < _LEAST_COSINE:
        msg = (
            f"openvino {version('openvino')} does not compute what torch computes for the architecture "
            f"{spec.architecture!r}: cosine {worst:.4f}, expected at least {_LEAST_COSINE}; use the backend torch"
        )
        raise BackendUnavailable(msg)


def _rectangle(spec: ModelSpec, lengths: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Random rows of these lengths, filled up on the right; ids and mask."""
    random = np.random.default_rng(0)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = random.integers(0, spec.vocabulary_size or 2, mask.shape)
    # A padding id inside a row would be padding to models that look for it.
    ids[ids == spec.pad_id] = (spec.pad_id + 1) % (spec.vocabulary_size or 2)
    return np.where(mask == 1, ids, spec.pad_id).astype(np.int64), mask


@contextmanager
def tracing() -> Iterator[None]:
    """Tracing warns of what is checked afterwards, and of torch's own plans for it.

    OpenVINO's converter sets level and handlers of the root logger for itself; the process's own come back.
    """
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            root.setLevel(level)
            root.handlers[:] = handlers


def one_line(exc: Exception) -> str:
    """The first line that says something; OpenVINO's messages begin with places in its source."""
    lines = [line.strip() for line in str(exc).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    text = next(iter(told), type(exc).__name__)
    return text if len(text) <= 200 else f"{text[:200]} …"
