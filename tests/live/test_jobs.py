"""Batches of real servers: OpenAI's client, the command line, workers, signals, kills, large files."""

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from click.testing import CliRunner
from job_runs import MODEL, batch, ended, results, run_killed, slow_environment, submit, write_input
from processes import ServerProcess, clean_environment, running
from waiting import PATIENCE_SECONDS, wait_until

from provider.cli import cli
from provider.errors import InvalidRequest, ServerFailed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("jobs")
    with running(["--model", MODEL], env=clean_environment(EMB_PROVIDER_JOBS_FOLDER=str(folder))) as started:
        started.wait_until_ready()
        yield started


def test_openai_s_client_runs_a_batch(server: ServerProcess, tmp_path: Path) -> None:
    write_input(tmp_path / "in.jsonl", 20)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        file = client.files.create(
            file=tmp_path / "in.jsonl", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert (file.purpose, file.bytes, file.filename) == (
            "batch",
            (tmp_path / "in.jsonl").stat().st_size,
            "in.jsonl",
        )
        assert file.expires_at == file.created_at + 3600
        created = client.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata={"night": "1"}
        )
        wait_until(lambda: client.batches.retrieve(created.id).status == "completed")
        done = client.batches.retrieve(created.id)
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (20, 18, 2)
        assert done.metadata == {"night": "1"}
        output = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
        direct = client.embeddings.create(model=MODEL, input="text number 1", encoding_format="float")
        assert output[0]["response"]["body"]["data"][0]["embedding"] == pytest.approx(
            direct.data[0].embedding, abs=1e-5
        )
        errors = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
        assert [each["custom_id"] for each in errors] == ["r0", "r10"]
        assert done.id in [each.id for each in client.batches.list(limit=1)]
        assert {done.output_file_id, done.error_file_id} <= {
            each.id for each in client.files.list(purpose="batch_output")
        }
        with pytest.raises(openai.BadRequestError, match="Cannot cancel"):
            client.batches.cancel(done.id)
        assert client.files.delete(done.output_file_id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(done.output_file_id)


def test_the_command_line_submits_waits_and_fetches(server: ServerProcess, tmp_path: Path) -> None:
    write_input(tmp_path / "in.jsonl", 20)
    url = ["--url", f"{server.url}/v1"]
    run = CliRunner().invoke
    arguments = ["batch", "submit", str(tmp_path / "in.jsonl"), "--wait", "--metadata", "a=b", *url]
    submitted, told = run(cli, arguments), json.loads(run(cli, [*arguments, "--json"]).stdout)
    assert submitted.exit_code == 0, submitted.output
    batch_id = submitted.stdout.strip()
    assert (told["status"], told["request_counts"]["total"]) == ("completed", 20)
    assert "completed  18 completed, 2 failed, 20 in all" in submitted.stderr
    shown = run(cli, ["batch", "status", batch_id, "--json", *url])
    assert json.loads(shown.stdout)["metadata"] == {"a": "b"}
    assert batch_id in run(cli, ["batch", "list", *url]).stdout
    output, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    fetched = run(cli, ["batch", "fetch", batch_id, "--output", str(output), "--errors", str(errors), *url])
    assert fetched.exit_code == 0, fetched.output
    assert [len(path.read_text().splitlines()) for path in (output, errors)] == [18, 2]
    fetch = ["batch", "fetch", batch_id, "--json", *url]
    told = json.loads(run(cli, [*fetch, "--output", str(output)]).stdout)
    assert told["id"] == batch_id
    assert told["written"] == {"output": {"path": str(output), "bytes": output.stat().st_size}}
    unsaid = run(cli, fetch)
    assert unsaid.exit_code == 2
    assert "name a file for them with --output" in unsaid.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    nowhere = run(cli, ["batch", "fetch", batch_id, "--output", str(tmp_path / "none" / "out.jsonl"), *url])
    assert isinstance(nowhere.exception, InvalidRequest)
    full = run(cli, ["batch", "fetch", batch_id, "--output", "/dev/full", *url])
    assert "No space left" in str(full.exception)
    assert Path("/dev/full").is_char_device()
    assert isinstance(run(cli, ["batch", "status", "", *url]).exception, InvalidRequest)
    assert isinstance(run(cli, ["batch", "status", "a/../../models", *url]).exception, ServerFailed)
    assert isinstance(run(cli, ["batch", "list", "--url", f"{server.url}/health"]).exception, ServerFailed)
    refused = run(cli, ["batch", "cancel", batch_id, *url])
    assert "Cannot cancel a batch with status 'completed'" in str(refused.exception)
    (tmp_path / "wrong.jsonl").write_text("{}\n")
    wrong = run(cli, ["batch", "submit", str(tmp_path / "wrong.jsonl"), "--wait", *url])
    assert wrong.exit_code == 1
    assert "line 1: Missing required parameter: 'custom_id'" in wrong.stderr
    failed = run(cli, ["batch", "status", wrong.stdout.strip(), *url])
    assert "line 1: Missing required parameter: 'custom_id'" in failed.stdout


def test_after_sigterm_the_next_process_goes_on(tmp_path: Path) -> None:
    write_input(tmp_path / "in.jsonl", 4000)
    env = slow_environment(tmp_path)
    with running([], env=env) as server:
        server.wait_until_ready()
        batch_id = submit(server.url, tmp_path / "in.jsonl")["id"]
        wait_until(lambda: batch(server, batch_id)["request_counts"]["completed"])
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    with running([], env=env) as server:
        server.wait_for("job_resumed", job=batch_id)
        found = ended(server, batch_id)
        names = [each["custom_id"] for each in results(server, found)]
    assert sorted(names) == sorted(f"r{i}" for i in range(4000))
    assert found["request_counts"] == {"total": 4000, "completed": 3600, "failed": 400}


def test_of_several_workers_one_runs_a_batch_and_another_goes_on_when_it_dies(tmp_path: Path) -> None:
    write_input(tmp_path / "in.jsonl", 6000)
    with running(["--workers", "2"], env=slow_environment(tmp_path)) as server:
        server.wait_until_ready()
        batch_id = submit(server.url, tmp_path / "in.jsonl")["id"]
        runs = server.wait_for("job_changed", job=batch_id, state="in_progress")
        wait_until(lambda: batch(server, batch_id)["request_counts"]["completed"])
        pids = {line["worker"]: line["pid"] for line in server.log if line["event"] == "worker_started"}
        os.kill(pids[runs["worker"]], signal.SIGKILL)
        resumed = server.wait_for("job_resumed", job=batch_id)
        found = ended(server, batch_id)
        names = [each["custom_id"] for each in results(server, found)]
    assert resumed["completed"] > 0
    assert sorted(names) == sorted(f"r{i}" for i in range(6000))


def test_a_job_waits_while_the_disk_is_full(tmp_path: Path) -> None:
    """The kernel refuses to let files grow, as a full disk does."""
    write_input(tmp_path / "in.jsonl", 3000)
    with running([], env=slow_environment(tmp_path)) as server:
        server.wait_until_ready()
        pid = server.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        batch_id = submit(server.url, tmp_path / "in.jsonl")["id"]
        wait_until(lambda: batch(server, batch_id)["request_counts"]["completed"])
        # Less than the output will have, more than the database.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (8_000_000, limits[1]))
        wait_until(lambda: batch(server, batch_id)["pause"])
        found = batch(server, batch_id)
        assert (found["status"], found["pause"]["code"]) == ("in_progress", "disk_full")
        assert server.wait_for("job_paused", job=batch_id)["code"] == "disk_full"
        assert "emb_provider_jobs_paused 1.0" in server.metrics()
        assert server.get("/health/ready")[0] == 200
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        found = ended(server, batch_id)
        names = [each["custom_id"] for each in results(server, found)]
    assert (found["status"], found["pause"]) == ("completed", None)
    assert sorted(names) == sorted(f"r{i}" for i in range(3000))


@pytest.mark.slow
def test_on_a_disk_of_its_own_that_is_full_nothing_is_lost(tmp_path: Path) -> None:
    """The whole folder, database included, is on a disk of 20 MB, 12 of which are someone else's."""
    write_input(tmp_path / "in.jsonl", 3000)
    disk = tmp_path / "jobs"
    disk.mkdir()
    command = on_own_disk(disk, "20m", f"head -c 12M /dev/zero > {disk}/other")
    with running([], command=command, env=slow_environment(tmp_path)) as server:
        server.wait_until_ready()
        batch_id = submit(server.url, tmp_path / "in.jsonl")["id"]
        wait_until(lambda: batch(server, batch_id)["pause"])
        assert batch(server, batch_id)["pause"]["code"] == "disk_full"
        refused = httpx.post(
            f"{server.url}/v1/files", files={"file": b"x" * 8_000_000}, data={"purpose": "batch"}, timeout=60
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
        Path(f"/proc/{server.process.pid}/root{disk}/other").unlink()
        found = ended(server, batch_id)
        names = [each["custom_id"] for each in results(server, found)]
    assert found["status"] == "completed"
    assert sorted(names) == sorted(f"r{i}" for i in range(3000))


@pytest.mark.slow
def test_on_a_full_disk_a_file_can_be_deleted(tmp_path: Path) -> None:
    """Not even the database has room."""
    disk = tmp_path / "jobs"
    disk.mkdir()
    with running([], command=on_own_disk(disk, "4m", "true"), env=slow_environment(tmp_path)) as server:
        server.wait_until_ready()
        root = Path(f"/proc/{server.process.pid}/root{disk}")
        with httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
            new = {"files": {"file": b"x" * 100_000}, "data": {"purpose": "batch"}}
            file_id = client.post("/v1/files", **new).json()["id"]
            with (root / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
                while other.write(b"x" * 4096):
                    pass
            body = {"input_file_id": file_id, "endpoint": "/v1/embeddings"}
            refused = client.post("/v1/batches", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
            assert client.delete(f"/v1/files/{file_id}").status_code == 200
            assert client.get(f"/v1/files/{file_id}").status_code == 404


def on_own_disk(disk: Path, size: str, prepared: str) -> list[str]:
    """The command of a server that has a disk of its own at `disk`, on which `prepared` was run."""
    mounted = f"mount -t tmpfs -o size={size} tmpfs {disk} && {prepared} && exec "
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{mounted}"$@"', "sh"]
    return [*command, sys.executable, "-m", "provider", "serve", "--port", "0"]


def test_killed_at_random_moments_every_request_is_answered_once(tmp_path: Path) -> None:
    run = run_killed(tmp_path, count=3_000, kills=2, seed=3)
    assert (run.lines, run.repeated, run.missing) == (3_000, 0, 0)
    assert run.batch["request_counts"] == {"total": 3_000, "completed": 2_700, "failed": 300}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_twenty_random_moments_every_request_is_answered_once(tmp_path: Path, workers: int) -> None:
    run = run_killed(tmp_path, count=20_000, kills=20, seed=7, workers=workers)
    assert (run.lines, run.repeated, run.missing) == (20_000, 0, 0)
    assert run.batch["request_counts"] == {"total": 20_000, "completed": 18_000, "failed": 2_000}
    assert run.progress == sorted(run.progress)
    assert any(0 < done < 20_000 for done in run.progress)


@pytest.mark.slow
def test_a_large_file_is_never_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    text = "word " * 400
    with path.open("w", encoding="utf-8") as file:
        for i in range(100_000):
            body = {"model": "none", "input": text, "user": str(i)}
            line = {"custom_id": f"r{i}", "method": "POST", "url": "/v1/embeddings", "body": body}
            file.write(json.dumps(line) + "\n")
    assert path.stat().st_size > 200_000_000
    with running([], env=slow_environment(tmp_path)) as server:
        server.wait_until_ready()
        before = peak(server)
        found = ended(server, submit(server.url, path)["id"])
        assert found["request_counts"] == {"total": 100_000, "completed": 0, "failed": 100_000}
        assert sum(1 for _ in results(server, found)) == 100_000
        assert peak(server) - before < 60_000_000


def peak(server: ServerProcess) -> int:
    """The most memory that the process has had, in bytes."""
    text = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    (line,) = (each for each in text.splitlines() if each.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
