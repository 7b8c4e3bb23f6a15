"""Where a model's tensors are, seen by what computes with them: copies there and back, and captured graphs.

On the CPU and on MPS torch does all of it (`PlainDevice`); on CUDA there is a queue (`queued`).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from attrs import frozen
from numpy.typing import NDArray

from provider.backends.protocol import Memory

Array = NDArray[Any]
Function = Callable[[Sequence[torch.Tensor]], torch.Tensor]
"""From the tensors of some arrays to the result."""


@frozen(eq=False)
class Captured:
    """A captured forward pass.

    Attributes:
        run: from arrays, shaped as those of the example, and a number of rows to the first so many rows of the result.
            Several threads may call it at the same time, within `Device.work`.
    """

    run: Callable[[Sequence[Array], int], Array]


Capture = Callable[[Function, Sequence[Array]], Captured]


class Device(Protocol):
    """Where the tensors of one loaded model are. Several threads may use it at the same time."""

    @property
    def name(self) -> str:
        """As shown to users, such as `cpu`, `mps`, `cuda:0`."""

    @property
    def place(self) -> torch.device:
        """As torch calls it."""

    @property
    def is_cpu(self) -> bool:
        """Whether it is the CPU."""

    @property
    def has_varlen(self) -> bool:
        """Whether `varlen_attn` runs on it, in half precision."""

    @property
    def lanes(self) -> int | None:
        """How many threads keep it busy; None for as many as there are cores."""

    @property
    def capture(self) -> Capture | None:
        """Captures a function of tensors shaped as these arrays, while no other thread uses the device; None for never.

        It raises RuntimeError for a function that does what a graph cannot hold, such as waiting for a result.
        """

    def work(self) -> AbstractContextManager[Any]:
        """Everything that computes on the device runs within it."""

    def put(self, arrays: Sequence[Array]) -> list[torch.Tensor]:
        """Tensors of these contents, shapes and dtypes on the device; they are not written to."""

    def get(self, tensor: torch.Tensor) -> Array:
        """The contents of a tensor, in host memory that is the caller's."""

    def close(self) -> None:
        """Nothing is under way any more: give cached memory back."""


@frozen
class PlainDevice:
    """A device without a queue of our own: the CPU, or MPS."""

    place: torch.device

    @property
    def name(self) -> str:
        """As shown to users."""
        return str(self.place)

    @property
    def is_cpu(self) -> bool:
        """Whether it is the CPU."""
        return self.place.type == "cpu"

    @property
    def has_varlen(self) -> bool:
        """On CUDA alone."""
        return False

    @property
    def lanes(self) -> int | None:
        """On MPS one: a second would only take memory."""
        return None if self.is_cpu else 1

    @property
    def capture(self) -> None:
        """There are no graphs."""
        return

    def work(self) -> AbstractContextManager[Any]:
        """Nothing to do."""
        return nullcontext()

    def put(self, arrays: Sequence[Array]) -> list[torch.Tensor]:
        """On the CPU the arrays themselves, but for read-only ones, which torch cannot express."""
        tensors = [torch.from_numpy(each) if each.flags.writeable else torch.tensor(each) for each in arrays]
        return tensors if self.is_cpu else [each.to(self.place) for each in tensors]

    def get(self, tensor: torch.Tensor) -> Array:
        """On the CPU the tensor itself."""
        array: Array = tensor.cpu().numpy()
        return array

    def close(self) -> None:
        """Give back what torch has cached on MPS."""
        if self.place.type == "mps":
            torch.mps.empty_cache()


CPU = PlainDevice(torch.device("cpu"))


def open_device(name: str) -> Device:
    """The device that `kit.devices.choose_device` has chosen, for one model."""
    if torch.device(name).type != "cuda":
        return PlainDevice(torch.device(name))
    from provider.backends.torch.queued import CudaRuntime, QueuedDevice  # noqa: PLC0415

    return QueuedDevice(name, CudaRuntime(torch.device(name)))


def memory_of(name: str) -> Memory | None:
    """The memory of a device of that name; None for that of the process."""
    if torch.device(name).type != "cuda":
        return None
    # What is free in torch's own cache belongs to no model.
    torch.cuda.empty_cache()
    return Memory(name, torch.cuda.memory_reserved(name), torch.cuda.get_device_properties(name).total_memory)
