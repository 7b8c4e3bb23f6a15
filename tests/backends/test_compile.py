"""Compiled models give the vectors of uncompiled ones, are compiled once, and never while they serve."""

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from processes import clean_environment, running

from provider.backends import (
    BackendOptions,
    BackendUnavailable,
    InvalidModel,
    ModelSpec,
    TokenBatch,
    Vectors,
)
from provider.backends.kit.devices import Accelerators
from provider.backends.torch import linear as torch_linear
from provider.backends.torch.backend import TorchBackend, TorchOptions
from provider.backends.torch_compile import cache as compile_cache
from provider.backends.torch_compile.backend import TorchCompileBackend, TorchCompileOptions
from provider.backends.torch_compile.cache import CompileJob
from provider.backends.torch_compile.passes import split
from provider.models.spec import read_spec
from provider.testing import BackendContract, packaged_minilm
from provider.testing.tiny import tiny_bert, tiny_decoder, tiny_roberta

# Compiling takes its time, on a busy machine minutes: few models of one layer, each compiled once for all tests.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SHAPES: dict[str, Callable[[Path], Path]] = {
    "bert": lambda path: tiny_bert(path, layers=1, pooling=["cls", "mean"], dense=16),
    "positions from an offset": lambda path: tiny_roberta(path, layers=1),
    "decoder": lambda path: tiny_decoder(path, layers=1, max_seq_length=64),
}


def spec_of(folder: Path) -> ModelSpec:
    return read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]


def load(spec: ModelSpec, cache: Path, *, threads: int = 1, **options: Any) -> TorchCompileBackend:
    own = TorchCompileOptions(cache_folder=str(cache))
    return TorchCompileBackend.load(spec, BackendOptions(threads=threads, own=own, **options))


def plain(spec: ModelSpec, **options: Any) -> TorchBackend:
    return TorchBackend.load(spec, BackendOptions(own=TorchOptions(packed=False), **options))


def batch_of(*lengths: int, seed: int = 1) -> TokenBatch:
    random = np.random.default_rng(seed)
    rows = [random.integers(5, 60, length).astype(np.int32) for length in lengths]
    return TokenBatch.of_rows(rows, random.integers(0, [min(3, length) for length in lengths]).tolist())


def cosines(a: Vectors, b: Vectors) -> Any:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module", autouse=True)
def _slow_kernels() -> Iterator[None]:
    """Our own kernels are measured as the slowest, so that models of the BERT family are compiled too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_linear, "_seconds", lambda steps, _: [1.0 + i for i in range(len(steps))])
        yield


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    folder = tmp_path_factory.mktemp("tiny")
    return {name: spec_of(make(folder / name)) for name, make in SHAPES.items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, specs: dict[str, ModelSpec]) -> Path:
    """A cache that holds the first model of `SHAPES`; tests that need another add it."""
    folder = tmp_path_factory.mktemp("xdg") / "emb-provider" / "torch-compile"
    load(specs["bert"], folder).close()
    return folder


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")


class FromTheCache:
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _from_the_cache(cls, cache: Path) -> Iterator[None]:
        # The same models as in the cache, elsewhere: their fingerprints are the same.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
            yield


class TestTorchCompileBackend(FromTheCache, BackendContract):
    backend_class = TorchCompileBackend
    shapes: ClassVar = {"bert": SHAPES["bert"]}

    def test_batches_of_every_shape_give_the_vectors_of_the_plain_way(
        self, backend: TorchCompileBackend, spec: ModelSpec
    ) -> None:
        reference, random = plain(spec), np.random.default_rng(2)
        shapes = [(1,), (1, 1), (2,), (64,), (64, 1), (1,) * 32, (64, *[2] * 31)]
        shapes += [tuple(random.integers(1, 65, random.integers(1, 33)).tolist()) for _ in range(30)]
        for lengths in shapes:
            batch = batch_of(*lengths)
            ours, theirs = backend.run(batch)["dense"], reference.run(batch)["dense"]
            assert cosines(ours, theirs).min() > 0.99999, lengths
            np.testing.assert_allclose(ours, theirs, atol=1e-4)

    def test_ids_and_rows_that_the_model_has_no_place_for_fail_and_the_next_batch_does_not(
        self, backend: TorchCompileBackend
    ) -> None:
        good = batch_of(3)
        before = backend.run(good)["dense"]
        for bad in (-1, 10_000):
            with pytest.raises(ValueError, match=f"token id {bad}"):
                backend.run(TokenBatch.of_rows([np.array([5, bad], np.int32)]))["dense"]
        np.testing.assert_array_equal(backend.run(good)["dense"], before)


@pytest.mark.slow
class TestTorchCompileBackendOnOtherShapes(TestTorchCompileBackend):
    shapes: ClassVar = {name: make for name, make in SHAPES.items() if name != "bert"}


@pytest.mark.slow
class TestTorchCompileBackendOnTheRealModel(FromTheCache, BackendContract):
    backend_class = TorchCompileBackend
    shapes: ClassVar = {"all-MiniLM-L6-v2": packaged_minilm}


@pytest.mark.slow
def test_what_was_compiled_is_told(specs: dict[str, ModelSpec], cache: Path) -> None:
    load(specs["decoder"], cache).close()
    bert, decoder = (load(specs[name], cache).traits for name in ("bert", "decoder"))
    assert (bert.padding_is_free, decoder.padding_is_free) == (True, False)
    for traits in (bert, decoder):
        assert traits.extra["compiled"] is True
        assert traits.extra["cached"] is True
        assert traits.extra["linear"] in ("torch", "onednn")
        assert traits.extra["compile_seconds"] > 0


@pytest.mark.parametrize(
    "shape", [pytest.param(name, marks=[] if name == "bert" else [pytest.mark.slow]) for name in SHAPES]
)
def test_nothing_is_compiled_after_loading(
    shape: str, specs: dict[str, ModelSpec], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load(specs[shape], cache)
    calls = tmp_path / "calls"
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))

    def files() -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*"))

    before, random = files(), np.random.default_rng(4)
    for _ in range(40):
        backend.run(batch_of(*random.integers(1, 65, random.integers(1, 33)).tolist()))["dense"]
    assert files() == before
    assert not calls.exists()


def test_a_second_start_needs_no_compiler_and_loads_none_of_torchs(specs: dict[str, ModelSpec], cache: Path) -> None:
    script = """
import pickle, sys
from provider.backends import BackendOptions, TokenBatch
from provider.backends.torch_compile.backend import TorchCompileBackend, TorchCompileOptions
spec, cache, batch = pickle.load(sys.stdin.buffer)
backend = TorchCompileBackend.load(spec, BackendOptions(own=TorchCompileOptions(cache)))
shape = backend.run(batch)["dense"].shape
print(shape, sorted({"torch._dynamo", "torch._inductor", "transformers"} & set(sys.modules)))
"""
    import pickle

    done = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps((specs["bert"], str(cache), batch_of(4, 2))),
        env=clean_environment(PATH=""),
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.decode().strip() == "(2, 16) []"


def test_the_service_is_ready_from_the_cache_and_answers(specs: dict[str, ModelSpec], cache: Path) -> None:
    environment = clean_environment(
        XDG_CACHE_HOME=str(cache.parents[1]),
        EMB_PROVIDER_BACKEND="torch-compile",
        EMB_PROVIDER_MODEL_PATH=str(specs["bert"].folder),
        EMB_PROVIDER_MODEL_THREADS_PER_LANE="1",
        PATH="",
    )
    with running([], env=environment, cwd=cache) as server:
        server.wait_until_ready()
        details = server.get("/v1/models")[1]["data"][0]["details"]
        assert details["cached"] is True


def test_a_damaged_file_is_never_loaded(
    specs: dict[str, ModelSpec], cache: Path, tmp_path: Path, no_compiler: None, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    job = CompileJob(specs["bert"], "float32", 1)
    library = copy / job.key / job.file
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    with pytest.raises(BackendUnavailable, match=r"apt-get install g\+\+"):
        load(specs["bert"], copy)
    assert "damaged" in caplog.text


@pytest.mark.slow
def test_a_damaged_entry_is_made_anew_in_bfloat16_too(specs: dict[str, ModelSpec], tmp_path: Path) -> None:
    job = CompileJob(specs["bert"], "bfloat16", 1)
    entry = tmp_path / job.key
    entry.mkdir()
    (entry / job.file).write_bytes(b"half a fi")
    left = tmp_path / f".{entry.name}.unfinished"
    left.mkdir()
    made = load(specs["bert"], tmp_path, dtype="bfloat16")
    again = load(specs["bert"], tmp_path, dtype="bfloat16")
    assert (made.traits.extra["cached"], again.traits.extra["cached"]) == (False, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{entry.name}.lock", entry.name]
    batch = batch_of(9, 1, 30)
    assert cosines(again.run(batch)["dense"], plain(specs["bert"]).run(batch)["dense"]).min() > 0.999


@pytest.mark.slow
def test_without_a_usable_cache_folder_it_compiles_all_the_same_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.touch()
    spec = spec_of(tiny_roberta(tmp_path / "model", layers=1))
    backend = load(spec, file / "cache", threads=2)
    assert "cannot be kept" in caplog.text
    batch = batch_of(9, 1, 30)
    np.testing.assert_allclose(backend.run(batch)["dense"], plain(spec).run(batch)["dense"], atol=1e-4)


def test_without_a_compiler_it_says_what_to_install(
    specs: dict[str, ModelSpec], tmp_path: Path, no_compiler: None
) -> None:
    with pytest.raises(BackendUnavailable, match=r"no 'g\+\+'.*apt-get install g\+\+.*backend torch") as caught:
        load(specs["bert"], tmp_path)
    assert "\n" not in caught.value.message
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(
    specs: dict[str, ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "g++ 1.0" && exit\necho "error: out of paper" >&2\nexit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    cache = tmp_path / "cache"
    with pytest.raises(BackendUnavailable, match=r"BertModel.*out of paper.*backend torch"):
        load(specs["bert"], cache)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_damaged_weights_are_an_invalid_model(tmp_path: Path) -> None:
    spec = spec_of(tiny_decoder(tmp_path / "model", layers=1))
    (spec.folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidModel, match="cannot be loaded"):
        load(spec, tmp_path / "cache")


def test_mps_is_refused_with_the_way_out(
    specs: dict[str, ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have = Accelerators(has_mps=True)
    monkeypatch.setattr("provider.backends.torch_compile.backend.Accelerators.present", lambda _: have)
    for asked in ("mps", "auto"):
        with pytest.raises(BackendUnavailable, match=r"and on CUDA, not on 'mps'.*device to cpu.*backend torch"):
            load(specs["bert"], tmp_path, device=asked)


@pytest.mark.parametrize("change", ["dtype", "threads", "torch", "processor", "model"])
def test_whatever_decides_the_code_is_part_of_the_key(
    specs: dict[str, ModelSpec], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    job = CompileJob(specs["bert"], "float32", 1)
    before = job.key
    if change == "torch":
        monkeypatch.setattr(compile_cache.torch, "__version__", "9.9")
    if change == "processor":
        monkeypatch.setattr(compile_cache, "_processor", lambda: "another")
    other = {"dtype": CompileJob(job.spec, "bfloat16", 1), "threads": CompileJob(job.spec, "float32", 2)}
    other["model"] = CompileJob(specs["decoder"], "float32", 1)
    assert other.get(change, job).key != before


@pytest.mark.parametrize(
    ("lengths", "passes"),
    [
        ([15], [[0]]),
        ([8, 20, 13, 9], [[0, 1, 2, 3]]),
        ([8, 8, 200, 8, 8, 8, 8, 8], [[2], [0, 1, 3, 4, 5, 6, 7]]),
        ([400, 6, 60, 50, 6] + [6] * 20, [[0], [2, 3], [1, *range(4, 25)]]),
    ],
)
def test_rows_share_a_forward_pass_unless_padding_costs_more_than_another_one(
    lengths: list[int], passes: list[list[int]]
) -> None:
    assert [rows.tolist() for rows in split(np.array(lengths))] == passes


def test_files_of_the_cache_are_its_owners_own(cache: Path) -> None:
    assert cache.stat().st_mode & 0o077 == 0


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(compile_cache, "_run_compiler", full)
    cache = tmp_path / "cache"
    with pytest.raises(BackendUnavailable, match=f"cannot be written to {cache}: No space left on device"):
        load(spec_of(tiny_bert(tmp_path / "model", layers=1)), cache)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
