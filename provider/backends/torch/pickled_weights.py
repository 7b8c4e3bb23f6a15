"""From pickled weights to safetensors, in a process of its own.

    python -m provider.backends.torch.pickled_weights SOURCE TARGET [SOURCE TARGET]...

A pickle is a program: unpickling it as usual runs what its author wanted. `torch.load(weights_only=True)` builds
tensors and plain containers and refuses everything else. In a process of its own, so that its
memory and its crashes do not harm the service.

The last line of standard output is a JSON object: `notices`, or `problem` and what it `is_about` (`source` or
`target`). The process ends when its standard input does, so that it does not outlive who started it.
"""

import json
import os
import pickle
import re
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

_GLOBAL = re.compile(r"GLOBAL `?([\w.]+)")


class UnreadableWeightsError(Exception):
    """The file holds no weights, or more than weights; the message says which and what to do."""


def convert_file(source: Path, target: Path) -> str | None:
    """Write the tensors of the pickle `source` to the safetensors file `target`, bit for bit.

    Tensors that share memory are written once each, since safetensors has no such thing. The file is mapped where its
    format allows it, so memory is about the size of the weights, or less.

    Returns:
        What was left out, as a sentence; None where everything was written.

    Raises:
        UnreadableWeightsError: see there.
        OSError: a file cannot be read or written.
        SafetensorError: `target` cannot be written.
    """
    tensors = _load(source)
    kept = {k: value for k, value in tensors.items() if isinstance(k, str) and isinstance(value, torch.Tensor)}
    if not kept:
        msg = f"{source} holds no tensors by name; it is no state dict of a model"
        raise UnreadableWeightsError(msg)
    odd = next((name for name, tensor in kept.items() if tensor.layout is not torch.strided or tensor.is_quantized), "")
    if odd:
        msg = f"{source} has a sparse or quantised tensor {odd!r}, which cannot be converted"
        raise UnreadableWeightsError(msg)
    try:
        save_file(_apart(kept), target, metadata={"format": "pt"})
    except (KeyError, TypeError, ValueError, NotImplementedError) as exc:
        msg = f"{source} has tensors that safetensors cannot hold ({type(exc).__name__}: {exc})"
        raise UnreadableWeightsError(msg) from exc
    dropped = sorted(str(name) for name in tensors.keys() - kept.keys())
    return f"{source} also holds {', '.join(dropped[:5])}, which are no tensors and were left out" if dropped else None


def _load(source: Path) -> Mapping[str, Any]:
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=_is_zip(source))
    except pickle.UnpicklingError as exc:
        found = _GLOBAL.search(str(exc))
        what = f"it asks for {found[1]}" if found else "it asks for more than tensors, or is damaged"
        msg = (
            f"{source} is refused: {what}, and only tensors are read, so that no code runs; nothing was executed. "
            "Choose a repository with safetensors, and do not load this file elsewhere unless you trust its author"
        )
        raise UnreadableWeightsError(msg) from exc
    except OSError as exc:
        msg = f"{source} cannot be read: {exc.strerror or exc}; restore the file or download the model again"
        raise UnreadableWeightsError(msg) from exc
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        text = " ".join(str(exc).split())
        msg = f"{source} is damaged or no file of torch.save ({text[:200] or type(exc).__name__}); download it again"
        raise UnreadableWeightsError(msg) from exc
    if not isinstance(loaded, Mapping):
        msg = f"{source} holds a {type(loaded).__name__}, expected a state dict: names with tensors"
        raise UnreadableWeightsError(msg)
    return loaded


def _is_zip(source: Path) -> bool:
    """Whether it is an archive, as torch.save writes since 1.6: only those can be mapped."""
    with source.open("rb") as file:
        start = file.read(8)
    if start == b"version ":
        msg = f"{source} is a Git LFS pointer and not the weights themselves; run `git lfs pull` there"
        raise UnreadableWeightsError(msg)
    return start.startswith(b"PK\x03\x04")


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, contiguous, each with memory of its own."""
    seen: set[int] = set()
    apart: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        data = tensor.detach().contiguous()
        storage = data.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != data.nbytes:
            data = data.clone()
        seen.add(data.untyped_storage().data_ptr())
        apart[name] = data
    return apart


def _watch_parent() -> None:
    # Not through `sys.stdin`: a thread that waits there would keep the interpreter from ending.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def main(*paths: str) -> int:
    """Convert files; `paths` are a pickle, its safetensors file, and so on. Returns the exit code."""
    threading.Thread(target=_watch_parent, daemon=True).start()
    notices = []
    for source, target in zip(map(Path, paths[::2]), map(Path, paths[1::2]), strict=True):
        try:
            notices.append(convert_file(source, target))
        except (UnreadableWeightsError, SafetensorError, OSError) as exc:
            is_about = "source" if isinstance(exc, UnreadableWeightsError) else "target"
            print(json.dumps({"problem": " ".join(str(exc).split()), "is_about": is_about}))  # noqa: T201
            return 1
    print(json.dumps({"notices": [notice for notice in notices if notice is not None]}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
