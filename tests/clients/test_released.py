"""Released clients against the service as shipped, in environments of their own."""

import re
from collections.abc import Iterator

import pytest
from client_checks import PAGE, examine
from client_environments import INSTALLED, NEWEST, NODE, Client, run
from client_servers import Servers, servers
from released_clients import CLIENTS, install

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
