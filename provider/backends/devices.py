"""Which device and dtype torch runs on. Pure decisions: what the machine has is an argument."""

from typing import Any, Literal

from attrs import frozen

from provider.errors import BackendUnavailable, SettingsError

DtypeName = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[DtypeName, ...] = ("float32", "bfloat16", "float16")


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
            cuda_has_bfloat16=has_cuda and torch.cuda.is_bf16_supported(),
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
        BackendUnavailable: that device is not there.
        SettingsError: no device is called that.
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
    msg = f"model.device: unknown device {requested!r}; allowed are auto, cpu, cuda, cuda:N and mps"
    raise SettingsError(msg)


def choose_dtype(requested: str, device: str, have: Accelerators, *, checkpoint_dtype: str = "float32") -> DtypeName:
    """The dtype for `requested`: `auto` is float32 on the CPU and on MPS, half precision on CUDA.

    On CUDA the half type is the checkpoint's own if it is one, else float16, which keeps three more bits of every
    number than bfloat16 does. Half precision on MPS has given NaN, so there it has to be asked for.

    Raises:
        BackendUnavailable: the device does not compute in it.
        SettingsError: no dtype is called that.
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
    msg = f"model.dtype: unknown dtype {requested!r}; allowed are auto, {', '.join(DTYPES)}"
    raise SettingsError(msg)
