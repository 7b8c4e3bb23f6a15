"""Converted models are kept: whole or not at all, for any number of processes, and never at the price of a start."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from emb_provider_openvino import OpenVINOBackend
from emb_provider_openvino.store import Made, Store
from openvino import opset13 as ops

KEY = {"model": "abc"}


def add(number: float) -> openvino.Model:
    """A model that adds `number`."""
    given = ops.parameter([-1], np.float32, name="given")
    return openvino.Model([ops.add(given, np.array([number], np.float32))], [given], "add")


def answer(model: openvino.Model) -> float:
    return float(openvino.compile_model(model, "CPU")([np.ones(1, np.float32)])[0][0])


def making(number: float, calls: list[float] | None = None) -> Callable[[], Made]:
    def make() -> Made:
        if calls is not None:
            calls.append(number)
        return add(number), {"number": number}

    return make


def never() -> Made:
    msg = "it was there already"
    raise AssertionError(msg)


def test_what_was_converted_once_is_not_converted_again(tmp_path: Path) -> None:
    first = Store(tmp_path / "new" / "folder").fetch("m", KEY, making(1))
    second = Store(tmp_path / "new" / "folder").fetch("m", KEY, never)
    assert (first.is_from_disk, second.is_from_disk) == (False, True)
    assert first.facts == second.facts == {"number": 1}
    assert answer(second.model) == answer(first.model) == 2


def test_another_key_is_another_model(tmp_path: Path) -> None:
    Store(tmp_path).fetch("m", KEY, making(1))
    assert answer(Store(tmp_path).fetch("m", {"model": "other"}, making(5)).model) == 6
    assert answer(Store(tmp_path).fetch("m", KEY, never).model) == 2


@pytest.mark.parametrize("file", ["model.bin", "model.xml", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "removed"])
def test_what_is_damaged_is_converted_again_and_said(
    tmp_path: Path, file: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    Store(tmp_path).fetch("m", KEY, making(1))
    (path,) = tmp_path.glob(f"*/{file}")
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2])
    again = Store(tmp_path).fetch("m", KEY, making(1))
    assert not again.is_from_disk
    assert "is damaged: it is removed and converted again" in caplog.text
    assert Store(tmp_path).fetch("m", KEY, never).is_from_disk
    assert len(list(tmp_path.iterdir())) == 1


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Store(tmp_path / "folder").fetch("m", KEY, never)
    assert not (tmp_path / "folder").exists()


def test_a_folder_that_cannot_be_written_is_said_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A file in the way stops every user, root too.
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "folder")
    for _ in range(2):
        found = store.fetch("m", KEY, making(1))
        assert (answer(found.model), found.is_from_disk) == (2, False)
    assert "cannot be kept in" in caplog.text
    assert "make the folder writable or set options.cache_folder" in caplog.text


def test_a_disk_that_is_full_half_way_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def half(model: openvino.Model, path: Path, **_: Any) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino, "save_model", half)
    assert answer(Store(tmp_path).fetch("m", KEY, making(1)).model) == 2
    assert list(tmp_path.iterdir()) == []
    assert "No space left on device" in caplog.text


def test_whoever_comes_second_leaves_what_is_there(tmp_path: Path) -> None:
    def meanwhile_the_other() -> Made:
        Store(tmp_path).fetch("m", KEY, making(1))
        return making(1)()

    assert answer(Store(tmp_path).fetch("m", KEY, meanwhile_the_other).model) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_processes_that_start_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]); from test_store import *;"
        "print([answer(Store(pathlib.Path(sys.argv[1])).fetch('m', {'k': str(i)}, making(i)).model) for i in range(8)])"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for each in both:
        out, err = each.communicate(timeout=60)
        assert out.strip() == str([float(i + 1) for i in range(8)]), err
    assert len(list(tmp_path.iterdir())) == 8


def test_what_a_killed_process_left_unfinished_is_removed_after_a_day(tmp_path: Path) -> None:
    old, fresh = tmp_path / ".unfinished-old", tmp_path / ".unfinished-fresh"
    for folder in (old, fresh):
        folder.mkdir()
        (folder / "half").touch()
    os.utime(old, times=(time.time() - 90_000,) * 2)
    Store(tmp_path).fetch("m", KEY, making(1))
    assert (old.exists(), fresh.exists()) == (False, True)


def test_it_is_in_the_users_cache_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert Store.at(None, {}) == Store(Path("/home/me/.cache/emb-provider/openvino"))
    assert Store.at(None, {"XDG_CACHE_HOME": "/cache"}) == Store(Path("/cache/emb-provider/openvino"))
    assert Store.at("~/mine", {}) == Store(Path("/home/me/mine"))


def test_a_second_start_of_the_backend_does_not_convert(
    tmp_path: Path, load: Callable[..., OpenVINOBackend], caplog: pytest.LogCaptureFixture
) -> None:
    from provider.models.spec import read_spec
    from provider.testing.tiny import tiny_bert

    folder = tiny_bert(tmp_path / "model")
    spec = read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]
    with caplog.at_level(logging.INFO):
        sources = [load(spec, cache_folder=str(tmp_path / "kept")).traits.extra["source"] for _ in range(2)]
    assert sources == ["conversion", "cache"]
    assert caplog.text.count("was converted in") == 1
