"""The compiler: from a model's folder to a shared object, in a process of its own (`python -m` this module).

A process of its own, because compiling takes half a minute of processor time, some hundred megabytes and torch's
tracer, none of which belong into a process that serves. It reads a pickled `Job` from standard input and writes
`model.so` and `facts.json`, or `error.json`, to the folder that is its argument. It ends when its standard input does,
so that it does not outlive who started it.
"""

import hashlib
import json
import os
import pickle
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch._inductor
from attrs import asdict
from numpy.typing import NDArray

from provider.backends.bert_checkpoint import BertCheckpoint
from provider.backends.compiled_model import CompiledModel
from provider.backends.torch_artefact import ERROR, FACTS, MODEL, Facts, Job, Kind
from provider.backends.torch_graphs import Graph, PackedGraph, PaddedGraph, arrays_of, dynamic_shapes
from provider.backends.torch_head import load_head
from provider.backends.torch_linear import faster_linear
from provider.backends.torch_packed import PackedBert
from provider.domain import TokenBatch
from provider.errors import BackendUnavailable, ProviderError

# What the compiled model may differ from the same graph without compilation, as a share of the longest vector.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
_VOTES = 15
# Batches that are compared: the odd ones too, one row and one token.
_PROBES: tuple[tuple[int, ...], ...] = ((5, 3), (1,), (1, 1), (7,), (4, 9, 1, 9), (2,) * 20)


def compile_model(job: Job, folder: Path) -> Facts:
    """Compile into `folder`, and compare with the same graph uncompiled.

    Raises:
        BackendUnavailable: the architecture cannot be compiled, or its vectors are not the same then.
        InvalidModel: weights are missing or damaged.
    """
    started = time.monotonic()
    torch.set_num_threads(job.threads)
    graph, kind, linear = _graph(job)
    examples = [_inputs(job, kind, graph, lengths) for lengths in _PROBES]
    with torch.no_grad():
        try:
            exported = torch.export.export(graph, _tensors(examples[0][0]), dynamic_shapes=dynamic_shapes(kind))
            torch._inductor.aot_compile(  # noqa: SLF001 - `aoti_compile_and_package` would wrap the file into an archive
                exported.module(), _tensors(examples[0][0]), options=_options(job, folder, linear)
            )
        except Exception as exc:
            msg = f"torch cannot compile the architecture {job.spec.architecture!r}: {_line(exc)}"
            raise BackendUnavailable(_advice(msg)) from exc
        if any("proxy_executor_call" in file.read_text(encoding="utf-8") for file in folder.glob("*.wrapper.cpp")):
            msg = f"the architecture {job.spec.architecture!r} has operations that need Python at run time"
            raise BackendUnavailable(_advice(msg))
        _compare(job, folder, graph, examples)
    with (folder / MODEL).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Facts(kind, linear, graph.vocabulary, graph.positions, round(time.monotonic() - started, 1), digest)


def _graph(job: Job) -> tuple[Graph, Kind, str]:
    dtype, head = getattr(torch, job.dtype), load_head(job.spec)
    checkpoint = BertCheckpoint.open(job.spec.folder, dtype)
    if checkpoint is not None and PackedBert.supports(checkpoint):
        linear = _linear(*checkpoint.linear("encoder.layer.0.intermediate.dense"))
        return PackedGraph(checkpoint, job.spec.pooling, head).eval(), "packed", linear
    from provider.backends.torch_loading import load_encoder  # noqa: PLC0415 - seconds that the BERT family need not wait

    encoder, *_ = load_encoder(job.spec, lambda _: job.dtype, "auto")
    layers = (module for module in encoder.modules() if isinstance(module, torch.nn.Linear))
    widest = max(layers, key=lambda layer: layer.weight.numel(), default=None)
    linear = "torch"
    if widest is not None:
        bias = torch.zeros(widest.out_features, dtype=dtype) if widest.bias is None else widest.bias
        linear = _linear(widest.weight.detach(), bias.detach())
    return PaddedGraph(encoder, job.spec.pooling, head).eval(), "padded", linear


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> str:
    """What most measurements find faster: this one is kept for long, and the machine may be busy."""
    return statistics.mode(faster_linear(weight, bias)[0] for _ in range(_VOTES))


def _inputs(job: Job, kind: Kind, graph: Graph, lengths: Sequence[int]) -> tuple[tuple[NDArray[np.int64], ...], int]:
    random = np.random.default_rng(0)
    rows = [random.integers(0, graph.vocabulary, length).astype(np.int32) for length in lengths]
    return arrays_of(kind, TokenBatch.of_rows(rows), job.spec.pad_id), len(rows)


def _tensors(arrays: Sequence[NDArray[np.int64]]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(array) for array in arrays)


def _options(job: Job, folder: Path, linear: str) -> dict[str, str | int | bool]:
    return {
        "freezing": True,
        "cpp.weight_prepack": linear == "onednn",
        # One thread: code without OpenMP.
        "cpp.threads": job.threads,
        "aot_inductor.output_path": str(folder / MODEL),
        # For one file it costs more than it saves.
        "aot_inductor.precompile_headers": False,
        "cpp.vec_isa_ok": True,
        # A batch of one row is as good as any; see `_compare`.
        "aot_inductor.check_lowerbound": False,
    }


def _compare(
    job: Job, folder: Path, graph: Graph, examples: Sequence[tuple[tuple[NDArray[np.int64], ...], int]]
) -> None:
    model = CompiledModel(folder / MODEL, inputs=len(examples[0][0]), dimension=job.spec.dimension)
    for arrays, rows in examples:
        expected = graph(*_tensors(arrays)).numpy()
        error = np.abs(model.run(arrays, rows) - expected).max() / np.linalg.norm(expected, axis=1).max()
        if not error <= _TOLERANCE[job.dtype]:
            msg = (
                f"the compiled model {job.spec.name!r} differs from the uncompiled one by {error:.1e} in {job.dtype} "
                f"on {rows} rows; allowed is {_TOLERANCE[job.dtype]:.0e}"
            )
            raise BackendUnavailable(_advice(msg))
    model.close()


def _advice(message: str) -> str:
    return f"{message}. Use backend torch for this model"


def _line(exc: Exception) -> str:
    """An exception's text in one line: of a C++ compiler's pages, the first that says what is wrong."""
    lines = str(exc).splitlines()
    text = next((line for line in lines if "error:" in line), "") or " ".join(" ".join(lines).split())
    text = text or type(exc).__name__
    return text if len(text) <= 300 else f"{text[:300]} …"


def _end_with_standard_input() -> None:
    # Not through `sys.stdin`: a thread that waits there would keep the interpreter from ending.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def main() -> None:
    """Compile the job on standard input into the folder that is the argument; the exit code is 0 on success."""
    folder = Path(sys.argv[1])
    job: Job = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by `torch_artefact`, our parent process
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    warnings.simplefilter("ignore")
    try:
        facts = compile_model(job, folder)
    except ProviderError as exc:
        answer = {"error": type(exc).__name__, "message": exc.message}
        (folder / ERROR).write_text(json.dumps(answer), encoding="utf-8")
        sys.exit(1)
    (folder / FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")


if __name__ == "__main__":
    main()
