"""OpenVINO models, compiled: `Compiled` runs any, `Encoder` those that turn ids and mask into hidden states."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

KNOWN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""What an encoder may ask for; everything but the ids follows from the mask."""


class Compiled:
    """A compiled model with one output. Any number of threads may run it; each has an inference request of its own."""

    def __init__(self, model: openvino.Model, device: str = "CPU", config: Mapping[str, Any] | None = None) -> None:
        """Compile `model` for `device`, as OpenVINO calls it; without `config` in float32."""
        self._compiled = openvino.compile_model(model, device, dict(config or {"INFERENCE_PRECISION_HINT": "f32"}))
        self._thread = threading.local()

    def __call__(self, inputs: Sequence["NDArray[Any]"]) -> NDArray[np.float32]:
        """The output, valid until the next call from this thread. The interpreter lock is free meanwhile."""
        request = getattr(self._thread, "request", None)
        if request is None:
            request = self._thread.request = self._compiled.create_infer_request()
        # No copies: neither array outlives the call.
        output: NDArray[np.float32] = request.infer(list(inputs), share_inputs=True, share_outputs=True)[0]
        return output


class Encoder:
    """A compiled encoder, whose inputs are among `KNOWN_INPUTS`."""

    def __init__(self, model: openvino.Model, device: str = "CPU", config: Mapping[str, Any] | None = None) -> None:
        """As `Compiled`."""
        self._names = [each.any_name for each in model.inputs]
        self._compiled = Compiled(model, device, config)

    def __call__(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Run the encoder over a rectangle that is filled on the right.

        Args:
            ids: (rows, width).
            mask: (rows, width), 1 where a token stands.

        Returns:
            Hidden states (rows, width, hidden_size), valid until the next call from this thread.
        """
        return self._compiled(inputs_of(self._names, ids, mask))


def inputs_of(names: Sequence[str], ids: NDArray[np.int64], mask: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """What an encoder with the inputs `names` is given, in their order."""
    known = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in names:
        known["token_type_ids"] = np.zeros_like(ids)
    if "position_ids" in names:
        known["position_ids"] = np.ascontiguousarray(np.broadcast_to(np.arange(ids.shape[1]), ids.shape))
    return [known[name] for name in names]
