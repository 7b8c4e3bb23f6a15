"""Models of the BERT family are not compiled where our own kernels are faster."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from provider.backends import SCORES, BackendOptions, Features, TokenBatch
from provider.backends.torch import linear as torch_linear
from provider.backends.torch.backend import TorchBackend, TorchOptions
from provider.backends.torch_compile import cache as compile_cache
from provider.backends.torch_compile.backend import TorchCompileBackend, TorchCompileOptions
from provider.models.spec import read_spec
from provider.testing.tiny import tiny_bert, tiny_classifier, tiny_decoder, tiny_roberta


class CompilingError(Exception):
    pass


@pytest.fixture(autouse=True)
def _fast_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(*_: object) -> None:
        raise CompilingError

    # Our own kernels are the last that are tried.
    monkeypatch.setattr(torch_linear, "_seconds", lambda steps, _: [1.0 / (1 + i) for i in range(len(steps))])
    monkeypatch.setattr(compile_cache, "_run_compiler", compile_nothing)


def load(folder: Path, cache: Path, *, dtype: str = "auto") -> TorchCompileBackend:
    spec = read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]
    own = TorchCompileOptions(cache_folder=str(cache))
    return TorchCompileBackend.load(spec, BackendOptions(own=own, dtype=dtype))


@pytest.mark.parametrize("make", [tiny_bert, tiny_roberta, tiny_classifier])
def test_the_kernels_run_it_and_the_details_say_so(
    make: Callable[[Path], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backend = load(make(tmp_path / "model"), tmp_path / "cache")
    assert (backend.traits.extra["compiled"], backend.traits.extra["linear"]) == (False, "native")
    assert "is not compiled" in caplog.text
    spec = read_spec(tmp_path / "model", name="tiny", max_context_length=None, default_prompt=None)[0]
    reference = TorchBackend.load(spec, BackendOptions(own=TorchOptions(packed=False)))
    outputs = (SCORES,) if make is tiny_classifier else ("dense",)
    rows = [Features(np.arange(5, 5 + length, dtype=np.int32), outputs=outputs) for length in (9, 1, 30)]
    batch = TokenBatch.of(rows)
    ours, theirs = backend.run(batch), reference.run(batch)
    np.testing.assert_allclose(ours[outputs[0]], theirs[outputs[0]], atol=1e-4)
    backend.close()
    with pytest.raises(RuntimeError, match="closed"):
        backend.run(batch)


@pytest.mark.parametrize(("make", "dtype"), [(tiny_decoder, "auto"), (tiny_bert, "bfloat16")])
def test_what_they_do_not_cover_is_compiled(make: Callable[[Path], Path], dtype: str, tmp_path: Path) -> None:
    with pytest.raises(CompilingError):
        load(make(tmp_path / "model"), tmp_path / "cache", dtype=dtype)


def test_without_kernels_it_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider.backends.torch_compile.backend.native_library", lambda: None)
    with pytest.raises(CompilingError):
        load(tiny_bert(tmp_path / "model"), tmp_path / "cache")


def test_where_a_library_is_faster_it_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_linear, "_seconds", lambda steps, _: [1.0 + i for i in range(len(steps))])
    with pytest.raises(CompilingError):
        load(tiny_bert(tmp_path / "model"), tmp_path / "cache")
