"""Our own kernels give torch's numbers, and where they cannot be had, torch is used and the log says so."""

import logging
import os
import stat
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from waiting import PATIENCE_SECONDS

from provider.backends.torch import bert_layers
from provider.backends.torch.bert_checkpoint import BertCheckpoint
from provider.backends.torch.bert_layers import ACTIVATIONS, NativeLayers, TorchLayers
from provider.backends.torch.linear import plain_linear
from provider.backends.torch.native import native_library
from provider.backends.torch.native_layers import NativeLinear
from provider.backends.torch.packed_bert import PackedBert
from provider.domain import TokenBatch
from provider.testing.tiny import tiny_bert

LENGTHS = (5, 1, 3, 120, 3, 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> BertCheckpoint:
    found = BertCheckpoint.open(tiny_bert(tmp_path_factory.mktemp("tiny")), torch.float32)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def encoders(checkpoint: BertCheckpoint) -> tuple[PackedBert, PackedBert]:
    """By torch, and by our kernels."""
    theirs, ours = PackedBert(checkpoint), PackedBert(checkpoint)
    layers = NativeLayers.of(checkpoint, checkpoint.positions())
    assert layers is not None
    theirs._layers, ours._layers = TorchLayers(checkpoint, checkpoint.positions(), plain_linear), layers
    return theirs, ours


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine where nothing was compiled yet; the folder of its cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native_library.cache_clear()
    yield tmp_path / "cache"
    native_library.cache_clear()


def compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def helper_seconds() -> float:
    """CPU time of the thread that helps passes."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "pass helper":
            return int((task / "schedstat").read_text().split()[0]) / 1e9
    return 0.0


def random_batch(**more: Any) -> TokenBatch:
    random = np.random.default_rng(0)
    return TokenBatch.of_rows([random.integers(5, 90, length).astype(np.int32) for length in LENGTHS], **more)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_layer_and_its_activation_give_what_torch_gives(activation: str) -> None:
    library = native_library()
    assert library is not None
    generator = torch.Generator().manual_seed(0)
    # Widths that are no multiple of a panel, and more inputs than one pass over a panel takes.
    for inputs, outputs in ((3, 5), (64, 96), (801, 37)):
        weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
        bias = torch.randn(outputs, generator=generator)
        layer = NativeLinear(library, weight.numpy(), bias.numpy(), activation)
        for rows in (*range(1, 15), 100):
            states, out = torch.randn(rows, inputs, generator=generator), torch.full((rows, outputs), torch.nan)
            layer.run(states.data_ptr(), rows, 2 if rows in {7, 100} else 1, out.data_ptr())
            expected = ACTIVATIONS[activation](functional.linear(states, weight, bias))
            torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("modes", [("mean",), ("cls",)])
def test_an_encoder_gives_what_torch_gives(encoders: Any, modes: Any, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with torch.inference_mode():
        theirs, ours = (encoder.pooled(random_batch(), modes) for encoder in encoders)
    torch.set_num_threads(before)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_tokens_that_are_not_attended_to_change_no_other(checkpoint: BertCheckpoint, encoders: Any) -> None:
    batch = random_batch()
    unattended = np.array([2, 0, 1, 100, 0, 0])
    batch = TokenBatch(batch.ids, batch.offsets, batch.skips, unattended=unattended)
    with torch.inference_mode():
        theirs, ours = (encoder.blocks(batch) for encoder in encoders)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.states, other.states, rtol=1e-4, atol=1e-5)


def test_numbers_that_are_none_stay_visible() -> None:
    library = native_library()
    assert library is not None
    layer = NativeLinear(library, np.eye(4, dtype=np.float32), np.zeros(4, np.float32), "gelu")
    states = torch.ones(3, 4)
    states[1, 2], states[2, 2] = torch.nan, torch.inf
    out = torch.zeros(3, 4)
    layer.run(states.data_ptr(), 3, 1, out.data_ptr())
    assert torch.isfinite(out).all(1).tolist() == [True, False, False]


@pytest.mark.parametrize("bad", [-1, 10_000])
def test_an_id_that_is_no_token_is_an_error(encoders: Any, bad: int) -> None:
    with pytest.raises(IndexError):
        encoders[1].pooled(TokenBatch.of_rows([np.array([5, bad], np.int32)]), ("mean",))


def test_a_row_that_is_too_long_is_an_error(encoders: Any) -> None:
    with pytest.raises(IndexError):
        encoders[1].pooled(TokenBatch.of_rows([np.full(10_000, 5, np.int32)]), ("mean",))


def test_kernels_with_other_numbers_are_not_used(
    checkpoint: BertCheckpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bert_layers, "_TOLERANCE", -1.0)
    assert NativeLayers.of(checkpoint, checkpoint.positions()) is None
    assert "our kernels differ" in caplog.text


def test_the_compiler_and_its_arguments_run_once(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    logged = compiler(tmp_path, f'echo "$@" >> {log}; exec cc "$@"')
    monkeypatch.setenv("CC", f"{logged} -DUNUSED")
    for _ in range(2):
        assert native_library() is not None
        native_library.cache_clear()
    assert sum("-DUNUSED" in line and "native.c" in line for line in log.read_text().splitlines()) == 1
    assert stat.S_IMODE((fresh / "emb-provider" / "native").stat().st_mode) == 0o700


CRASHES = """
test "$1" = --version && exit
while test "$1" != -o; do shift; done
echo '__attribute__((constructor)) static void crash(void) { __builtin_trap(); }' | exec cc -shared -fPIC -o "$2" -x c -
"""


@pytest.mark.parametrize(
    ("script", "words"),
    [("echo 'native.c:1: error: no such machine' >&2; exit 1", "error: no such machine"), (CRASHES, "SIG")],
)
@pytest.mark.usefixtures("fresh")
def test_with_a_compiler_that_fails_torch_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, script: str, words: str
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CC", compiler(tmp_path, script))
    assert native_library() is None
    assert words in caplog.text


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_torch_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, checkpoint: BertCheckpoint
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert PackedBert(checkpoint).linear in {"torch", "onednn"}
    assert PackedBert(checkpoint).linear in {"torch", "onednn"}
    assert caplog.text.count("there is no C compiler") == 1


def test_a_cache_that_cannot_be_written_is_done_without(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fresh.mkdir()
    (fresh / "emb-provider").write_text("in the way")
    assert native_library() is not None
    assert "cannot be kept" in caplog.text
    assert [path.name for path in fresh.iterdir()] == ["emb-provider"]


def test_a_cache_that_nothing_can_be_run_from_is_done_without(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    assert native_library() is not None
    assert "mounted noexec" in caplog.text
    assert not [*fresh.rglob("native.so")]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the CPU time of a thread")
def test_a_pass_that_is_the_only_one_is_helped_and_gives_the_same_bits(checkpoint: BertCheckpoint) -> None:
    layers = NativeLayers.of(checkpoint, checkpoint.positions(), helped=True)
    alone = NativeLayers.of(checkpoint, checkpoint.positions())
    assert layers is not None
    assert alone is not None
    rows = PackedBert(checkpoint)._rows(random_batch())
    with one_torch_thread():
        expected = alone.run(rows)
        before, deadline = helper_seconds(), time.monotonic() + PATIENCE_SECONDS
        # On a busy machine it waits for a core long; every pass gives the same meanwhile.
        while helper_seconds() <= before:
            assert torch.equal(layers.run(rows), expected)
            assert time.monotonic() < deadline


def test_passes_that_run_at_once_are_helped_one_at_a_time(checkpoint: BertCheckpoint) -> None:
    layers = NativeLayers.of(checkpoint, checkpoint.positions(), helped=True)
    assert layers is not None
    rows = PackedBert(checkpoint)._rows(random_batch())
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as lanes:
        expected = lanes.submit(layers.run, rows).result(PATIENCE_SECONDS)
        found = [lanes.submit(layers.run, rows) for _ in range(200)]
        assert all(torch.equal(each.result(PATIENCE_SECONDS), expected) for each in found)
