"""Attacks that need a server of their own: resources that are used up, and files that are not as they should be."""

import contextlib
import json
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from attack_kit import MIB, NAME, PACKAGE, POST, SECONDS, TEXT, Row, Target, is_enveloped, read_answer
from processes import ServerProcess, backend_environment, clean_environment, running
from waiting import wait_until

from provider.testing import packaged_minilm

OwnAttack = Callable[[], Iterator[Row]]
_FAILING = """
from provider.testing import FakeBackend

class FailingBackend(FakeBackend):
    def run(self, batch):
        if 4937 in batch.ids:  # cat
            raise RuntimeError("no cats")
        return super().run(batch)
"""


def used_up_descriptors() -> Iterator[Row]:
    """More connections than there are file descriptors."""
    limit = 150
    shell = f'ulimit -n {limit}; exec "$0" "$@"'
    command = ("/bin/sh", "-c", shell, sys.executable, "-m", "provider", "serve", "--port", "0", "--host", "127.0.0.1")
    with running(["--model", PACKAGE], command=command, cwd=Path(tempfile.gettempdir())) as server:
        server.wait_until_ready()
        target = Target(server, 1)
        with ExitStack() as stack:
            for _ in range(limit + 50):
                stack.enter_context(target.connect())
            server.wait_for("cannot_accept")
        server.wait_for("accepting_again")
        status = target.ask()[0]
        lines = sum(line["event"] == "cannot_accept" for line in server.log)
        yield Row("descriptors used up: afterwards", str(status), "200", status == 200)
        yield Row("  lines in the log", str(lines), "1", lines == 1)


def full_pipe() -> Iterator[Row]:
    """Standard error is a pipe that nobody reads."""
    import subprocess

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "provider",
        "serve",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--model",
        PACKAGE,
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, env=clean_environment(), cwd=tempfile.gettempdir(), stdin=subprocess.DEVNULL
    )
    server = ServerProcess.__new__(ServerProcess)
    server.process, server.port = process, port  # type: ignore[assignment]
    try:
        target = Target(server, 1)

        def is_ready() -> bool:
            with contextlib.suppress(OSError):
                return target.ask()[0] == 200
            return False

        wait_until(is_ready)
        statuses = {target.ask(path="/nowhere/" + "p" * 1000)[0] for _ in range(1000)}
        yield Row("stderr to a full pipe: 1,000 requests", str(statuses), "{404}", statuses == {404})
        process.terminate()
        code = process.wait(SECONDS)
        yield Row("  and the end", str(code), "0", code == 0)
    finally:
        process.kill()
        process.wait(SECONDS)
        assert process.stderr is not None
        process.stderr.close()


def too_many_connections() -> Iterator[Row]:
    """More connections than `server.max_connections`."""
    environment = clean_environment(EMB_PROVIDER_SERVER_MAX_CONNECTIONS="20")
    with running(
        ["--model", PACKAGE, "--host", "127.0.0.1"], env=environment, cwd=Path(tempfile.gettempdir())
    ) as server:
        target = Target(server, 1)
        with ExitStack() as stack:
            held = [stack.enter_context(target.connect()) for _ in range(40)]
            answers = [read_answer(each) for each in held[20:]]
            right = sum(is_enveloped(each, 503) and b"retry-after: 5" in each for each in answers)
            yield Row("40 connections of 20: refused", f"{right} of 20", "all, 503 enveloped", right == 20)
        wait_until(lambda: target.send(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")[9:12] == b"200")
        yield Row("  afterwards", "200", "200", True)


def changed_weights() -> Iterator[Row]:
    """The weights of a model that serves are overwritten in place, and cut off."""
    with tempfile.TemporaryDirectory() as folder:
        model = shutil.copytree(packaged_minilm(), Path(folder) / "model")
        environment = clean_environment(EMB_PROVIDER_CACHE_ENABLED="false")
        with running(["--model", str(model), "--host", "127.0.0.1"], env=environment, cwd=Path(folder)) as server:
            server.wait_until_ready()
            target = Target(server, 1)
            body = json.dumps({"model": server.get("/v1/models")[1]["data"][0]["id"], "input": "a cat"}).encode()
            before = target.ask(body)
            with (model / "model.safetensors").open("r+b") as weights:
                weights.write(bytes(MIB))
                weights.truncate(2 * MIB)
            after = target.ask(body)
            is_same = [json.loads(each[2])["data"] for each in (before, after)]
            right = after[0] == 200 and is_same[0] == is_same[1]
            yield Row("weights overwritten and cut off", f"{after[0]}, same: {right}", "200, same bits", right)


def odd_keys() -> Iterator[Row]:
    """A key that ends in a letter which no header should have, in a file that everybody may write to."""
    key = "geheim-à"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys"
        file.write_text(f"{key}\n")
        file.chmod(0o666)
        environment = clean_environment(EMB_PROVIDER_AUTH_KEYS_FILE=str(file))
        with running(["--model", PACKAGE, "--host", "127.0.0.1"], env=environment, cwd=Path(folder)) as server:
            server.wait_until_ready()
            target = Target(server, 1)
            request = b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            statuses = [
                int(target.send(POST + request % (sent, len(TEXT), TEXT))[9:12])
                for sent in (key.encode(), key.encode("latin-1"), key[:-1].encode())
            ]
            yield Row(
                "a key that ends in à: UTF-8, Latin-1, cut", str(statuses), "200, 200, 401", statuses == [200, 200, 401]
            )
            warned = server.wait_for("keys_file_open")["level"]
            yield Row("  its file of mode 666", warned, "warning", warned == "warning")


def failing_inputs() -> Iterator[Row]:
    """Requests of 20 texts of which one makes the forward pass fail, each time."""
    with tempfile.TemporaryDirectory() as folder:
        environment = backend_environment(Path(folder), "failing", "FailingBackend", _FAILING)
        with running([], env=environment, cwd=Path(folder)) as server:
            server.wait_until_ready()
            target = Target(server, 1)
            right = 0
            for poisoned in range(20):
                texts = ["a cat" if i == poisoned else "a dog" for i in range(20)]
                status, headers, answer = target.ask(json.dumps({"model": NAME, "input": texts}).encode())
                named = json.loads(answer).get("error", {}).get("param")
                right += (status, named, headers.get("x-should-retry")) == (500, f"input[{poisoned}]", "false")
            yield Row("one of 20 inputs fails: named, no retry", f"{right} of 20", "all", right == 20)
            status = target.ask(json.dumps({"model": NAME, "input": "a dog"}).encode())[0]
            yield Row("  others", str(status), "200", status == 200)


OWN_SERVER: Sequence[OwnAttack] = (
    used_up_descriptors,
    full_pipe,
    too_many_connections,
    changed_weights,
    odd_keys,
    failing_inputs,
)
