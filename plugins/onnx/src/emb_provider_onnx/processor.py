"""Instruction sets of this machine's processor, as far as quantised files depend on them.

The kernels differ in how they multiply eight-bit numbers: without VNNI, products of unsigned and signed bytes are
summed in 16 bits, which overflow. Hence files for AVX2 hold unsigned weights, and files for VNNI signed ones. See
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#when-to-use-reduce-range.
"""

import platform
import subprocess
from pathlib import Path

QUANTISED_FILES = {
    "avx512_vnni": "model_qint8_avx512_vnni.onnx",
    "avx512": "model_qint8_avx512.onnx",
    "avx2": "model_quint8_avx2.onnx",
    "arm64": "model_qint8_arm64.onnx",
}
"""Instruction set to the name of the quantised file, as sentence-transformers gives them; longer names first."""


def instruction_sets() -> tuple[str, ...]:
    """Those of `QUANTISED_FILES` that this processor runs without loss, the fastest first; empty if it has none."""
    return sets_of(platform.machine(), _flags())


def sets_of(machine: str, flags: frozenset[str]) -> tuple[str, ...]:
    """The same for a machine and its processor's flags, as Linux writes them."""
    if machine.lower() in {"arm64", "aarch64"}:
        return ("arm64",)
    has_vnni = flags & {"avx512_vnni", "avx_vnni"}
    return (*(("avx512_vnni", "avx512") if has_vnni else ()), *(("avx2",) if "avx2" in flags else ()))


def set_in_name(file_name: str) -> str | None:
    """The instruction set that a file's name ends with; None if there is none."""
    stem = file_name.removesuffix(".onnx")
    return next((name for name in QUANTISED_FILES if stem.endswith(f"_{name}")), None)


def _flags() -> frozenset[str]:
    if platform.system() == "Darwin" and platform.machine() == "x86_64":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - a fixed command
        return frozenset({"AVX512VNNI": "avx512_vnni"}.get(flag, flag.lower()) for flag in said.split())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
