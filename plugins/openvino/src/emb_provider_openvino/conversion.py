"""From a folder's safetensors to an OpenVINO model: transformers' module is traced, and the result is checked."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import openvino
from numpy.typing import NDArray

from emb_provider_openvino.compiled import Compiled
from provider.backends import INPUTS, BackendUnavailable, ModelSpec, arrays_of
from provider.domain import ScoreTask

if TYPE_CHECKING:
    import torch

# What the hidden states of a row may differ by between torch and OpenVINO, as a cosine.
_LEAST_COSINE = 0.9999
# The same of a logit.
_MOST_DIFFERENCE = 1e-3
# A sliding window or a cache of positions shows at lengths like this at the latest.
_LONGEST_CHECK = 512

Run = Callable[..., NDArray[np.float32]]
"""The arrays of a model's inputs, (rows, width) int64, to hidden states (rows, width, hidden_size) or logits."""


def convert(spec: ModelSpec, threads: int) -> openvino.Model:
    """Load the encoder or classifier in `spec.folder` by transformers, and convert it in memory.

    Args:
        spec: which folder.
        threads: CPU threads for torch, whose forward passes are compared with OpenVINO's.

    Returns:
        A model with the inputs `input_ids` and `attention_mask`, int64 (rows, width), for classifiers with types of
        tokens also `token_type_ids`. The output, float32, is hidden states (rows, width, hidden_size) or logits (rows,
        labels). It was compared with the module it comes from.

    Raises:
        InvalidModel: the weights are missing or damaged.
        BackendUnavailable: the architecture is not known, cannot be converted, or computes something else afterwards.
    """
    # torch takes seconds to import, which a start with a converted model at hand does not pay.
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    module, names = _module(spec)
    # Rows of unlike length: with a mask of ones only, the trace would leave the mask out.
    example = tuple(map(torch.from_numpy, _inputs(spec, names, [7, 4])))
    try:
        with tracing(), torch.inference_mode():
            # Without torch's own check, which runs twice more what is compared below anyway.
            traced = torch.jit.trace(module, example, check_trace=False)
            model: openvino.Model = openvino.convert_model(traced, input=[([-1, -1], np.int64)] * len(names))
        for given, name in zip(model.inputs, names, strict=True):
            given.get_tensor().set_names({name})
    except Exception as exc:
        msg = (
            f"openvino {version('openvino')} cannot convert the architecture {spec.architecture!r} "
            f"({one_line(exc)}); use the backend torch"
        )
        raise BackendUnavailable(msg) from exc

    def theirs(*arrays: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            answer: NDArray[np.float32] = module(*map(torch.from_numpy, arrays)).numpy()
        return answer

    _check(spec, names, theirs, Compiled(model))
    return model


def _module(spec: ModelSpec) -> "tuple[torch.nn.Module, tuple[str, ...]]":
    """What is traced, with tensors in and out, and the names of its inputs."""
    import torch  # noqa: PLC0415

    from provider.backends.torch.loading import load_encoder  # noqa: PLC0415
    from provider.backends.torch.scores import ScoreModel  # noqa: PLC0415

    class HiddenStatesOnly(torch.nn.Module):
        def __init__(self, encoder: torch.nn.Module) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return hidden

    loaded, *_ = load_encoder(spec, lambda _: "float32", "auto")
    # A decoder's cache of keys and values is for continuing the text.
    cast("Any", loaded).config.use_cache = False
    task = spec.find(ScoreTask)
    if task is None:
        return HiddenStatesOnly(loaded).eval(), INPUTS[:2]
    scored = ScoreModel(loaded, task).eval()
    # A table of one type tells nothing apart.
    return scored, INPUTS[:3] if scored.types > 1 else INPUTS[:2]


def _check(spec: ModelSpec, names: Sequence[str], theirs: Run, ours: Run) -> None:
    """Compare on other shapes than the traced one: what was fixed by tracing shows there."""
    long = min(spec.max_tokens, _LONGEST_CHECK)
    differs = ""
    for lengths in ([1], [5, 11, 2], [long, 3], [3, 3]):
        arrays = _inputs(spec, names, [min(length, spec.max_tokens) for length in lengths])
        answers = [run(*arrays) for run in (theirs, ours)]
        differs = differs or (_unlike_states(arrays[1], *answers) if answers[0].ndim == 3 else _unlike_logits(*answers))
    if differs:
        msg = (
            f"openvino {version('openvino')} does not compute what torch computes for the architecture "
            f"{spec.architecture!r}: {differs}; use the backend torch"
        )
        raise BackendUnavailable(msg)


def _unlike_states(mask: NDArray[np.int64], theirs: NDArray[np.float32], ours: NDArray[np.float32]) -> str:
    """How hidden states differ on tokens; "" if they do not."""
    worst = 1.0
    for row, length in enumerate(mask.sum(axis=1)):
        x, y = theirs[row, :length].ravel().astype(np.float64), ours[row, :length].ravel().astype(np.float64)
        cosine = float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
        # NaN counts as different.
        worst = -1.0 if math.isnan(cosine) else min(worst, cosine)
    return "" if worst >= _LEAST_COSINE else f"cosine {worst:.4f}, expected at least {_LEAST_COSINE}"


def _unlike_logits(theirs: NDArray[np.float32], ours: NDArray[np.float32]) -> str:
    """How logits differ; "" if they do not."""
    worst = float(np.abs(theirs - ours).max())
    # NaN counts as different.
    return "" if worst <= _MOST_DIFFERENCE else f"logits differ by {worst:.1e}, expected at most {_MOST_DIFFERENCE:.0e}"


def _inputs(spec: ModelSpec, names: Sequence[str], lengths: Sequence[int]) -> list[NDArray[np.int64]]:
    """Random rows of these lengths, filled up on the right; types, if wanted, change in the middle of a row."""
    random = np.random.default_rng(0)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = random.integers(0, spec.vocabulary_size or 2, mask.shape)
    # A padding id inside a row would be padding to models that look for it.
    ids[ids == spec.pad_id] = (spec.pad_id + 1) % (spec.vocabulary_size or 2)
    ids = np.where(mask == 1, ids, spec.pad_id).astype(np.int64)
    types = None
    if "token_type_ids" in names:
        types = mask * (np.arange(mask.shape[1]) >= np.array(lengths)[:, None] // 2)
    return arrays_of(names, ids, mask, types)


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
