"""Weights on disk."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from provider.errors import InvalidModel
from provider.models.weights import check_safetensors, fingerprint, weight_bytes, weight_files


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A whole file."""
    path = tmp_path / "model.safetensors"
    save_file({"a": np.ones((4, 4), np.float32), "b": np.zeros(3, np.float16)}, path, metadata={"format": "pt"})
    return path


def test_a_whole_file_passes(weights: Path) -> None:
    check_safetensors(weights)
    assert weight_files(weights.parent) == (weights,)
    assert weight_bytes(weights.parent) == weights.stat().st_size


@pytest.mark.parametrize("kept", [0, 5, 8, 20, -1])
def test_a_truncated_file_says_how_much_is_missing(kept: int, weights: Path) -> None:
    whole = weights.read_bytes()
    weights.write_bytes(whole[:kept])
    with pytest.raises(InvalidModel, match=r"is truncated: \d+ bytes, expected .*\d+; download it again"):
        check_safetensors(weights)


def test_a_file_with_something_behind_it_is_damaged(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(InvalidModel, match="is damaged"):
        check_safetensors(weights)


@pytest.mark.parametrize(
    "content", [b"\x80\x04}" + b"x" * 100, b"PK\x03\x04" + b"\0" * 100, (9).to_bytes(8, "little") + b"[1, 2, 3]"]
)
def test_another_kind_of_file_is_damaged_or_truncated(content: bytes, weights: Path) -> None:
    weights.write_bytes(content)
    with pytest.raises(InvalidModel, match="download it again"):
        check_safetensors(weights)


def test_a_git_lfs_pointer_says_how_to_get_the_weights(weights: Path) -> None:
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n")
    with pytest.raises(InvalidModel, match="git lfs pull"):
        check_safetensors(weights)


def index(folder: Path, *names: str) -> None:
    entries = {f"t{i}": name for i, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": entries}))


def test_shards_are_those_that_the_index_lists(weights: Path) -> None:
    folder = weights.parent
    one, two = folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors"
    shutil.copy(weights, two)
    weights.rename(one)
    index(folder, two.name, one.name, two.name)
    assert weight_files(folder) == (one, two)
    assert weight_bytes(folder) == 2 * one.stat().st_size


def test_an_index_without_metadata_says_what_to_add(weights: Path) -> None:
    listed = {"weight_map": {"tensor": "shard.safetensors"}}
    weights.rename(weights.with_name("shard.safetensors"))
    (weights.parent / "model.safetensors.index.json").write_text(json.dumps(listed))
    with pytest.raises(InvalidModel, match=r'index\.json has no "metadata".*add "metadata": \{\}'):
        weight_files(weights.parent)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index(tmp_path, "model-00001-of-00001.safetensors")
    with pytest.raises(InvalidModel, match=r"lacks model-00001-of-00001\.safetensors"):
        weight_files(tmp_path)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/x.safetensors", "model.bin"])
def test_an_index_names_only_safetensors_beside_it(name: str, tmp_path: Path) -> None:
    index(tmp_path, name)
    with pytest.raises(InvalidModel, match=r"expected the name of a \.safetensors file beside it"):
        weight_files(tmp_path)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InvalidModel, match=r"pickled weights .*emb-provider convert .*model\.convert_weights"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("README.md", r"has no model\.safetensors and no weights of another kind"),
        (
            "onnx/model.onnx",
            r"only ONNX files \(onnx/model\.onnx\): install emb-provider-onnx .*\./plugins/onnx .*--backend onnx",
        ),
        (
            "openvino/openvino_model.xml",
            r"only OpenVINO files .*\./plugins/openvino .*--backend openvino",
        ),
        ("model-q4.gguf", r"only GGUF files, .*\(model-q4\.gguf\)"),
        ("tf_model.h5", r"only weights of another library \(tf_model\.h5\)"),
        ("model.fp16.safetensors", r"only safetensors of other names \(model\.fp16\.safetensors\)"),
        ("training_args.bin", r"no weights of another kind"),
    ],
)
def test_a_folder_without_weights_says_what_is_there_instead(other: str, words: str, tmp_path: Path) -> None:
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).touch()
    with pytest.raises(InvalidModel, match=words):
        weight_files(tmp_path)


def test_a_fingerprint_does_not_depend_on_the_place(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "deep" / "two"
    (one / "sub").mkdir(parents=True)
    (one / "a").write_bytes(b"1" * 3_000_000)
    (one / "sub" / "b").write_bytes(b"2")
    shutil.copytree(one, two)
    marks = [fingerprint(folder, [folder / "sub" / "b", folder / "a"]) for folder in (one, two)]
    assert marks[0] == marks[1] == fingerprint(one, [one / "a", one / "sub" / "b", one / "a"])
    assert len(marks[0]) == 16
    assert int(marks[0], 16) >= 0


def test_a_fingerprint_depends_on_every_byte_and_on_where_files_end(tmp_path: Path) -> None:
    contents = [(b"ab", b"c"), (b"a", b"bc"), (b"ab", b"d"), (b"abc", b"")]
    marks = set()
    for first, second in contents:
        (tmp_path / "x").write_bytes(first)
        (tmp_path / "y").write_bytes(second)
        marks.add(fingerprint(tmp_path, [tmp_path / "x", tmp_path / "y"]))
    assert len(marks) == len(contents)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"/gone cannot be read"):
        fingerprint(tmp_path, [tmp_path / "gone"])
