"""A job whose server is killed again and again; used by tests and by `scripts/bench-jobs`."""

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from attrs import define
from processes import ServerProcess, backend_environment, running
from waiting import PATIENCE_SECONDS, wait_until

MODEL = "all-MiniLM-L6-v2"
ENDED = {"completed", "failed", "expired", "cancelled"}
_SLOW = """
import time
from provider.testing import FakeBackend

class SlowBackend(FakeBackend):
    def run(self, batch):
        time.sleep({seconds} * batch.rows)
        return super().run(batch)
"""


def slow_environment(folder: Path, *, seconds: float = 0.0005, **more: str) -> dict[str, str]:
    """For a server that starts quickly and takes `seconds` for a text; its jobs are in `folder`."""
    return backend_environment(
        *(folder, "slow", "SlowBackend", _SLOW.format(seconds=seconds)),
        EMB_PROVIDER_MODEL_NAME=MODEL,
        EMB_PROVIDER_JOBS_FOLDER=str(folder / "jobs"),
        EMB_PROVIDER_CACHE_ENABLED="false",
        **more,
    )


def write_input(path: Path, count: int, *, every_wrong: int = 10, model: str = MODEL) -> None:
    """A file of so many requests, one in `every_wrong` of which is refused."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            body = {"model": model, "input": "" if i % every_wrong == 0 else f"text number {i}"}
            line = {"custom_id": f"r{i}", "method": "POST", "url": "/v1/embeddings", "body": body}
            file.write(json.dumps(line) + "\n")


def submit(url: str, path: Path, **fields: Any) -> dict[str, Any]:
    """The new batch of a file."""
    with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client, path.open("rb") as file:
        uploaded = client.post("/v1/files", files={"file": ("in.jsonl", file)}, data={"purpose": "batch"})
        assert uploaded.status_code == 200, uploaded.text
        body = {"input_file_id": uploaded.json()["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        created = client.post("/v1/batches", json=body | fields)
        assert created.status_code == 200, created.text
        found: dict[str, Any] = created.json()
        return found


def batch(server: ServerProcess, batch_id: str) -> dict[str, Any]:
    """A batch as it is now."""
    found: dict[str, Any] = server.get(f"/v1/batches/{batch_id}")[1]
    return found


def ended(server: ServerProcess, batch_id: str) -> dict[str, Any]:
    """A batch when it has ended."""
    wait_until(lambda: batch(server, batch_id)["status"] in ENDED)
    return batch(server, batch_id)


def results(server: ServerProcess, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All lines of both files."""
    for name in ("output_file_id", "error_file_id"):
        if found[name] is not None:
            with httpx.stream(
                "GET", f"{server.url}/v1/files/{found[name]}/content", timeout=PATIENCE_SECONDS
            ) as response:
                assert response.status_code == 200
                for line in response.iter_lines():
                    yield json.loads(line)


@define
class Killed:
    """What a run has shown.

    Attributes:
        batch: at its end.
        kills: how often its server was killed.
        lines: of both files.
        repeated: requests that were answered more than once.
        missing: requests that were not answered.
        progress: requests that were done at each start.
    """

    batch: dict[str, Any]
    kills: int
    lines: int
    repeated: int
    missing: int
    progress: list[int]


def run_killed(folder: Path, *, count: int, kills: int, seed: int, workers: int = 1) -> Killed:
    """Run a job of `count` requests while its server is killed by SIGKILL at `kills` random moments."""
    moments = random.Random(seed)
    env = slow_environment(folder)
    arguments = ["--workers", str(workers)] if workers > 1 else []
    write_input(folder / "in.jsonl", count)
    batch_id, progress = "", []
    for _ in range(kills):
        with running(arguments, env=env) as server:
            if not batch_id:
                server.wait_until_ready()
                batch_id = submit(server.url, folder / "in.jsonl")["id"]
            else:
                found = batch(server, batch_id)
                progress.append(found["request_counts"]["completed"] + found["request_counts"]["failed"])
                server.wait_for("model_loaded")
            time.sleep(moments.uniform(0.0, 0.8))
            server.signal(signal.SIGKILL)
    with running(arguments, env=env) as server:
        found = ended(server, batch_id)
        names = [each["custom_id"] for each in results(server, found)]
    return Killed(found, kills, len(names), len(names) - len({*names}), count - len({*names}), progress)
