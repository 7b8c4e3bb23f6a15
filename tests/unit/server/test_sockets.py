"""Where the service listens, and how that is written."""

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from waiting import PATIENCE_SECONDS

from provider.errors import CannotListen
from provider.server.sockets import listen, url_of
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
                socket.create_connection((address, port), timeout=PATIENCE_SECONDS).close()
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


def test_a_port_for_operators_that_is_taken_is_told_by_its_own_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServerSettings(port=0, admin_host="127.0.0.1", admin_port=taken.getsockname()[1])
        with pytest.raises(CannotListen, match=r"Address already in use; .* with server\.admin_port$"):
            listen(settings)
    with pytest.raises(CannotListen, match=r"set server\.admin_host and server\.admin_port to an address"):
        listen(ServerSettings(port=0, admin_host="2001:db8::1", admin_port=9))


def test_a_unix_socket_of_a_process_that_accepts_nothing_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as hanging, ExitStack() as stack:
        hanging.bind(path)
        hanging.listen(0)
        error = 0
        while not error:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            error = client.connect_ex(path)
        with pytest.raises(CannotListen, match=r"Address already in use; another process .* change server\.uds$"):
            listen(ServerSettings(uds=path))


def test_what_is_no_address_here_is_told_as_a_url_would_have_it() -> None:
    with pytest.raises(CannotListen, match=r"cannot listen on \[2001:db8::1\]:9000: Cannot assign requested address"):
        listen(ServerSettings(host="[2001:db8::1]"))
