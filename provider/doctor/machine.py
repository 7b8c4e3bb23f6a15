"""Facts about this machine: cores, instructions, memory, accelerators, installed backends."""

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import msgspec

import provider
from provider.backends.registry import find_backend, installed_backends
from provider.bench.report import this_machine
from provider.cores import available_cores, processor
from provider.entry_points import distribution
from provider.errors import BackendError
from provider.resident import memory_limit

# What makes matrix products fast, as people call it, by the names that Linux and macOS have for it.
_INSTRUCTIONS = {
    "AVX2": ("avx2", "hw.optional.avx2_0"),
    "AVX-512": ("avx512f", "hw.optional.avx512f"),
    "AVX-512 VNNI": ("avx512_vnni",),
    "AVX VNNI": ("avx_vnni",),
    "AVX-512 BF16": ("avx512_bf16",),
    "AMX BF16": ("amx_bf16",),
    "AMX INT8": ("amx_int8",),
    "NEON": ("asimd", "neon", "hw.optional.neon", "hw.optional.AdvSIMD"),
    "NEON BF16": ("bf16", "hw.optional.arm.FEAT_BF16"),
    "NEON I8MM": ("i8mm", "hw.optional.arm.FEAT_I8MM"),
    "SVE": ("sve",),
}
_BFLOAT16 = {"AVX-512 BF16", "AMX BF16", "NEON BF16"}


class CudaDevice(msgspec.Struct, frozen=True):
    """A CUDA device."""

    name: str
    memory_bytes: int


class Torch(msgspec.Struct, frozen=True):
    """What `provider.backends.torch.machine.TorchMachine` says; or `problem`: why torch cannot be imported."""

    version: str = ""
    capability: str = ""
    cuda_build: str | None = None
    cuda: tuple[CudaDevice, ...] = ()
    has_mps: bool = False
    compiler: str | None = None
    has_kernels: bool = False
    problem: str | None = None


class InstalledBackend(msgspec.Struct, frozen=True):
    """A backend; `problem` says why it cannot be imported."""

    name: str
    distribution: str
    problem: str | None


class Machine(msgspec.Struct, frozen=True):
    """This machine, as far as serving depends on it.

    Attributes:
        version: of this product.
        cores: that this process may use: affinity, and the container's limit.
        all_cores: that the machine has.
        instructions: see `_INSTRUCTIONS`.
        memory_bytes: of the machine.
        memory_limit_bytes: of the container; None without a limit.
        free_bytes: what can be had without swapping; None where the system does not say.
    """

    version: str
    processor: str
    system: str
    python: str
    cores: int
    all_cores: int
    instructions: list[str]
    memory_bytes: int
    memory_limit_bytes: int | None
    free_bytes: int | None
    torch: Torch
    backends: list[InstalledBackend]

    @property
    def has_bfloat16(self) -> bool:
        """Whether the processor multiplies bfloat16; elsewhere it is slower than float32."""
        return not _BFLOAT16.isdisjoint(self.instructions)

    @property
    def has_accelerator(self) -> bool:
        """Whether models run on something else than the CPU by default."""
        return bool(self.torch.cuda) or self.torch.has_mps

    @classmethod
    def here(cls) -> "Machine":
        """Look; imports every backend, and compiles the kernels where that was not done before."""
        known = this_machine()
        return cls(
            version=provider.__version__,
            processor=known.processor,
            system=known.system,
            python=known.python,
            cores=available_cores(),
            all_cores=os.cpu_count() or 1,
            instructions=instructions_in(_features()),
            memory_bytes=known.memory_bytes,
            memory_limit_bytes=memory_limit(),
            free_bytes=free_bytes(),
            torch=_torch(),
            backends=[*_backends()],
        )

    def advice(self) -> list[str]:
        """What would make it faster, or work at all."""
        found = [f"backend {each.name}: {each.problem}" for each in self.backends if each.problem]
        if self.torch.problem is None and not self.torch.has_kernels:
            found.append(
                "no C compiler: float32 on the CPU runs by torch's libraries. Install one (apt-get install gcc), "
                "or name it in CC"
                if self.torch.compiler is None
                else f"{self.torch.compiler} does not compile the kernels; the log of `emb-provider serve` says why"
            )
        if not self.torch.cuda and self.torch.cuda_build is not None and Path("/dev/nvidiactl").exists():
            found.append(f"there is an NVIDIA device, but torch {self.torch.version} cannot use it: check the driver")
        return found


def instructions_in(features: str) -> list[str]:
    """Names of the instructions that are among `features`, words of /proc/cpuinfo or of sysctl."""
    words = set(features.split())
    return [name for name, spellings in _INSTRUCTIONS.items() if not words.isdisjoint(spellings)]


def free_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Memory that can be had without swapping, in bytes."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found) * 1024


def _features() -> str:
    if sys.platform != "darwin":
        return processor()
    # `hw.optional.neon: 1`; what is absent has 0, or no line.
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["/usr/sbin/sysctl", "hw.optional"], capture_output=True, text=True, check=True, timeout=5
        )
        return " ".join(line.partition(":")[0] for line in done.stdout.splitlines() if line.endswith(": 1"))
    return platform.machine()


def _torch() -> Torch:
    try:
        from provider.backends.torch.machine import TorchMachine  # noqa: PLC0415 - it imports torch
    except Exception as exc:  # noqa: BLE001 - whatever a broken installation raises
        return Torch(problem=" ".join(f"{exc!r}".split()))
    return msgspec.convert(TorchMachine.here(), Torch, from_attributes=True)


def _backends() -> list[InstalledBackend]:
    found = []
    for name, points in installed_backends().items():
        problem = None
        try:
            find_backend(name)
        except BackendError as exc:
            problem = exc.message
        found.append(InstalledBackend(name, distribution(points[0]), problem))
    return found
