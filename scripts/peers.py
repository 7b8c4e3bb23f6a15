"""Servers that are compared: their commands, and their models in the forms that they read.

Other servers are installed from PyPI into a folder of their own.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from provider.testing import packaged_minilm

INFINITY = ("infinity-emb[server,torch,optimum]==0.0.78", "transformers<5")
SERVED = "minilm"
LLAMA_CPP = "llama-cpp-python==0.3.36"  # its source distribution has all of llama.cpp


def provider(model: Path, backend: str, *, cache: bool = False) -> tuple[Sequence[str], dict[str, str]]:
    """Command and environment of this server; `backend` is NAME or NAME/DTYPE."""
    name, _, dtype = backend.partition("/")
    command = [sys.executable, "-m", "provider", "serve", "--port", "{port}", "--model", str(model)]
    command += ["--backend", name, *(["--dtype", dtype] if dtype else [])]
    return command, {"EMB_PROVIDER_LOG_LEVEL": "WARNING", "EMB_PROVIDER_CACHE_ENABLED": str(cache).lower()}


def exported(cache: Path, backend: str) -> Path:
    """The packaged model with an ONNX graph, float32 or int8, written to `cache` unless it is there."""
    is_int8 = backend.endswith("/int8")
    folder = cache / ("onnx-int8" if is_int8 else "onnx")
    if not folder.exists():
        note(f"exporting the model for {backend}")
        command = [sys.executable, "-m", "provider", "export", str(packaged_minilm()), "--to", "onnx"]
        call(*command, "--output", str(folder), *(["--quantize", "int8"] if is_int8 else []))
    return folder


def rerank_model(folder: Path) -> Path:
    """The packaged transformer with a classification head of random weights."""
    import transformers  # noqa: PLC0415 - seconds that `--help` need not pay

    if not (folder / "config.json").exists():
        transformers.BertForSequenceClassification.from_pretrained(packaged_minilm(), num_labels=1).save_pretrained(
            folder
        )
        transformers.AutoTokenizer.from_pretrained(packaged_minilm()).save_pretrained(folder)
    return folder


def infinity(folder: Path, model: Path) -> tuple[Sequence[str], dict[str, str]]:
    """Command and environment of infinity, torch engine, float32; installed into `folder` unless it is there."""
    done = folder / "installed"
    if not done.exists():
        note("installing infinity")
        venv.create(folder, clear=True, with_pip=True)
        call(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *INFINITY)
        done.touch()
    command = [str(folder / "bin" / "infinity_emb"), "v2", "--model-id", str(model), "--served-model-name", SERVED]
    command += ["--port", "{port}", "--url-prefix", "/v1", "--engine", "torch", "--device", "cpu", "--dtype", "float32"]
    command += ["--no-bettertransformer", "--no-compile"]
    return command, {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


def llama_cpp(binary: Path, weights: Path) -> Sequence[str]:
    """Command of llama.cpp's server: 8 slots of 512 tokens, batches of 2,048."""
    command = [str(binary), "--model", str(weights), "--alias", SERVED, "--port", "{port}"]
    command += ["--embeddings", "--pooling", "mean"]
    return [*command, "--parallel", "8", "--ctx-size", "4096", "--batch-size", "2048", "--ubatch-size", "2048"]


def llama_server(folder: Path) -> Path:
    """The binary, compiled in `folder` for this processor unless it is there."""
    binary, source = folder / "build" / "bin" / "llama-server", llama_source(folder)
    if not binary.exists():
        note("compiling llama.cpp's server")
        off = ("BUILD_SHARED_LIBS", "LLAMA_CURL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI")
        options = ["-DCMAKE_BUILD_TYPE=Release", *(f"-D{each}=OFF" for each in (*off, "LLAMA_USE_PREBUILT_UI"))]
        call("cmake", "-S", str(source), "-B", str(folder / "build"), *options)
        jobs = str(os.cpu_count() or 1)
        call("cmake", "--build", str(folder / "build"), "--target", "llama-server", "--parallel", jobs)
    return binary


def llama_source(folder: Path) -> Path:
    """llama.cpp's sources, unpacked in `folder`."""
    source = folder / f"{LLAMA_CPP.replace('-', '_').replace('==', '-')}" / "vendor" / "llama.cpp"
    if not source.exists():
        note("downloading llama.cpp's sources")
        with tempfile.TemporaryDirectory() as download:
            call(
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--no-binary",
                ":all:",
                "-d",
                download,
                LLAMA_CPP,
            )
            for archive in Path(download).iterdir():
                with tarfile.open(archive) as packed:
                    packed.extractall(folder, filter="data")
    return source


def gguf(folder: Path, model: Path) -> Path:
    """`model` in llama.cpp's format, float32, written by its own converter unless it is there."""
    file = folder / "minilm-f32.gguf"
    if not file.exists():
        note("converting the model for llama.cpp")
        converter = llama_source(folder) / "convert_hf_to_gguf.py"
        call(sys.executable, str(converter), str(model), "--outtype", "f32", "--outfile", str(file))
    return file


def call(*command: str) -> None:
    """Run a command; what it prints goes to standard error."""
    subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603 - commands of this module


def note(text: str) -> None:
    """Say on standard error what is going on."""
    print(text, file=sys.stderr, flush=True)
