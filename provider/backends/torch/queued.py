"""CUDA: all work of a model is queued on one stream, whichever thread queues it.

While one batch runs, another lane prepares the next. A batch's arrays go to the device in one copy out of pinned
memory, and results come back into pinned memory; neither stops the queue. What is asked of CUDA is a `Runtime`, so that
all of this runs in tests without one.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

import numpy as np
import torch
from attrs import define, field, frozen

from provider.backends.torch.device import Array, Captured, Function

_ALIGNMENT = 16
_SMALLEST_BUFFER = 1 << 16
# More copies than this under way: wait for one instead of taking more pinned memory.
_MOST_BUFFERS = 16
# Libraries set themselves up in the first passes, which a graph must not contain.
_PASSES_BEFORE_CAPTURE = 2


class Event(Protocol):
    """A mark in the queue; see `torch.cuda.Event`."""

    def record(self) -> None:
        """Set the mark behind all that is queued."""

    def query(self) -> bool:
        """Whether the queue has come past it."""

    def synchronize(self) -> None:
        """Wait until it has."""


class Runtime(Protocol):
    """What a `QueuedDevice` asks of CUDA.

    Attributes:
        device: where tensors are.
    """

    device: torch.device

    def stream(self) -> AbstractContextManager[Any]:
        """Within it this thread queues its work on the model's stream."""

    def pinned(self, size: int) -> torch.Tensor:
        """So many bytes of page-locked host memory, uint8."""

    def event(self) -> Event:
        """A new one."""

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Queue a copy from pinned memory to the device."""

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Queue a copy from the device to pinned memory."""

    def capture(self, function: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """Capture what `function` queues: what queues it again, and the tensor that it fills each time.

        Raises:
            RuntimeError: it does what a graph cannot hold, such as waiting for a result.
        """

    def close(self) -> None:
        """Wait for all that is queued, and give cached memory back."""


@frozen
class _Layout:
    """Where arrays lie behind one another in a buffer: shape, dtype, first and last byte of each."""

    places: tuple[tuple[tuple[int, ...], np.dtype[Any], int, int], ...]
    size: int

    @classmethod
    def of(cls, arrays: Sequence[Array]) -> Self:
        places, end = [], 0
        for each in arrays:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = start + each.nbytes
            places.append((each.shape, each.dtype, start, end))
        return cls(tuple(places), max(end, 1))

    def fill(self, buffer: torch.Tensor, arrays: Sequence[Array]) -> None:
        """Write arrays of these shapes and dtypes into host memory."""
        memory = buffer.numpy()
        for (shape, dtype, start, end), each in zip(self.places, arrays, strict=True):
            memory[start:end].view(dtype).reshape(shape)[...] = each

    def tensors(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        """Views of a buffer."""
        return [buffer[start:end].view(_TORCH[dtype]).view(shape) for shape, dtype, start, end in self.places]


_TORCH = {
    np.dtype(np.int64): torch.int64,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.bool_): torch.bool,
}


@define(eq=False)
class _Buffer:
    """Pinned memory, and when the last copy out of it or into it is complete."""

    memory: torch.Tensor
    event: Event


@define(eq=False)
class _Buffers:
    """Pinned memory that is used again: a buffer only when its last copy is complete."""

    runtime: Runtime
    _free: list[_Buffer] = field(factory=list)
    _lock: threading.Lock = field(factory=threading.Lock)

    def take(self, size: int) -> _Buffer:
        """A buffer of at least `size` bytes, which nothing reads or writes."""
        with self._lock:
            large = [each for each in self._free if len(each.memory) >= size]
            found = next((each for each in large if each.event.query()), None)
            if found is None and len(large) >= _MOST_BUFFERS:
                found = large[0]
            if found is not None:
                self._free.remove(found)
        if found is None:
            return _Buffer(
                self.runtime.pinned(max(_SMALLEST_BUFFER, 1 << (size - 1).bit_length())), self.runtime.event()
            )
        found.event.synchronize()
        return found

    def give(self, buffer: _Buffer) -> None:
        """Behind `event.record`: it may be taken when that is complete."""
        with self._lock:
            self._free.append(buffer)


@define(eq=False)
class Fetched:
    """A result on its way to the host."""

    _source: torch.Tensor
    _buffer: _Buffer
    _buffers: _Buffers

    def wait(self) -> Array:
        """Wait for it; a copy. To be called once."""
        self._buffer.event.synchronize()
        like = torch.empty(0, dtype=self._source.dtype).numpy().dtype
        bytes_ = self._buffer.memory[: self._source.nbytes].numpy()
        array = bytes_.view(like).reshape(self._source.shape).copy()
        self._buffers.give(self._buffer)
        return array


class QueuedDevice:
    """A device whose work is queued on one stream; see the module."""

    is_cpu = False
    has_varlen = True
    # One prepares its batch while that of the other runs.
    lanes = 2

    def __init__(self, name: str, runtime: Runtime) -> None:
        """Take over a runtime of its own; `name` is shown to users."""
        self.name, self.place = name, runtime.device
        self._runtime, self._buffers = runtime, _Buffers(runtime)
        self._graphs = threading.Lock()

    def work(self) -> AbstractContextManager[Any]:
        """This thread queues on the model's stream."""
        return self._runtime.stream()

    def put(self, arrays: Sequence[Array]) -> list[torch.Tensor]:
        """Queued, in one copy; the arrays may change afterwards."""
        layout = _Layout.of(arrays)
        target = torch.empty(layout.size, dtype=torch.uint8, device=self.place)
        self._upload(layout, arrays, target)
        return layout.tensors(target)

    def get(self, tensor: torch.Tensor) -> Array:
        """Waits for what is queued before."""
        return self.fetch(tensor).wait()

    def fetch(self, tensor: torch.Tensor) -> Fetched:
        """Queue the copy of a tensor."""
        source = tensor.contiguous()
        buffer = self._buffers.take(source.nbytes)
        self._runtime.download(buffer.memory[: source.nbytes], source.view(-1).view(torch.uint8))
        buffer.event.record()
        return Fetched(source, buffer, self._buffers)

    def capture(self, function: Function, example: Sequence[Array]) -> Captured:
        """Capture `function` of tensors shaped as the arrays of `example`, with which it is tried first."""
        layout = _Layout.of(example)
        inputs = torch.empty(layout.size, dtype=torch.uint8, device=self.place)
        self._upload(layout, example, inputs)
        tensors = layout.tensors(inputs)
        for _ in range(_PASSES_BEFORE_CAPTURE):
            function(tensors)
        replay, output = self._runtime.capture(lambda: function(tensors))

        def run(arrays: Sequence[Array], rows: int) -> Array:
            # The graph's inputs and outputs are at the same place each time, and graphs share their memory: what one
            # run queues stands together in the queue.
            with self._graphs:
                self._upload(layout, arrays, inputs)
                replay()
                fetched = self.fetch(output[:rows])
            return fetched.wait()

        return Captured(run)

    def close(self) -> None:
        """Wait for all that is queued, and give cached memory back."""
        self._runtime.close()

    def _upload(self, layout: _Layout, arrays: Sequence[Array], target: torch.Tensor) -> None:
        buffer = self._buffers.take(layout.size)
        layout.fill(buffer.memory, arrays)
        self._runtime.upload(target, buffer.memory[: layout.size])
        buffer.event.record()
        self._buffers.give(buffer)


class CudaRuntime:
    """`Runtime` by torch.cuda. It was never run on a card."""

    def __init__(self, device: torch.device) -> None:
        """Make a stream on `device`."""
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._pool: Any = None

    def stream(self) -> AbstractContextManager[Any]:
        """Sets the current device, too."""
        return torch.cuda.stream(self._stream)

    def pinned(self, size: int) -> torch.Tensor:
        """Held for good: it is slow to make."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def event(self) -> Event:
        """One whose `synchronize` sleeps instead of spinning, as other threads need the cores."""
        event: Event = torch.cuda.Event(blocking=True)
        return event

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """See `Runtime.upload`."""
        target.copy_(source, non_blocking=True)

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """See `Runtime.download`."""
        target.copy_(source, non_blocking=True)

    def capture(self, function: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """Graphs of one model share memory; other models may serve meanwhile."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # The outer context puts the current stream back, which torch does not do after a failure.
        with (
            torch.cuda.stream(self._stream),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            output = function()
        return graph.replay, output

    def close(self) -> None:
        """See `Runtime.close`."""
        with torch.cuda.device(self.device):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
