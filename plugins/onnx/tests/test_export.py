"""`emb-provider export --to onnx` for real: what it writes, and what is left when it fails."""

import json
from pathlib import Path

import pytest
from emb_provider_onnx.exporter import export as exporter
from emb_provider_onnx.processor import QUANTISED_FILES, instruction_sets
from exports import export
from sentence_transformers import SentenceTransformer

from provider.backends.exporters import ExportOrder
from provider.errors import SettingsError
from provider.models.spec import read_spec
from provider.testing.tiny import tiny_bert

pytestmark = pytest.mark.slow


def test_the_folder_has_the_model_and_both_graphs(exported: Path, minilm: Path) -> None:
    quantised = QUANTISED_FILES[instruction_sets()[0]]
    assert sorted(path.name for path in (exported / "onnx").iterdir()) == ["model.onnx", quantised]
    for name in ("model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json", "config.json"):
        assert (exported / name).read_bytes() == (minilm / name).read_bytes()
    assert SentenceTransformer(str(exported), device="cpu").encode("a cat").shape == (384,)


def test_the_environment_is_made_once(exported: Path, tmp_path: Path) -> None:
    tiny_bert(tmp_path / "tiny")
    order = ("--optimize", "O1", "--quantize", "int8", "--output", str(tmp_path / "new"))
    done = export(str(tmp_path / "tiny"), *order, PIP_NO_INDEX="1")
    assert done.returncode == 0, done.stderr
    target = instruction_sets()[0]
    assert done.stderr.splitlines()[:4] == [
        "export: loading optimum",
        "export: exporting the model",
        f"export: quantising to int8 for {target}",
        "export: optimising the graph (O1)",
    ]
    assert done.stdout == f"{tmp_path / 'new'}\n"
    graphs = sorted(path.name for path in (tmp_path / "new" / "onnx").iterdir())
    assert graphs == ["model.onnx", QUANTISED_FILES[target]]


def test_an_export_that_fails_half_way_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    # Whole files that do not belong together: found out by whoever loads the weights.
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 7}))
    done = export(str(folder), "--output", str(tmp_path / "new"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("emb-provider: optimum cannot export")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_without_an_index_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "tiny")
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}
    done = export(str(tmp_path / "tiny"), "--output", str(tmp_path / "new"), environment=tmp_path / "e", **nowhere)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("emb-provider: pip cannot install optimum: ")
    assert "PIP_INDEX_URL" in message
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "e"}
    assert [path.suffix for path in (tmp_path / "e").iterdir()] == [".lock"]


def test_a_place_for_the_environment_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "tiny")
    (tmp_path / "file").write_text("")
    done = export(str(tmp_path / "tiny"), "--output", str(tmp_path / "new"), environment=tmp_path / "file" / "e")
    assert done.returncode == 1
    assert f"cannot write to {tmp_path / 'file' / 'e'}" in done.stderr
    assert "--environment" in done.stderr


@pytest.mark.parametrize(
    ("optimize", "quantize", "message"),
    [
        ("O9", None, "--optimize is 'O9'; for onnx it is one of O1, O2, O3"),
        (None, "int4", "--quantize is 'int4'; for onnx it is int8"),
        (None, "int8:mmx", "--quantize is 'int8:mmx'; .*avx512_vnni, avx2, arm64"),
    ],
)
def test_unknown_levels_and_types_are_refused_before_anything_is_made(
    tmp_path: Path, optimize: str | None, quantize: str | None, message: str
) -> None:
    spec, _ = read_spec(tiny_bert(tmp_path / "tiny"), name="m", max_context_length=None, default_prompt=None)
    with pytest.raises(SettingsError, match=message):
        exporter(ExportOrder(spec, optimize, quantize, tmp_path / "e", print))
    assert not (tmp_path / "e").exists()
