"""What torch finds on this machine, and whether the kernels of our own can be compiled."""

import os
import shlex
import shutil

import torch
from attrs import frozen

from provider.backends.kit.devices import Accelerators
from provider.backends.torch.native import native_library


@frozen
class CudaDevice:
    """A CUDA device; `memory_bytes` is all that it has."""

    name: str
    memory_bytes: int


@frozen
class TorchMachine:
    """What torch finds.

    Attributes:
        version: of torch, with its build.
        capability: the instructions that its CPU kernels use, as it calls them.
        cuda_build: the CUDA version that it was built for; None for a build without.
        cuda: devices that it can use.
        has_mps: whether Apple's Metal is usable.
        compiler: path of the C compiler for the kernels; None without one.
        has_kernels: whether the kernels were compiled and give right numbers.
    """

    version: str
    capability: str
    cuda_build: str | None
    cuda: tuple[CudaDevice, ...]
    has_mps: bool
    compiler: str | None
    has_kernels: bool

    @classmethod
    def here(cls) -> "TorchMachine":
        """Ask torch; compiles the kernels where that was not done before."""
        have = Accelerators.present(torch)
        known = [torch.cuda.get_device_properties(number) for number in range(have.cuda_devices)]
        return cls(
            version=str(torch.__version__),
            capability=torch.backends.cpu.get_cpu_capability(),
            cuda_build=torch.version.cuda,
            cuda=tuple(CudaDevice(each.name, each.total_memory) for each in known),
            has_mps=have.has_mps,
            compiler=shutil.which((shlex.split(os.environ.get("CC", "")) or ["cc"])[0]),
            has_kernels=native_library() is not None,
        )
