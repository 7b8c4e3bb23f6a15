"""CUDA as torch's backends see it, on the CPU: copies arrive late, and what no card would do is an error."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from attrs import define, field
from torch.utils._python_dispatch import TorchDispatchMode

from provider.backends.kit.devices import Accelerators
from provider.backends.protocol import Memory
from provider.backends.torch.device import Device, PlainDevice
from provider.backends.torch.queued import QueuedDevice

# Bytes of memory that nothing has been copied to.
UNSET = 0xFB
_WAITING = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "repeat_interleave")


class NoWaiting(TorchDispatchMode):
    """Operators that wait for a result fail, as within a graph."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _WAITING:
            msg = f"operation not permitted when stream is capturing: {func}"
            raise RuntimeError(msg)
        return func(*args, **(kwargs or {}))


@define(eq=False)
class FakeEvent:
    """A mark in a `FakeRuntime`'s queue, which nobody reaches without waiting."""

    runtime: "FakeRuntime"
    mark: int = 0

    def record(self) -> None:
        self.runtime.check_thread()
        self.mark = self.runtime.queued

    def query(self) -> bool:
        return self.runtime.completed >= self.mark

    def synchronize(self) -> None:
        self.runtime.complete(self.mark)


@define(eq=False)
class FakeRuntime:
    """A `Runtime` whose copies are complete when an event is waited for, and not before.

    Attributes:
        graphs: whether there are any.
        uploads: copies to the device.
        downloads: copies from it.
        waits: how often somebody waited for what was not complete.
        captures: graphs.
        replays: of all graphs.
        buffers: of pinned memory that were made.
        queued: copies.
        completed: of these.
    """

    graphs: bool = True
    uploads: int = 0
    downloads: int = 0
    waits: int = 0
    captures: int = 0
    replays: int = 0
    buffers: int = 0
    queued: int = 0
    completed: int = 0
    is_capturing: bool = False
    is_closed: bool = False
    device: torch.device = field(factory=lambda: torch.device("cpu"))
    _pending: list[tuple[int, Callable[[], None]]] = field(factory=list)
    _lock: Any = field(factory=threading.RLock)
    _lane: threading.local = field(factory=threading.local)

    @contextmanager
    def stream(self) -> Iterator[None]:
        depth = getattr(self._lane, "depth", 0)
        self._lane.depth = depth + 1
        try:
            yield
        finally:
            self._lane.depth = depth

    def check_thread(self) -> None:
        assert getattr(self._lane, "depth", 0), "work is queued on another stream than the model's"
        assert not self.is_capturing, "a graph cannot hold this"

    def pinned(self, size: int) -> torch.Tensor:
        self.buffers += 1
        return torch.full((size,), UNSET, dtype=torch.uint8)

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.check_thread()
        target.copy_(source)
        content = source.clone()

        def complete() -> None:
            assert torch.equal(source, content), "staging memory was written before its copy was complete"

        self.uploads += 1
        self._queue(complete)

    def download(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.check_thread()
        target.fill_(UNSET)
        content = source.clone()

        def complete() -> None:
            assert (target == UNSET).all(), "memory was written before the copy into it was complete"
            target.copy_(content)

        self.downloads += 1
        self._queue(complete)

    def capture(self, function: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        self.check_thread()
        if not self.graphs:
            msg = "operation not permitted when stream is capturing"
            raise RuntimeError(msg)
        self.is_capturing = True
        try:
            with NoWaiting():
                output = function()
        finally:
            self.is_capturing = False
        # Nothing has run yet.
        output.fill_(float("nan") if output.is_floating_point() else -1)
        self.captures += 1

        def replay() -> None:
            self.check_thread()
            self.replays += 1
            output.copy_(function())

        return replay, output

    def close(self) -> None:
        self.is_closed = True

    def complete(self, mark: int) -> None:
        """The queue comes to `mark`."""
        assert not self.is_capturing, "a graph cannot hold this"
        with self._lock:
            self.waits += mark > self.completed
            self.completed = max(self.completed, mark)
            due = [work for at, work in self._pending if at <= mark]
            self._pending = [each for each in self._pending if each[0] > mark]
            for work in due:
                work()

    def _queue(self, complete: Callable[[], None]) -> None:
        with self._lock:
            self.queued += 1
            self._pending.append((self.queued, complete))


def varlen_attn(  # noqa: PLR0917 - torch's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`torch.nn.attention.varlen.varlen_attn` by definition, and what its kernel asks of its arguments."""
    for each in (query, key, value):
        assert each.dtype in {torch.float16, torch.bfloat16}
        assert each.stride(-1) == 1
        assert each.shape[-1] % 8 == 0
        assert each.shape[-1] <= 256
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa or query.shape[1] == key.shape[1]
    # A test may look; a model may not.
    with torch.utils._python_dispatch._disable_current_modes():
        ends = cu_seq_q.tolist()
    assert (ends[0], ends[-1], max_q) == (0, len(query), max_k)
    context = torch.full_like(query, float("nan"))
    for start, end in pairwise(ends):
        length = end - start
        assert 0 <= length <= max_q
        if not length:
            continue
        queries, keys, values = (each[start:end].float().transpose(0, 1) for each in (query, key, value))
        apart = torch.arange(length)[None, :] - torch.arange(length)[:, None]
        left, right = (length if side < 0 else side for side in window_size)
        context[start:end] = torch.nn.functional.scaled_dot_product_attention(
            *(queries, keys, values),
            attn_mask=(apart >= -left) & (apart <= right),
            scale=scale,
            enable_gqa=enable_gqa,
        ).transpose(0, 1)
    return context


def install(patch: pytest.MonkeyPatch, make: Callable[[], FakeRuntime] = FakeRuntime) -> list[FakeRuntime]:
    """Let this machine have a CUDA device; returned are the runtimes of the models that are loaded from now on."""
    runtimes: list[FakeRuntime] = []

    def open_device(name: str) -> Device:
        if not name.startswith("cuda"):
            return PlainDevice(torch.device(name))
        runtimes.append(make())
        return QueuedDevice(name, runtimes[-1])

    have = Accelerators(cuda_devices=1, cuda_has_bfloat16=True)
    patch.setattr(Accelerators, "present", lambda _: have)
    for backend in ("torch", "torch_compile"):
        patch.setattr(f"provider.backends.{backend}.backend.open_device", open_device)
        patch.setattr(f"provider.backends.{backend}.backend.memory_of", lambda name: Memory(name, 0, 1 << 34))
    patch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    patch.setattr("torch.cuda.is_current_stream_capturing", lambda: any(each.is_capturing for each in runtimes))
    return runtimes
