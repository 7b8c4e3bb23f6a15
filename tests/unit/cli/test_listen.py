"""Where the service listens, and how that is written."""

import socket

import pytest

from provider.cli.server import listen, url_of
from provider.errors import CannotListen
from provider.settings import ServerSettings


def reached(host: str) -> tuple[set[str], str]:
    """Which of the loopback addresses answer, and the URL."""
    settings = ServerSettings(host=host, port=0)
    sockets = listen(settings)
    try:
        port = sockets[0].getsockname()[1]
        found = set()
        for address in ("127.0.0.1", "::1"):
            try:
                socket.create_connection((address, port), timeout=5).close()
            except OSError:
                continue
            found.add(address)
        return found, url_of(settings, sockets).replace(str(port), "PORT")
    finally:
        for each in sockets:
            each.close()


@pytest.mark.parametrize(
    ("host", "addresses", "url"),
    [
        ("127.0.0.1", {"127.0.0.1"}, "http://127.0.0.1:PORT"),
        ("0.0.0.0", {"127.0.0.1"}, "http://0.0.0.0:PORT"),
        ("::", {"127.0.0.1", "::1"}, "http://[::]:PORT"),
        ("[::]", {"127.0.0.1", "::1"}, "http://[::]:PORT"),
        ("::1", {"::1"}, "http://[::1]:PORT"),
        ("[::1]", {"::1"}, "http://[::1]:PORT"),
        ("0:0::1", {"::1"}, "http://[0:0::1]:PORT"),
        ("::ffff:127.0.0.1", {"127.0.0.1"}, "http://[::ffff:127.0.0.1]:PORT"),
    ],
)
def test_an_address_listens_on_its_families_and_is_written_as_a_url(host: str, addresses: set[str], url: str) -> None:
    assert reached(host) == (addresses, url)


def test_localhost_is_every_loopback_address_that_the_machine_gives_it() -> None:
    named = {address[0] for *_, address in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    assert reached("localhost") == (named & {"127.0.0.1", "::1"}, "http://localhost:PORT")


def test_the_scope_of_an_address_is_escaped_in_its_url() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert url_of(ServerSettings(host="fe80::1%eth0"), [listening]) == f"http://[fe80::1%25eth0]:{port}"


def test_what_is_no_address_here_is_told_as_a_url_would_have_it() -> None:
    with pytest.raises(CannotListen, match=r"cannot listen on \[2001:db8::1\]:9000: Cannot assign requested address"):
        listen(ServerSettings(host="[2001:db8::1]"))
