"""ONNX Runtime's sessions: which provider runs them, and how they behave beside others in one process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from provider.backends import BackendUnavailable, InvalidModel, unknown_name

_SUFFIX = "ExecutionProvider"
_CPU = "CPUExecutionProvider"
_FATAL = 4

# Its own warnings go to standard error past the log; errors arrive as exceptions.
onnxruntime.set_default_logger_severity(_FATAL)


def choose_providers(device: str, asked: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """The execution providers with their options, best first; the CPU's is always the last.

    Args:
        device: `auto` (CUDA if this build has it, else the CPU), `cpu`, `cuda` or `cuda:N`.
        asked: `CUDA`, `CoreML` … with or without `ExecutionProvider` behind; if empty, `device` decides.

    Raises:
        BackendUnavailable: this build of ONNX Runtime does not have it, or no device is called that.
    """
    available = onnxruntime.get_available_providers()
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise unknown_name(device, ("auto", "cpu", "cuda", "cuda:N (options.providers names others)"), what="device")
    by_name = {name.removesuffix(_SUFFIX).lower(): name for name in available}
    if asked:
        names = list(asked)
    elif kind == "cuda" or (kind == "auto" and "cuda" in by_name):
        names = ["CUDA"]
    else:
        names = ["CPU"]
    chosen: list[tuple[str, dict[str, Any]]] = []
    for name in names:
        found = by_name.get(name.removesuffix(_SUFFIX).lower())
        if found is None:
            msg = (
                f"this build of ONNX Runtime {onnxruntime.__version__} has no execution provider {name!r}; "
                f"it has: {', '.join(sorted(each.removesuffix(_SUFFIX) for each in available))}. "
                "Install the build that has it (onnxruntime-gpu for CUDA), or use device cpu"
            )
            raise BackendUnavailable(msg)
        chosen.append((found, {"device_id": int(index)} if index and found.startswith("CUDA") else {}))
    return chosen if chosen[-1][0] == _CPU else [*chosen, (_CPU, {})]


def open_session(
    path: Path, providers: Sequence[tuple[str, dict[str, Any]]], *, threads: int
) -> onnxruntime.InferenceSession:
    """A session that several lanes may run at the same time, each with `threads` CPU threads.

    Memory for activations comes from an arena that the largest batch bounds. No plan of it is kept by shape: shapes are
    as many as widths times numbers of rows.

    Raises:
        InvalidModel: ONNX Runtime cannot load the file.
        BackendUnavailable: a provider is there but does not start.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = _FATAL
    # Idle threads would otherwise spin, and take the cores of the other lanes and of the event loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=list(providers))
    except Exception as exc:  # its own exceptions have no common base
        text = " ".join(str(exc).split())[:300]
        msg = f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {text}"
        raise InvalidModel(msg) from exc
    # It falls back to the CPU by itself when a provider's libraries are missing.
    if session.get_providers()[0] != providers[0][0]:
        name = providers[0][0].removesuffix(_SUFFIX)
        msg = f"the execution provider {name} does not start here; check its driver and libraries, or use device cpu"
        raise BackendUnavailable(msg)
    return session


def device_name(providers: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """How the first provider's device is shown: `cpu`, `cuda:N`, or the provider's own name."""
    name, options = providers[0]
    short = name.removesuffix(_SUFFIX).lower()
    return f"cuda:{options.get('device_id', 0)}" if short == "cuda" else short
