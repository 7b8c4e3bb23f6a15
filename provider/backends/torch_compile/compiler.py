"""The compiler: from a model's folder to a shared object, in a process of its own (`python -m` this module).

A process of its own, because compiling takes half a minute of processor time, some hundred megabytes and torch's
tracer, none of which belong into a process that serves. It reads a pickled `CompileJob` from standard input and writes
the model and `facts.json`, or `error.json`, to the folder that is its argument. It ends when its standard input does,
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
from typing import Any

import numpy as np
import torch
import torch._inductor
from attrs import asdict, evolve
from numpy.typing import NDArray

from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.head import load_head
from provider.backends.torch.linear import fastest_linear
from provider.backends.torch.packed_bert import PackedBert
from provider.backends.torch.scores import ClassificationHead, ScoreModel
from provider.backends.torch_compile.cache import ERROR, FACTS, CompileJob, Facts, Kind
from provider.backends.torch_compile.graphs import (
    Graph,
    PackedGraph,
    PaddedGraph,
    PaddedScoreGraph,
    arrays_of,
    dynamic_shapes,
    output_of,
)
from provider.backends.torch_compile.package import Package
from provider.backends.torch_compile.shared_object import CompiledModel
from provider.domain import Features, ScoreTask, TokenBatch
from provider.errors import BackendUnavailable, ProviderError

# What the compiled model may differ from the same graph without compilation, as a share of the longest row answered.
_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
_VOTES = 15
# Batches that are compared: the odd ones too, one row and one token.
_PROBES: tuple[tuple[int, ...], ...] = ((5, 3), (1,), (1, 1), (7,), (4, 9, 1, 9), (2,) * 20)


def compile_model(job: CompileJob, folder: Path) -> Facts:
    """Compile into `folder`, and compare with the same graph uncompiled.

    Raises:
        BackendUnavailable: the architecture cannot be compiled, or its answers are not the same then.
        InvalidModel: weights are missing or damaged.
    """
    started = time.monotonic()
    torch.set_num_threads(job.threads)
    if torch.device(job.place).type == "cuda":
        torch.cuda.set_device(job.place)
    graph, kind, linear = _graph(job)
    typed = graph.types > 0
    examples = [_inputs(job, kind, graph, lengths) for lengths in _PROBES]
    with torch.no_grad():
        try:
            example = _tensors(examples[0][0], job.place)
            shapes = dynamic_shapes(kind, typed=typed, longest=graph.positions)
            _build(job, folder, torch.export.export(graph, example, dynamic_shapes=shapes), example, linear)
        except Exception as exc:
            msg = f"torch cannot compile the architecture {job.spec.architecture!r}: {_line(exc)}"
            raise BackendUnavailable(_advice(msg)) from exc
        if any("proxy_executor_call" in file.read_text(encoding="utf-8") for file in folder.glob("*.wrapper.cpp")):
            msg = f"the architecture {job.spec.architecture!r} has operations that need Python at run time"
            raise BackendUnavailable(_advice(msg))
        _compare(job, folder, graph, examples)
    with (folder / job.file).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    seconds = round(time.monotonic() - started, 1)
    return Facts(kind, linear, graph.vocabulary, graph.positions, graph.types, seconds, digest)


def _build(
    job: CompileJob,
    folder: Path,
    exported: torch.export.ExportedProgram,
    example: tuple[torch.Tensor, ...],
    linear: str,
) -> None:
    path = folder / job.file
    # A batch of one row is as good as any; see `_compare`.
    options: dict[str, Any] = {"aot_inductor.check_lowerbound": False}
    if job.form == "package":
        # Weights count as torch's memory, by which models are unloaded.
        options["aot_inductor.weight_use_caching_allocator"] = True
        torch._inductor.aoti_compile_and_package(exported, package_path=str(path), inductor_configs=options)  # noqa: SLF001 - public in its documentation
        return
    options |= {
        "freezing": True,
        "cpp.weight_prepack": linear == "onednn",
        # One thread: code without OpenMP.
        "cpp.threads": job.threads,
        "aot_inductor.output_path": str(path),
        # For one file it costs more than it saves.
        "aot_inductor.precompile_headers": False,
        "cpp.vec_isa_ok": True,
    }
    torch._inductor.aot_compile(exported.module(), example, options=options)  # noqa: SLF001 - the same, without an archive


def _graph(job: CompileJob) -> tuple[Graph, Kind, str]:
    graph, kind, linear = _padded(job) if job.form == "package" else _packed(job) or _padded(job)
    return graph.eval().to(job.place), kind, linear


def _padded(job: CompileJob) -> tuple[Graph, Kind, str]:
    from provider.backends.torch.loading import load_encoder  # noqa: PLC0415

    scores = job.spec.find(ScoreTask)
    encoder, *_ = load_encoder(job.spec, lambda _: job.dtype, "auto", job.place)
    linear = _fastest_linear_of(encoder, getattr(torch, job.dtype)) if job.form == "shared object" else "torch"
    positions = job.spec.max_positions
    if scores is None:
        return PaddedGraph(encoder, job.spec.dense.pooling, load_head(job.spec), positions), "padded", linear
    model = ScoreModel(encoder, scores)
    kind: Kind = "padded" if model.side == "right" else "padded on the left"
    return PaddedScoreGraph(model, positions), kind, linear


def _fastest_linear_of(encoder: torch.nn.Module, dtype: torch.dtype) -> str:
    layers = (module for module in encoder.modules() if isinstance(module, torch.nn.Linear))
    widest = max(layers, key=lambda layer: layer.weight.numel(), default=None)
    if widest is None:
        return "torch"
    bias = torch.zeros(widest.out_features, dtype=dtype) if widest.bias is None else widest.bias
    return _linear(widest.weight.detach(), bias.detach())


def _packed(job: CompileJob) -> tuple[Graph, Kind, str] | None:
    """The graph without padding; None for models that cannot run so."""
    spec, dtype, scores = job.spec, getattr(torch, job.dtype), job.spec.find(ScoreTask)
    checkpoint = BertCheckpoint.open(spec.folder, dtype)
    if checkpoint is None or not PackedBert.supports(checkpoint):
        return None
    graph = None
    if scores is None:
        graph = PackedGraph(checkpoint, spec.dense.pooling, load_head(spec))
    elif scores.kind == "classifier" and (head := ClassificationHead.of(checkpoint, len(scores.labels))) is not None:
        graph = PackedGraph(checkpoint, ("cls",), head, typed=True)
    if graph is None:
        return None
    return graph, "packed", _linear(*checkpoint.linear("encoder.layer.0.intermediate.dense"))


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> str:
    """What most measurements find faster: this one is kept for long, and the machine may be busy."""
    return statistics.mode(fastest_linear(weight, bias, ways=["onednn"])[0] for _ in range(_VOTES))


def _inputs(
    job: CompileJob, kind: Kind, graph: Graph, lengths: Sequence[int]
) -> tuple[tuple[NDArray[np.int64], ...], int]:
    random = np.random.default_rng(0)
    rows = [Features(random.integers(0, graph.vocabulary, length).astype(np.int32)) for length in lengths]
    if graph.types:
        rows = [evolve(row, type_ids=random.integers(0, graph.types, len(row.ids)).astype(np.int32)) for row in rows]
    return arrays_of(kind, TokenBatch.of(rows), job.spec.pad_id, typed=graph.types > 0), len(rows)


def _tensors(arrays: Sequence[NDArray[np.int64]], place: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(array, device=place) for array in arrays)


def _compare(
    job: CompileJob, folder: Path, graph: Graph, examples: Sequence[tuple[tuple[NDArray[np.int64], ...], int]]
) -> None:
    width = output_of(job.spec)[1]
    model: CompiledModel | Package = (
        CompiledModel(folder / job.file, inputs=len(examples[0][0]), width=width)
        if job.form == "shared object"
        else Package(folder / job.file, job.place)
    )
    wanted = [graph(*_tensors(arrays, job.place)).cpu().numpy() for arrays, _ in examples]
    # Of all of them: a row's logit may be close to 0.
    scale = max(np.linalg.norm(expected, axis=1).max() for expected in wanted)
    for (arrays, rows), expected in zip(examples, wanted, strict=True):
        error = np.abs(model.run(arrays, rows) - expected).max() / scale
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
    job: CompileJob = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by `cache`, our parent process
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
