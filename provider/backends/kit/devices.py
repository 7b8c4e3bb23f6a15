"""Which device and dtype a backend runs on, how many tokens it is fed with, and how it says that memory ran out.

Every refusal is a `BackendUnavailable` that names what was asked for and what is allowed. What the machine has is an
argument.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from attrs import frozen

from provider.errors import BackendUnavailable

DtypeName = Literal["float32", "bfloat16", "float16", "int8"]
DTYPES: tuple[DtypeName, ...] = ("float32", "bfloat16", "float16")

# On the CPU, batches that keep the activations in the cache are fastest; an accelerator wants to be filled.
_CPU_BATCH_TOKENS, _ACCELERATOR_BATCH_TOKENS = 512, 16_384

# As torch (CUDA, cuBLAS, MPS, CPU), ONNX Runtime and OpenVINO write it.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "cublas_status_alloc_failed",
    "bad_alloc",
    "bad allocation",
)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise MemoryError where a library's own error says that memory ran out; see `Backend.run`. Also a decorator."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as exc:
        if is_out_of_memory(exc):
            msg = " ".join(str(exc).split())
            raise MemoryError(msg) from exc
        raise


def is_out_of_memory(exc: Exception) -> bool:
    """Whether a library's error says that memory ran out: a class of its own in torch, elsewhere a text."""
    return type(exc).__name__ == "OutOfMemoryError" or any(part in str(exc).lower() for part in _OUT_OF_MEMORY)


def batch_tokens(device: str) -> int:
    """`BackendTraits.batch_tokens` for transformers on a device, until measured otherwise."""
    return _CPU_BATCH_TOKENS if device == "cpu" else _ACCELERATOR_BATCH_TOKENS


def unknown_name(asked: str, allowed: Sequence[str], *, what: Literal["device", "dtype"]) -> BackendUnavailable:
    """The error for a device or dtype that the backend does not have.

    Args:
        asked: what the configuration says.
        allowed: what it may say, `auto` included.
        what: which setting of `model`.
    """
    return BackendUnavailable(f"model.{what}: unknown {what} {asked!r}; allowed are {', '.join(allowed)}")


def choose_name(what: Literal["device", "dtype"], asked: str, names: Sequence[str]) -> str:
    """`asked`, or the first of `names` where it is `auto`.

    Raises:
        BackendUnavailable: it is none of them.
    """
    if asked == "auto":
        return names[0]
    if asked not in names:
        raise unknown_name(asked, ("auto", *names), what=what)
    return asked


@frozen
class Accelerators:
    """What the machine has beside its CPU.

    Attributes:
        cuda_devices: number of CUDA devices.
        has_mps: whether Apple's Metal is usable.
        cuda_has_bfloat16: whether the CUDA devices compute in bfloat16.
    """

    cuda_devices: int = 0
    has_mps: bool = False
    cuda_has_bfloat16: bool = False

    @classmethod
    def present(cls, torch: Any) -> "Accelerators":  # noqa: ANN401 - the module; tests hand in a fake
        """Ask `torch`."""
        has_cuda = torch.cuda.is_available()
        return cls(
            cuda_devices=torch.cuda.device_count() if has_cuda else 0,
            has_mps=torch.backends.mps.is_available(),
            # Emulated it would be slower than float32.
            cuda_has_bfloat16=has_cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        )


def choose_device(requested: str, have: Accelerators, *, worker: int = 0) -> str:
    """The device for `requested`: `auto` is a CUDA device, else MPS, else the CPU.

    Args:
        requested: what the configuration says.
        have: what the machine has.
        worker: number of this process. Where a CUDA device without a number is meant, workers take the devices in
            turn: worker i uses device i modulo their count.

    Returns:
        `cpu`, `mps` or `cuda:N`.

    Raises:
        BackendUnavailable: that device is not there, or no device is called that.
    """
    kind, _, index = requested.partition(":")
    if requested == "auto":
        return f"cuda:{worker % have.cuda_devices}" if have.cuda_devices else "mps" if have.has_mps else "cpu"
    if requested == "cpu":
        return "cpu"
    if requested == "mps":
        if not have.has_mps:
            msg = "device 'mps' is not available: this machine or this build of torch has no Metal. Use cpu or auto"
            raise BackendUnavailable(msg)
        return "mps"
    if kind == "cuda" and (index.isdecimal() or requested == "cuda"):
        number = int(index) if index else worker % max(1, have.cuda_devices)
        if number >= have.cuda_devices:
            found = f"torch finds {have.cuda_devices}, numbered from 0" if have.cuda_devices else "torch finds none"
            msg = (
                f"device {requested!r} is not available: {found}. "
                "Check the driver and that torch is a CUDA build, or use cpu"
            )
            raise BackendUnavailable(msg)
        return f"cuda:{number}"
    raise unknown_name(requested, ("auto", "cpu", "cuda", "cuda:N", "mps"), what="device")


def choose_dtype(
    requested: str, device: str, have: Accelerators, *, checkpoint_dtype: str = "float32", has_int8: bool = False
) -> DtypeName:
    """The dtype for `requested`: `auto` is float32 on the CPU and on MPS, half precision on CUDA.

    On CUDA the half type is the checkpoint's own if it is one, else float16, which keeps three more bits of every
    number than bfloat16 does. Half precision on MPS has given NaN, so there it has to be asked for. int8 is only ever
    asked for, and runs on the CPU.

    Raises:
        BackendUnavailable: the device does not compute in it, or no dtype is called that.
    """
    if requested == "auto":
        if not device.startswith("cuda"):
            return "float32"
        return "bfloat16" if checkpoint_dtype == "bfloat16" and have.cuda_has_bfloat16 else "float16"
    for name in DTYPES:
        if requested == name:
            if name == "bfloat16" and device.startswith("cuda") and not have.cuda_has_bfloat16:
                msg = f"dtype 'bfloat16' is not supported by {device}; use float16 or float32"
                raise BackendUnavailable(msg)
            return name
    if requested == "int8" and has_int8:
        if device != "cpu":
            msg = f"dtype 'int8' is not supported on {device}, only on the CPU; use auto, or device cpu"
            raise BackendUnavailable(msg)
        return "int8"
    raise unknown_name(requested, ("auto", *DTYPES, *(["int8"] if has_int8 else [])), what="dtype")
