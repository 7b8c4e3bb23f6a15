"""Which file runs where: never a quantised one by accident, never one for another processor, and a way out if none."""

import json
import os
import platform
import shutil
from pathlib import Path

import pytest
from emb_provider_onnx.backend import OnnxBackend, OnnxOptions
from emb_provider_onnx.graph import Graph
from emb_provider_onnx.processor import QUANTISED_FILES, instruction_sets, set_in_name, sets_of
from emb_provider_onnx.selection import select_file
from emb_provider_onnx.session import choose_providers

from provider.backends import BackendOptions, BackendUnavailable, InvalidModel
from provider.models.spec import read_spec
from provider.testing.tiny import tiny_bert


def load(folder: Path, *, dtype: str = "auto", file: str | None = None, device: str = "auto") -> OnnxBackend:
    spec, _ = read_spec(folder, name="m", max_context_length=None, default_prompt=None)
    return OnnxBackend.load(spec, BackendOptions(device=device, dtype=dtype, own=OnnxOptions(file=file)))


def field(number: int, content: bytes | str | int) -> bytes:
    """A field of a protobuf message, for graphs that no exporter writes."""
    if isinstance(content, int):
        return bytes([number << 3, content])
    content = content.encode() if isinstance(content, str) else content
    return bytes([number << 3 | 2]) + len(content).to_bytes(1, "little") + content


def value(name: str, kind: int, *dimensions: str) -> bytes:
    shape = b"".join(field(1, field(2, each)) for each in dimensions)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def graph_file(path: Path, *, input_name: str, output_name: str) -> None:
    """A graph that answers its input's ids as numbers."""
    cast = field(1, input_name) + field(2, output_name) + field(4, "Cast")
    cast += field(5, field(1, "to") + field(3, 1) + bytes([20 << 3 & 0x7F | 0x80, 1, 2]))
    graph = field(1, cast) + field(2, "g")
    graph += field(11, value(input_name, 7, "b", "s")) + field(12, value(output_name, 1, "b", "s"))
    size = len(graph)
    body = bytes([7 << 3 | 2, size & 0x7F | 0x80, size >> 7]) if size > 127 else bytes([7 << 3 | 2, size])
    path.write_bytes(field(1, 8) + body + graph + field(8, field(2, 17)))


def test_the_plain_file_is_float32_and_the_quantised_one_int8(exported: Path) -> None:
    plain = Graph.read(exported / "onnx" / "model.onnx")
    (quantised,) = (exported / "onnx").glob("model_q*.onnx")
    assert (plain.dtype, Graph.read(quantised).dtype) == ("float32", "int8")
    assert plain.digest() != Graph.read(quantised).digest()
    assert load(exported, file=quantised.name).traits.dtype == "int8"


def test_without_an_onnx_file_the_way_to_one_is_told(tiny: Path) -> None:
    shutil.rmtree(tiny / "onnx")
    with pytest.raises(InvalidModel, match=r"has no onnx/model\.onnx: it has no \.onnx file\. .*emb-provider export"):
        load(tiny)


def test_a_file_of_another_name_is_not_taken_for_it(tiny: Path) -> None:
    (tiny / "onnx" / "model.onnx").rename(tiny / "onnx" / "mine.onnx")
    with pytest.raises(InvalidModel, match=r"there are mine\.onnx \(options\.file names one\)"):
        load(tiny)
    assert load(tiny, file="mine.onnx").traits.extra["file"] == "mine.onnx"


def test_a_file_beside_the_configuration_is_found_too(tiny: Path) -> None:
    (tiny / "onnx" / "model.onnx").rename(tiny / "model.onnx")
    assert load(tiny).traits.dtype == "float32"


def test_a_file_is_named_without_a_path(tiny: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"options\.file is '\.\./model\.onnx', expected the name"):
        load(tiny, file="../model.onnx")


def test_int8_without_a_quantised_file_says_how_to_make_one(tiny: Path) -> None:
    with pytest.raises(InvalidModel, match=r"no quantised file .*there are model\.onnx\. .* --quantize int8"):
        load(tiny, dtype="int8")


def test_a_quantised_file_under_the_plain_name_is_refused_unless_int8_is_asked_for(exported: Path, tiny: Path) -> None:
    (quantised,) = (exported / "onnx").glob("model_q*.onnx")
    shutil.copy(quantised, tiny / "onnx" / "model.onnx")
    with pytest.raises(InvalidModel, match=r"model\.onnx is int8, and float32 is wanted; set dtype to int8"):
        load(tiny)


def test_a_file_quantised_for_another_processor_is_refused(exported: Path, tiny: Path) -> None:
    (quantised,) = (exported / "onnx").glob("model_q*.onnx")
    other = next(name for name in QUANTISED_FILES if name not in instruction_sets())
    shutil.copy(quantised, tiny / "onnx" / QUANTISED_FILES[other])
    with pytest.raises(
        BackendUnavailable, match=f"quantised for {other}, and this processor has {instruction_sets()[0]}"
    ):
        load(tiny, file=QUANTISED_FILES[other])
    with pytest.raises(
        InvalidModel, match=rf"no quantised file for .*: there are model\.onnx, {QUANTISED_FILES[other]}"
    ):
        load(tiny, dtype="int8")


def test_a_dtype_that_the_file_is_not_of_is_refused(tiny: Path) -> None:
    with pytest.raises(InvalidModel, match="is float32, and float16 is wanted"):
        load(tiny, dtype="float16")
    with pytest.raises(BackendUnavailable, match="unknown dtype 'int4'; allowed are auto, float32"):
        load(tiny, dtype="int4")


@pytest.mark.parametrize("keep", [0, 5, 40_000])
def test_a_damaged_file_is_named(tiny: Path, keep: int) -> None:
    os.truncate(tiny / "onnx" / "model.onnx", keep)
    with pytest.raises(InvalidModel, match=r"model\.onnx cannot be read or is no whole ONNX file"):
        load(tiny)


def test_a_pointer_of_git_lfs_is_told_from_a_graph(tiny: Path) -> None:
    (tiny / "onnx" / "model.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InvalidModel, match="Git LFS pointer"):
        load(tiny)


def test_weights_beside_the_file_have_to_be_there_and_count_for_the_digest(tmp_path: Path) -> None:
    place = field(1, "location") + field(2, "model.onnx_data")
    tensor = field(1, 3) + field(2, 10) + field(13, place)
    path = tmp_path / "model.onnx"
    path.write_bytes(field(7, field(5, tensor)))
    with pytest.raises(InvalidModel, match=r"keeps weights in model\.onnx_data, which is not beside it"):
        Graph.read(path)
    (tmp_path / "model.onnx_data").write_bytes(b"one")
    graph = Graph.read(path)
    assert (graph.dtype, [each.name for each in graph.files]) == ("float16", ["model.onnx", "model.onnx_data"])
    before = graph.digest()
    (tmp_path / "model.onnx_data").write_bytes(b"two")
    assert graph.digest() != before
    path.write_bytes(field(7, field(5, field(13, field(1, "location") + field(2, "../secret")))))
    with pytest.raises(InvalidModel, match=r"weights in '\.\./secret', expected the name of a file beside it"):
        Graph.read(path)


def test_a_graph_that_pools_by_itself_is_refused(tiny: Path) -> None:
    graph_file(tiny / "onnx" / "model.onnx", input_name="input_ids", output_name="sentence_embedding")
    with pytest.raises(InvalidModel, match=r"gives sentence_embedding and no hidden states .*emb-provider export"):
        load(tiny)


def test_a_graph_with_inputs_of_another_kind_is_refused(tiny: Path) -> None:
    graph_file(tiny / "onnx" / "model.onnx", input_name="pixel_values", output_name="last_hidden_state")
    with pytest.raises(InvalidModel, match=r"asks for the inputs pixel_values; supported are input_ids"):
        load(tiny)


def test_a_graph_of_another_width_is_refused(tiny: Path) -> None:
    graph_file(tiny / "onnx" / "model.onnx", input_name="input_ids", output_name="last_hidden_state")
    with pytest.raises(InvalidModel, match=r"expected hidden states \(rows, width, 32\)"):
        load(tiny)


def test_a_provider_that_is_not_there_says_which_are() -> None:
    with pytest.raises(BackendUnavailable, match=r"no execution provider 'Warp'; it has: .*CPU.*onnxruntime-gpu"):
        choose_providers("auto", ["Warp"])


def test_providers_are_named_with_or_without_their_ending() -> None:
    cpu = [("CPUExecutionProvider", {})]
    assert choose_providers("auto", ["CPU"]) == choose_providers("cpu", []) == cpu
    assert choose_providers("cpu", ["CPUExecutionProvider"]) == cpu


@pytest.mark.parametrize("device", ["mps", "cuda:x", "cpu:1"])
def test_a_device_of_another_name_is_refused(tiny: Path, device: str) -> None:
    with pytest.raises(BackendUnavailable, match=f"unknown device '{device}'.*allowed are auto, cpu, cuda, cuda:N"):
        load(tiny, device=device)


@pytest.mark.parametrize(
    ("machine", "flags", "sets"),
    [
        ("x86_64", {"avx2", "avx512f", "avx512_vnni"}, ("avx512_vnni", "avx512", "avx2")),
        ("x86_64", {"avx2", "avx_vnni"}, ("avx512_vnni", "avx512", "avx2")),
        ("x86_64", {"avx2", "avx512f"}, ("avx2",)),
        ("x86_64", {"sse4_2"}, ()),
        ("aarch64", {"asimddp"}, ("arm64",)),
        ("arm64", set(), ("arm64",)),
    ],
)
def test_instruction_sets_follow_the_processor(machine: str, flags: set[str], sets: tuple[str, ...]) -> None:
    assert sets_of(machine, frozenset(flags)) == sets


def test_this_processor_runs_a_quantised_file() -> None:
    assert instruction_sets(), platform.machine()


def test_the_instruction_set_is_read_from_the_end_of_the_name() -> None:
    assert {name: set_in_name(file) for name, file in QUANTISED_FILES.items()} == {
        name: name for name in QUANTISED_FILES
    }
    assert set_in_name("model_quantized.onnx") is None


@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx", "0_Transformer/onnx/model.onnx"])
def test_of_a_transformer_in_a_sub_folder_a_file_there_or_at_the_top_is_found(place: str, tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "model")
    (folder / "0_Transformer").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(folder / "0_Transformer" / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    spec, _ = read_spec(folder, name="m", max_context_length=None, default_prompt=None)
    with pytest.raises(InvalidModel, match=rf"{folder} has no onnx/model\.onnx: it has no \.onnx file"):
        select_file(spec, dtype="auto", file=None)
    (folder / place).parent.mkdir(exist_ok=True)
    graph_file(folder / place, input_name="input_ids", output_name="last_hidden_state")
    assert select_file(spec, dtype="auto", file=None).path == folder / place
