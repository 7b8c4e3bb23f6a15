"""What is said of a machine."""

from pathlib import Path

import pytest

from provider.doctor.machine import Machine, Torch, free_bytes, instructions_in


@pytest.mark.parametrize(
    ("features", "names"),
    [
        ("flags : fpu avx avx2 fma", ["AVX2"]),
        ("avx2 avx512f avx512_vnni avx512_bf16", ["AVX2", "AVX-512", "AVX-512 VNNI", "AVX-512 BF16"]),
        ("avx2 avx512f amx_bf16 amx_tile amx_int8", ["AVX2", "AVX-512", "AMX BF16", "AMX INT8"]),
        ("Features : fp asimd bf16 i8mm sve", ["NEON", "NEON BF16", "NEON I8MM", "SVE"]),
        ("hw.optional.neon hw.optional.arm.FEAT_BF16 hw.optional.arm.FEAT_I8MM", ["NEON", "NEON BF16", "NEON I8MM"]),
        ("", []),
    ],
)
def test_instructions_are_named_as_people_call_them(features: str, names: list[str]) -> None:
    assert instructions_in(features) == names


def test_free_memory_is_what_linux_says(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       100 kB\nMemAvailable:    42 kB\n")
    assert free_bytes(path) == 42 * 1024
    assert free_bytes(tmp_path / "none") is None


def machine(instructions: list[str], torch: Torch) -> Machine:
    return Machine("1", "p", "Linux", "3.11", 2, 2, instructions, 2**30, None, None, torch, [])


def test_only_processors_that_multiply_bfloat16_are_said_to_have_it() -> None:
    assert machine(["AVX2", "AMX BF16"], Torch()).has_bfloat16
    assert not machine(["AVX2", "AVX-512", "AVX-512 VNNI"], Torch()).has_bfloat16


def test_advice_names_what_is_missing_and_nothing_where_all_is_well() -> None:
    assert machine([], Torch(has_kernels=True, compiler="/usr/bin/cc")).advice() == []
    (line,) = machine([], Torch(has_kernels=False)).advice()
    assert "apt-get install gcc" in line
    (line,) = machine([], Torch(has_kernels=False, compiler="/usr/bin/cc")).advice()
    assert line.startswith("/usr/bin/cc does not compile the kernels")
