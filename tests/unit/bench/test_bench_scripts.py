"""`scripts/bench-*` without their measurements: what they refuse, and the figures they make."""

import importlib.util
import subprocess
import sys
from datetime import UTC, datetime
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from waiting import PATIENCE_SECONDS

from provider.bench.figures import Latency, Spread
from provider.bench.local_server import LocalServer
from provider.bench.messages import Load
from provider.bench.report import BenchReport, Method, Result, this_machine
from provider.errors import ContenderFailed

SCRIPTS = Path(__file__).parents[3] / "scripts"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; what it finds beside itself is found."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    loader = SourceFileLoader(name.replace("-", "_"), str(SCRIPTS / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_scripts_start_with_the_project_s_python_wherever_they_are_called(tmp_path: Path) -> None:
    first = {path: path.read_text("utf-8").partition("\n")[0] for path in SCRIPTS.iterdir() if path.suffix != ".py"}
    ours = {line for line in first.values() if "python" in line}
    assert len(ours) == 1
    assert {*first.values()} == {"#!/bin/sh", *ours}
    command = [str(SCRIPTS / "bench-queue"), "--help"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert found.returncode == 0, found.stderr
    assert "refusals" in found.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("bench-peers", ["--peers", "st,tei"], "--peers: 'tei' is none of st, infinity, llama.cpp"),
        ("bench-peers", ["--sections", "score"], "--sections: 'score' is none of embed, cached, rerank"),
        ("bench-peers", ["--loads", "2x2"], "--loads: '2x2' is none of 4x32, 64x1, 1x1"),
        ("bench-peers", ["--ours", "tensorflow"], "tensorflow"),
        ("bench-peers", ["--url", "tei=localhost:8080"], "is no base URL"),
        ("bench-peers", ["--rounds", "0"], "must be positive"),
        ("bench-peers", ["--rounds", "1000"], "--minutes allows 30: take fewer"),
        ("bench-architectures", ["--only", "bert,rwkv"], "--only: 'rwkv' is none of bert, mpnet"),
        ("bench-architectures", ["--threads", "0"], "must be positive"),
        ("bench-memory", ["--backend", "tensorflow"], "tensorflow"),
        ("bench-memory", ["--requests", "0"], "must be positive"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    name: str, arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as refused:
        script(name, monkeypatch).main()
    assert refused.value.code == 2
    assert reason in capsys.readouterr().err


def result(contender: str, rounds: list[float], **more: Any) -> Result:
    spread = Spread.of(rounds)
    assert spread is not None
    fields: dict[str, Any] = {
        "contender": contender,
        "load": Load(1, concurrency=64),
        "texts": 100,
        "tokens_per_text": None,
        "texts_per_second": spread,
        "tokens_per_second": None,
        "requests_per_second": spread,
        "latency_ms": None,
        "ratio": None,
        "latency_ratio": None,
        "errors": {},
        "messages": {},
        "lateness_ms": 0.0,
        "generator_cpu": None,
        "matmul": None,
        "note": "",
        "rounds": rounds,
        "rounds_p50_ms": [0.0] * len(rounds),
    }
    return Result(**fields | more)


def test_ratios_to_every_peer_are_medians_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = script("bench-peers", monkeypatch)
    machine_drifts = [100.0, 50.0, 200.0]
    results = [
        result("sentence-transformers", machine_drifts),
        result("llama.cpp", [50.0, 25.0, 50.0], errors={"500": 3}),
        result("torch", [200.0, 100.0, 600.0], latency_ms=Latency(5.0, 9.0, 12.0, 20.0)),
    ]
    method = Method(1.0, 3, 1.0, "shipped", repeats_texts=False, truncate=None, seed=0)
    bench = BenchReport("1.0", datetime.now(UTC), this_machine(), method, [], results)
    lines = list(peers.markdown(peers.PeersReport({"embed": bench}, {"torch (embed)": 300 << 20}, [])))
    assert lines[1:] == [
        "| contender | texts/s | / sentence-transformers | / llama.cpp | p50 ms | p95 ms | p99 ms | resident MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| sentence-transformers | 100 (50 to 200) | 1 | 2.00 (2.00 to 4.00) | - | - | - | - |",
        "| llama.cpp (3 failed) | 50 (25 to 50) | 0.50 (0.25 to 0.50) | 1 | - | - | - | - |",
        "| torch | 200 (100 to 600) | 2.00 (2.00 to 3.00) | 4.00 (4.00 to 12.00) | 5.0 | 9.0 | 12.0 | 300 |",
    ]


@pytest.mark.parametrize(
    ("sizes", "grown"),
    [([100.0] * 200, 0.0), ([*range(100, 150), *[150.0] * 150], 0.0), ([float(i) for i in range(100, 300)], 0.474)],
)
def test_growth_is_that_of_the_second_half(sizes: list[float], grown: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script("bench-memory", monkeypatch).growth(sizes) == pytest.approx(grown, abs=0.01)


def test_a_server_is_measured_while_it_runs_and_ends_with_the_block() -> None:
    command = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
    with LocalServer.running(command, health="/", seconds=60) as server:
        assert server.resident_bytes() > 1 << 20
        assert server.cpu_seconds() > 0
        pid = server.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_server_that_ends_before_it_is_ready_is_told_with_its_last_line() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with pytest.raises(ContenderFailed, match="did not become ready: no such model"), LocalServer.running(command):
        pass


def test_a_script_that_is_told_to_stop_ends_its_servers(tmp_path: Path) -> None:
    code = """
import sys, time
from provider.bench.local_server import LocalServer, exit_on_sigterm
exit_on_sigterm()
with LocalServer.running([sys.executable, "-m", "http.server", "{port}"], health="/", seconds=60) as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.terminate()
        assert process.wait(60) == 143
    assert not Path(f"/proc/{pid}").exists()
