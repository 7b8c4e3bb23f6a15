"""OpenVINO models with one output, compiled."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray


class Compiled:
    """A compiled model. Any number of threads may run it; each has an inference request of its own.

    Attributes:
        inputs: their names, in order.
    """

    def __init__(self, model: openvino.Model, device: str = "CPU", config: Mapping[str, Any] | None = None) -> None:
        """Compile `model` for `device`, as OpenVINO calls it; without `config` in float32."""
        self.inputs = tuple(each.any_name for each in model.inputs)
        self._compiled = openvino.compile_model(model, device, dict(config or {"INFERENCE_PRECISION_HINT": "f32"}))
        self._thread = threading.local()

    def __call__(self, *inputs: "NDArray[Any]") -> NDArray[np.float32]:
        """The output, valid until the next call from this thread. The interpreter lock is free meanwhile."""
        request = getattr(self._thread, "request", None)
        if request is None:
            request = self._thread.request = self._compiled.create_infer_request()
        # No copies: neither array outlives the call.
        output: NDArray[np.float32] = request.infer(list(inputs), share_inputs=True, share_outputs=True)[0]
        return output
