"""Converted models are kept: whole or not at all, for any number of processes, and never at the price of a start."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from emb_provider_openvino import OpenVINOBackend
from emb_provider_openvino.converted import Made, fetch
from openvino import opset13 as ops

from provider.store import Store

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
    first = fetch(Store(tmp_path / "new" / "folder"), "m", KEY, making(1))
    second = fetch(Store(tmp_path / "new" / "folder"), "m", KEY, never)
    assert (first.is_from_disk, second.is_from_disk) == (False, True)
    assert first.facts == second.facts == {"number": 1}
    assert answer(second.model) == answer(first.model) == 2


def test_another_key_is_another_model(tmp_path: Path) -> None:
    fetch(Store(tmp_path), "m", KEY, making(1))
    assert answer(fetch(Store(tmp_path), "m", {"model": "other"}, making(5)).model) == 6
    assert answer(fetch(Store(tmp_path), "m", KEY, never).model) == 2


@pytest.mark.parametrize("file", ["model.bin", "model.xml", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "removed"])
def test_what_is_damaged_is_converted_again_and_said(
    tmp_path: Path, file: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(Store(tmp_path), "m", KEY, making(1))
    (path,) = tmp_path.glob(f"*/{file}")
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2])
    again = fetch(Store(tmp_path), "m", KEY, making(1))
    assert not again.is_from_disk
    assert "is damaged: it is removed and made again" in caplog.text
    assert fetch(Store(tmp_path), "m", KEY, never).is_from_disk
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".lock", ""]


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        fetch(Store(tmp_path / "folder"), "m", KEY, never)
    assert [path.suffix for path in (tmp_path / "folder").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_said_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A file in the way stops every user, root too.
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "folder")
    for _ in range(2):
        found = fetch(store, "m", KEY, making(1))
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
    assert answer(fetch(Store(tmp_path), "m", KEY, making(1)).model) == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert "No space left on device" in caplog.text


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
