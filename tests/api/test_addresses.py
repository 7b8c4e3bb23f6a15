"""Which names a service answers to, and what stands at which address."""

from typing import Any

import pytest

from provider.errors import SettingsError
from provider.http.addresses import AllowedHosts
from provider.settings import AuthSettings, ServerSettings

LOCAL = [
    "localhost",
    "LOCALHOST:9000",
    "127.0.0.1:9000",
    "[::1]:9000",
    "a.localhost",
    "embedder:80",
    "10.0.0.1",
    "x.internal",
]
FOREIGN = [
    "evil.example",
    "evil.example:9000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "1.2.3",
    "",
    "[evil.example]",
]


async def status(client: Any, host: str, path: str = "/v1/models") -> int:
    response = await client.get(path, headers={"host": host})
    if response.status_code == 403:
        # Errors of the root come in TEI's shape, whose clients post there.
        error = response.json()["error"]
        assert "server.allowed_hosts" in error if path == "/" else error["code"] == "host_not_allowed"
    return int(response.status_code)


@pytest.mark.parametrize("host", LOCAL)
async def test_a_local_service_answers_to_local_names(client: Any, host: str) -> None:
    assert await status(client, host) == 200


@pytest.mark.parametrize("path", ["/v1/models", "/", "/docs", "/metrics", "/health/live"])
async def test_a_local_service_answers_to_no_name_that_a_site_can_have(client: Any, path: str) -> None:
    for host in FOREIGN[:-2]:
        assert await status(client, host, path) == 403


async def test_with_keys_or_at_other_addresses_every_name_is_answered(open_app: Any) -> None:
    async with open_app(auth=AuthSettings(keys=["k" * 20])) as client:
        assert await status(client, "evil.example") == 401
    async with open_app(server=ServerSettings(host="0.0.0.0")) as client:
        assert await status(client, "evil.example") == 200


async def test_names_that_are_set_are_the_only_ones(open_app: Any) -> None:
    hosts = ["api.example.org", "*.Example.net"]
    async with open_app(server=ServerSettings(host="0.0.0.0", allowed_hosts=hosts)) as client:
        for host in ("api.example.org:9000", "API.example.org.", "a.example.net"):
            assert await status(client, host) == 200
        for host in ("example.org", "example.net", "badexample.net", "localhost"):
            assert await status(client, host) == 403
    async with open_app(server=ServerSettings(allowed_hosts=["*"])) as client:
        assert await status(client, "evil.example") == 200


def test_names_that_are_set_are_compared_as_clients_send_them() -> None:
    given = ["[2001:DB8:0::1]", "::2", "trail.example.", "b\u00fccher.example", "10.0.0.1"]
    hosts = AllowedHosts.of(ServerSettings(allowed_hosts=given), needs_key=True)
    assert hosts is not None
    sent = ["[2001:db8::1]:80", "[0:0::2]", "trail.example", "trail.example.:9", "xn--bcher-kva.example", "10.0.0.1:9"]
    assert [host for host in sent if not hosts.allow(host)] == []


@pytest.mark.parametrize("entry", ["api.example:9000", "https://api.example", "a.example/v1", "*a.example", "[a]", " "])
def test_a_name_that_no_client_can_send_is_refused(entry: str) -> None:
    with pytest.raises(SettingsError, match=r"server\.allowed_hosts: got .* without scheme, port and path"):
        AllowedHosts.of(ServerSettings(allowed_hosts=["a.example", entry]), needs_key=True)


def test_a_name_is_read_to_its_port() -> None:
    hosts = AllowedHosts.of(ServerSettings(), needs_key=False)
    assert hosts is not None
    assert [host for host in FOREIGN[:-2] if hosts.allow(host)] == []
    assert [host for host in LOCAL if not hosts.allow(host)] == []


async def test_answers_vary_with_the_origin_where_some_are_allowed(open_app: Any) -> None:
    allowed = "https://a.example"
    async with open_app(server=ServerSettings(cors_origins=[allowed])) as client:
        for headers in ({}, {"origin": allowed}, {"origin": "https://b.example"}):
            for path in ("/v1/models", "/nowhere"):
                response = await client.get(path, headers=headers)
                assert response.headers.get_list("vary") == ["Origin"], (headers, path)
    async with open_app(server=ServerSettings(cors_origins=["*"])) as client:
        assert "vary" not in (await client.get("/v1/models")).headers
