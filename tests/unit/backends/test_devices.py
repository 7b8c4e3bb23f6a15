"""Which device and dtype are chosen, for machines we do not have."""

from types import SimpleNamespace

import pytest
import torch

from provider.backends.kit.devices import Accelerators, choose_device, choose_dtype, memory_errors
from provider.errors import BackendUnavailable

NOTHING = Accelerators()
TWO_CUDA = Accelerators(cuda_devices=2, cuda_has_bfloat16=True)
OLD_CUDA = Accelerators(cuda_devices=1)
APPLE = Accelerators(has_mps=True)


@pytest.mark.parametrize(
    ("requested", "have", "device"),
    [
        ("auto", NOTHING, "cpu"),
        ("auto", TWO_CUDA, "cuda:0"),
        ("auto", APPLE, "mps"),
        ("auto", Accelerators(cuda_devices=1, has_mps=True), "cuda:0"),
        ("cpu", TWO_CUDA, "cpu"),
        ("cuda", TWO_CUDA, "cuda:0"),
        ("cuda:1", TWO_CUDA, "cuda:1"),
        ("mps", APPLE, "mps"),
    ],
)
def test_the_device_that_is_asked_for_or_the_best_there_is(requested: str, have: Accelerators, device: str) -> None:
    assert choose_device(requested, have) == device


@pytest.mark.parametrize(
    ("requested", "have", "devices"),
    [
        ("auto", TWO_CUDA, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", TWO_CUDA, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:1", TWO_CUDA, ["cuda:1", "cuda:1", "cuda:1"]),
        ("auto", OLD_CUDA, ["cuda:0", "cuda:0", "cuda:0"]),
        ("auto", NOTHING, ["cpu", "cpu", "cpu"]),
        ("auto", APPLE, ["mps", "mps", "mps"]),
    ],
)
def test_workers_take_the_devices_in_turn_unless_one_is_named(
    requested: str, have: Accelerators, devices: list[str]
) -> None:
    assert [choose_device(requested, have, worker=i) for i in range(3)] == devices


@pytest.mark.parametrize(
    ("requested", "have", "says"),
    [
        ("cuda", NOTHING, "torch finds none"),
        ("cuda:2", TWO_CUDA, "torch finds 2, numbered from 0"),
        ("mps", TWO_CUDA, "no Metal"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_never_a_substitute(
    requested: str, have: Accelerators, says: str
) -> None:
    for worker in (0, 1):
        with pytest.raises(BackendUnavailable, match=says):
            choose_device(requested, have, worker=worker)


@pytest.mark.parametrize("requested", ["tpu", "cuda:x", "cpu:1"])
def test_a_misspelt_device_names_the_setting_and_what_is_allowed(requested: str) -> None:
    says = f"model.device: unknown device '{requested}'; allowed are auto, cpu, cuda, cuda:N, mps"
    with pytest.raises(BackendUnavailable, match=says):
        choose_device(requested, TWO_CUDA)


@pytest.mark.parametrize(
    ("requested", "device", "have", "checkpoint", "dtype"),
    [
        ("auto", "cpu", NOTHING, "float16", "float32"),
        ("auto", "mps", APPLE, "float16", "float32"),
        ("auto", "cuda:0", TWO_CUDA, "float32", "float16"),
        ("auto", "cuda:0", TWO_CUDA, "bfloat16", "bfloat16"),
        ("auto", "cuda:0", OLD_CUDA, "bfloat16", "float16"),
        ("bfloat16", "cpu", NOTHING, "float32", "bfloat16"),
        ("float16", "mps", APPLE, "float32", "float16"),
    ],
)
def test_auto_is_exact_on_the_cpu_and_half_on_cuda(
    requested: str, device: str, have: Accelerators, checkpoint: str, dtype: str
) -> None:
    assert choose_dtype(requested, device, have, checkpoint_dtype=checkpoint) == dtype


def test_a_dtype_that_is_not_there_or_misspelt_is_an_error() -> None:
    with pytest.raises(BackendUnavailable, match="not supported by cuda:0"):
        choose_dtype("bfloat16", "cuda:0", OLD_CUDA)
    with pytest.raises(BackendUnavailable, match=r"model.dtype: unknown dtype 'int8'; allowed are auto, float32"):
        choose_dtype("int8", "cuda:0", OLD_CUDA)


def test_what_the_machine_has_is_asked_of_torch() -> None:
    torch = SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: True,
            device_count=lambda: 3,
            is_bf16_supported=lambda including_emulation: not including_emulation,
        ),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)),
    )
    assert Accelerators.present(torch) == Accelerators(3, has_mps=False, cuda_has_bfloat16=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA: 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("Failed to allocate memory for requested buffer of size 9"),
    ],
)
def test_a_library_that_runs_out_of_memory_is_a_memory_error(error: Exception) -> None:
    with pytest.raises(MemoryError), memory_errors():
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="size"), memory_errors():
        torch.zeros(2).view(3)
    with pytest.raises(MemoryError, match="1125899906842624"), memory_errors():
        torch.empty(1 << 50, dtype=torch.uint8)


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_int8_is_refused_off_the_cpu(device: str) -> None:
    assert choose_dtype("int8", "cpu", NOTHING, has_int8=True) == "int8"
    with pytest.raises(BackendUnavailable, match=f"not supported on {device}, only on the CPU"):
        choose_dtype("int8", device, TWO_CUDA, has_int8=True)
