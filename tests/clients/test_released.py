"""Released clients against the service as shipped, in environments of their own."""

import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_checks import PAGE, examine
from client_environments import INSTALLED, NEWEST, NODE, Client, run
from client_servers import Servers, servers
from processes import ROOT
from released_clients import CLIENTS, install
from waiting import PATIENCE_SECONDS, wait_until

_EXAMPLE = re.compile(r"^## (?P<client>.+?)$.*?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = list(_EXAMPLE.finditer(PAGE.read_text()))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def live() -> Iterator[Servers]:
    install(CLIENTS)
    with servers() as started:
        yield started


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: f"{client.name} of {client.environment.name}")
async def test_a_released_client_gets_vectors_reasons_and_another_try(client: Client, live: Servers) -> None:
    wrong = {check: found for check, found in (await examine(client, live)).items() if found}
    assert not wrong


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["client"])
def test_the_examples_of_the_clients_page_run(example: re.Match[str], live: Servers) -> None:
    program = example["text"].replace("http://localhost:9000", live.usual.url.removesuffix("/v1"))
    if example["language"] == "js":
        path = INSTALLED / "node" / "example.mjs"  # beside the packages that it imports
        path.write_text(f'const texts = ["A cat.", "A dog."];\n{program}')
        run([NODE.node, str(path)])
    else:
        run([str(NEWEST.python), "-c", program])


def _processes_with(mark: str) -> list[Path]:
    """Those that live and whose environment has `mark`."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (each / "environ").read_bytes():
                found.append(each)
        except OSError:
            pass  # it has ended, or is someone else's
    return found


def test_the_command_leaves_nothing_behind_when_it_is_ended() -> None:
    """Neither servers nor a client's program."""
    mark = uuid.uuid4().hex
    command = [str(ROOT / "scripts" / "clients"), "openai-python"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"MARK": mark}) as process:
        assert process.stderr is not None
        assert any(line.startswith("clients: openai-python") for line in process.stderr)
        assert len(_processes_with(mark)) > 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
    wait_until(lambda: not _processes_with(mark))
