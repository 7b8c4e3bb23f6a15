"""Compiled models that torch calls, on a device with a queue: fixed rectangles as graphs, others over any rectangle.

A package (`torch.export`'s `.pt2`) holds code and weights, and nothing is compiled when it is loaded.
"""

import ctypes
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from provider.backends.kit.devices import is_out_of_memory
from provider.backends.torch.device import Array, Device
from provider.backends.torch.graphs import TOLERANCES, Graphs, Rectangle, filled
from provider.backends.torch_compile.cache import Facts
from provider.backends.torch_compile.graphs import arrays_of, output_of
from provider.backends.torch_compile.passes import check
from provider.domain import DENSE, ModelSpec, Outputs, TokenBatch, Vectors

# Widths are multiples of it, so that memory is used again; tensor cores like it, too.
_WIDTH_MULTIPLE = 16
# All that compiled code says of a failure; torch keeps the reason, such as that memory ran out.
_CALL_FAILED = "API call failed"


class Package:
    """A compiled model's code and weights. Several threads may call `compute`, on one stream."""

    def __init__(self, path: Path, place: str) -> None:
        """Load what was compiled for `place`.

        Raises:
            OSError: it cannot be loaded.
            RuntimeError: there is not enough memory.
        """
        import torch._inductor  # noqa: PLC0415 - the CPU's way does without it

        self._place = torch.device(place)
        index = -1 if self._place.index is None else self._place.index
        self._lock = threading.Lock()
        self._model: Any = None
        try:
            # What it has for several threads waits for results, which no graph can hold.
            self._model = torch._inductor.aoti_load_package(  # noqa: SLF001 - public in its documentation
                str(path), run_single_threaded=True, device_index=index
            )
        except RuntimeError as exc:
            if is_out_of_memory(exc):
                raise
            msg = f"{path} cannot be loaded: {exc}"
            raise OSError(msg) from exc

    def compute(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the graph gives for its inputs, (rows, width) float32, on the device.

        Raises:
            RuntimeError: the forward pass failed, or the model is closed.
        """
        if self._model is None:
            msg = "the model is closed"
            raise RuntimeError(msg)
        with self._lock:
            try:
                answer: torch.Tensor = self._model(*tensors)
            except RuntimeError as exc:
                if _CALL_FAILED not in str(exc):
                    raise
                msg = f"{exc} ({_last_exception()})"
                raise RuntimeError(msg) from exc
        return answer

    def run(self, arrays: Sequence[NDArray[Any]], _rows: int) -> Vectors:
        """As `CompiledModel.run`; waits for the result."""
        return self.compute([torch.tensor(each, device=self._place) for each in arrays]).cpu().numpy()

    def close(self) -> None:
        """Free the weights."""
        self._model = None


def _last_exception() -> str:
    """Why the last call of compiled code on this thread failed."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    what = library.torch_exception_get_what_without_backtrace
    what.restype = ctypes.c_char_p
    return (what() or b"").decode(errors="replace")


class PackagePasses:
    """A package that takes batches. Several threads may call `run` at the same time.

    Attributes:
        graphs: how many rectangles are captured.
    """

    def __init__(
        self, spec: ModelSpec, package: Package, facts: Facts, device: Device, dtype: str, *, graphs: bool
    ) -> None:
        """Take a package over, and capture short batches of a model of vectors; within `device.work`."""
        self._spec, self._package, self._facts, self._device = spec, package, facts, device
        self._output, _ = output_of(spec)
        self._graphs: Graphs | None = None
        if graphs and self._output == DENSE and device.capture is not None:
            self._graphs = Graphs.captured_by(
                *(self, device.capture, self._pass),
                longest=spec.max_tokens,
                tolerance=TOLERANCES[dtype != "float32"],
            )
        self.graphs = 0 if self._graphs is None else len(self._graphs)

    def arrays(self, batch: TokenBatch, rectangle: Rectangle) -> list[Array]:
        """See `RectangleModel.arrays`."""
        ids, lengths, skips, _ = filled(batch, rectangle, self._spec.pad_id)
        return [ids, lengths, skips.astype(np.int32)]

    def vectors(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `RectangleModel.vectors`."""
        return self._package.compute(tensors)

    def run(self, batch: TokenBatch) -> Outputs:
        """As `Backend.run`."""
        check(batch, self._facts)
        with self._device.work(), torch.inference_mode():
            found = None if self._graphs is None else self._graphs.run(batch)
            return {self._output: self._pass(batch) if found is None else found}

    def close(self) -> None:
        """Free weights and graphs."""
        self._graphs = None
        self._package.close()
        self._device.close()

    def _pass(self, batch: TokenBatch) -> Vectors:
        facts = self._facts
        arrays = arrays_of(facts.kind, batch, self._spec.pad_id, typed=facts.types > 0, multiple_of=self._width(batch))
        answer = self._device.get(self._package.compute(self._device.put(arrays)))
        return np.ascontiguousarray(answer, np.float32)

    def _width(self, batch: TokenBatch) -> int:
        """What the width of a rectangle is a multiple of; at the end of the table of positions that of the batch."""
        most, longest = self._facts.positions, int(batch.lengths.max())
        return _WIDTH_MULTIPLE if most is None or longest + _WIDTH_MULTIPLE <= most else 1
