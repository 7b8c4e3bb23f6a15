"""The Containerfile keeps its promises, as far as they can be checked without building an image."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from waiting import PATIENCE_SECONDS, join

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Containerfile").read_text()


def _instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of each instruction; comments dropped, continued lines joined."""
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    parts = (line.strip().partition(" ") for line in joined.splitlines())
    return [(name.upper(), arguments.strip()) for name, _, arguments in parts]


INSTRUCTIONS = _instructions(TEXT)
LAST_STAGE = INSTRUCTIONS[max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]


def _only(name: str) -> str:
    [arguments] = [arguments for each, arguments in LAST_STAGE if each == name]
    return arguments


def _copied() -> list[str]:
    copies = [arguments.split() for name, arguments in INSTRUCTIONS if name == "COPY"]
    return [source for words in copies if not words[0].startswith("--from=") for source in words[:-1]]


def test_comments_and_continued_lines_are_read_as_the_builder_reads_them() -> None:
    text = 'FROM a AS b\n# no\nENV A=1 \\\n    # nor this\n    B=2\n\nCMD ["x"]\n'
    assert _instructions(text) == [("FROM", "a AS b"), ("ENV", "A=1 B=2"), ("CMD", '["x"]')]


def test_what_builds_the_service_stays_out_of_the_image() -> None:
    stages = [arguments for name, arguments in INSTRUCTIONS if name == "FROM"]
    assert len(stages) == 2
    assert stages[0].endswith(" AS builder")
    assert any(name == "COPY" and "--from=builder" in arguments for name, arguments in LAST_STAGE)


def test_the_service_runs_as_a_numbered_user_and_nothing_runs_as_root_after_that() -> None:
    user = _only("USER").partition(":")[0]
    assert user.isdecimal()
    assert int(user) > 0
    names = [name for name, _ in LAST_STAGE]
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])


def test_signals_reach_the_service_itself() -> None:
    assert json.loads(_only("ENTRYPOINT")) == ["emb-provider"]
    assert json.loads(_only("CMD"))[0] == "serve"
    assert _only("STOPSIGNAL") == "SIGTERM"


def test_the_configuration_is_where_the_command_looks_for_it() -> None:
    command = json.loads(_only("CMD"))
    assert command[command.index("--config") + 1] == "/app/litestar.yaml"
    assert ("COPY", "litestar.yaml /app/") in LAST_STAGE


def test_models_are_kept_in_the_volume_that_the_user_may_write() -> None:
    assert _only("VOLUME") == "/models"
    assert "HF_HOME=/models/" in _only("ENV")
    names = [name for name, _ in LAST_STAGE]
    assert names.index("RUN") < names.index("VOLUME")  # what changes in a volume after it is declared is lost


def test_everything_copied_exists_and_reaches_the_builder() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == {source.partition("/")[0] for source in _copied()}
    assert [source for source in _copied() if not (ROOT / source).exists()] == []


def test_no_registry_or_index_is_named() -> None:
    images = [arguments.split()[0] for name, arguments in INSTRUCTIONS if name == "FROM"]
    assert [image for image in images if "/" in image] == []
    assert set(re.findall(r"\w+://[\w.]+", TEXT)) == {"http://127.0.0.1"}


@contextmanager
def _server(status: int) -> Iterator[int]:
    """A loopback server that gives `status` on /health/ready and 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            join(thread)


def _check_health(port: int) -> int:
    program, *arguments = json.loads(_only("HEALTHCHECK").partition("CMD ")[2])
    assert program == "python"
    # A proxy that nobody answers at: the check must go past it.
    proxies = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    environ = {**os.environ, **proxies, "EMB_PROVIDER_PORT": str(port)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environ, capture_output=True, check=False, timeout=PATIENCE_SECONDS).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_says_what_readiness_says(status: int, code: int) -> None:
    with _server(status) as port:
        assert _check_health(port) == code


def test_the_health_check_fails_when_nobody_answers() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    assert _check_health(port) == 1
