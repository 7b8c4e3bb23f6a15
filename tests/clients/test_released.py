"""Released clients against the service as shipped, in environments of their own."""

from collections.abc import Iterator

import pytest
from client_checks import Servers, examine, servers
from released_clients import CLIENTS, Client, install

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
