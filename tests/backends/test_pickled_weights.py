"""Pickled weights become safetensors bit for bit, and whatever is more than weights is refused."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from provider.backends.torch.pickled_weights import UnreadableWeightsError, convert_file


def pickled(path: Path, content: Any, *, is_zip: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


@pytest.mark.parametrize("is_zip", [True, False])
def test_every_tensor_keeps_name_type_shape_and_bits(is_zip: bool, tmp_path: Path) -> None:
    """In today's format of torch.save and in that of before 1.6."""
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "module.a": base,
        "half": torch.randn(5).half(),
        "bfloat": torch.randn(2, 2).bfloat16(),
        "position_ids": torch.arange(7),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "tied": base,
        "transposed": base.t(),
        "slice": base[1:],
        "expanded": torch.ones(1).expand(9),
        "flag": torch.tensor([True]),
        "empty": torch.zeros(0),
        "nan": torch.tensor([float("nan"), float("-inf"), -0.0]),
    }
    source = pickled(tmp_path / "pytorch_model.bin", OrderedDict(tensors), is_zip=is_zip)
    assert convert_file(source, tmp_path / "model.safetensors") is None
    converted = load_file(tmp_path / "model.safetensors")
    assert converted.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (converted[name].dtype, converted[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(converted[name].view(torch.uint8), tensor.detach().contiguous().view(torch.uint8))


def test_entries_that_are_no_tensors_are_left_out_and_told(tmp_path: Path) -> None:
    source = pickled(tmp_path / "x.bin", {"weight": torch.ones(2), "epoch": 3, "optimizer": {"lr": 0.1}})
    told = convert_file(source, tmp_path / "x.safetensors")
    assert told == f"{source} also holds epoch, optimizer, which are no tensors and were left out"
    assert list(load_file(tmp_path / "x.safetensors")) == ["weight"]


class Runs:
    """Unpickled as usual, calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("function", [os.system, eval, exec, os.mkdir, getattr, torch.hub.load])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(function: Any, is_zip: bool, tmp_path: Path) -> None:
    argument = f"mkdir {tmp_path}/ran" if function is os.system else f"{tmp_path}/ran"
    argument = f"__import__('os').mkdir('{tmp_path}/ran')" if function in (eval, exec) else argument
    content = {"weight": torch.ones(2), "code": Runs(function, argument)}
    source = pickled(tmp_path / "pytorch_model.bin", content, is_zip=is_zip)
    with pytest.raises(UnreadableWeightsError, match=r"pytorch_model\.bin is refused: it asks for \S+, .*nothing was"):
        convert_file(source, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_model.bin"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is damaged"),
        (b"<html>not found</html>", "or is damaged"),
        (b"PK\x03\x04" + b"x" * 100, "is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"cos\nsystem\n(S'true'\ntR.", r"asks for os\.system"),
        (pickle.dumps({"weight": 1}, protocol=2), "is damaged"),
    ],
)
def test_a_file_that_torch_did_not_write_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    source = tmp_path / "pytorch_model.bin"
    source.write_bytes(content)
    with pytest.raises(UnreadableWeightsError, match=rf"pytorch_model\.bin .*{says}"):
        convert_file(source, tmp_path / "model.safetensors")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_that_is_cut_short_is_damaged(is_zip: bool, tmp_path: Path) -> None:
    source = pickled(tmp_path / "pytorch_model.bin", {"weight": torch.ones(500)}, is_zip=is_zip)
    source.write_bytes(source.read_bytes()[:-700])
    with pytest.raises(UnreadableWeightsError, match="is damaged"):
        convert_file(source, tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.ones(2)], "holds a list, expected a state dict"),
        ({"state_dict": {"weight": torch.ones(2)}}, "no tensors by name"),
        ({}, "no tensors by name"),
        ({"weight": torch.ones(2).to_sparse()}, "sparse or quantised tensor 'weight'"),
        ({"weight": torch.zeros(2, dtype=torch.complex128)}, "safetensors cannot hold"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: Any, says: str, tmp_path: Path) -> None:
    source = pickled(tmp_path / "pytorch_model.bin", content)
    with pytest.raises(UnreadableWeightsError, match=says):
        convert_file(source, tmp_path / "model.safetensors")
