"""The rate at which this machine multiplies matrices of given shapes: the yardstick for a backend's forward passes."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

import torch

from provider.backends.torch.linear import WAYS, Step, plain_linear

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class MatmulProbe:
    """Linear layers without a model around them, by whatever is fastest.

    Attributes:
        dtype: what is measured in.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], *, tokens: int, dtype: str, device: str, lanes: int, threads: int
    ) -> None:
        """Make weights, one for each shape.

        Args:
            shapes: (in_features, out_features) of each product.
            tokens: rows of each product: the tokens of a batch.
            dtype: `float32`, `bfloat16` or `float16`; for any other (of a quantised model, say) float32 is measured.
            device: as torch calls it; for any other name the CPU is measured.
            lanes: threads that multiply at the same time, as those of the engine do.
            threads: CPU threads of each.
        """
        self.dtype = dtype if dtype in _DTYPES else "float32"
        self._device = torch.device(device if device.partition(":")[0] in ("cuda", "mps") else "cpu")
        self._lanes, self._threads = lanes, threads
        self._flops = float(sum(2 * tokens * rows * columns for rows, columns in shapes))
        kind, place = _DTYPES[self.dtype], self._device
        weights = [torch.randn(columns, rows, device=place).div(rows**0.5).to(kind) for rows, columns in shapes]
        biases = [torch.zeros(len(weight), dtype=kind, device=place) for weight in weights]
        states = {rows: torch.randn(tokens, rows, device=place).to(kind) for rows, _ in shapes}
        self._inputs = [states[rows] for rows, _ in shapes]
        self._ways = []
        for make in WAYS.values() if self._device.type == "cpu" else [plain_linear]:
            # A release of torch, a processor or a dtype may lack one; never the first.
            with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError):
                way = list(map(make, weights, biases))
                self._once(way)
                self._ways.append(way)

    def flops_per_second(self, seconds: float) -> float:
        """The best way's rate, all lanes together, measured for about `seconds`. Blocks; any thread may call."""
        return max(self._rate(way, seconds / len(self._ways)) for way in self._ways)

    def _rate(self, way: Sequence[Step], seconds: float) -> float:
        rates: list[float] = []
        start = threading.Barrier(self._lanes)
        lanes = [
            threading.Thread(target=self._lane, args=(way, seconds, start, rates.append)) for _ in range(self._lanes)
        ]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        return sum(rates)

    def _lane(
        self, way: Sequence[Step], seconds: float, start: threading.Barrier, tell: Callable[[float], None]
    ) -> None:
        torch.set_num_threads(self._threads)
        # The first time something is multiplied, kernels are made and memory is taken.
        self._once(way)
        start.wait()
        started = time.perf_counter()
        times = 0
        while (spent := time.perf_counter() - started) < seconds or not times:
            self._once(way)
            times += 1
        tell(times * self._flops / spent)

    @torch.inference_mode()
    def _once(self, way: Sequence[Step]) -> None:
        for step, states in zip(way, self._inputs, strict=True):
            step(states)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
