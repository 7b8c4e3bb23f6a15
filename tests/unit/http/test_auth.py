"""The ring of keys: how keys are recognised, and how a changed file is taken over."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from waiting import join

from provider.domain import Caller
from provider.errors import SettingsError
from provider.http.auth import KeyRing, presented_key
from provider.keys import ApiKey
from provider.settings import AuthSettings

NAMES = {"model": "org/model", "alias": "org/model"}


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(path: Path, text: str, *, age: int = 0) -> None:
    path.write_text(text)
    path.chmod(0o600)
    if age:
        written = path.stat().st_mtime - age
        os.utime(path, (written, written))


def look(ring: KeyRing, clock: Clock) -> None:
    """A second later a request comes, and what it starts ends."""
    clock.now += 1
    ring.find(b"")
    join(*(thread for thread in threading.enumerate() if thread.name == "keys"))


def names(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("header", [(b"authorization", b"Bearer "), (b"api-key", b"")])
def test_a_key_beyond_ascii_is_accepted_as_utf8_and_as_latin1(encoding: str, header: tuple[bytes, bytes]) -> None:
    # The last byte of `à` in UTF-8 is a blank in Latin-1.
    ring = KeyRing(AuthSettings(keys={"french": "voilà"}), NAMES)
    sent = [(header[0], header[1] + "voilà".encode(encoding) + b" ")]
    found = ring.find(presented_key(sent))
    assert found is not None
    assert found.name == "french"
    assert ring.find(b"voil") is None


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], b""),
        ([(b"authorization", b"")], b""),
        ([(b"authorization", b"Bearer ")], b""),
        ([(b"authorization", b"Basic abc")], b""),
        ([(b"authorization", b"\tbEARER  key\t")], b"key"),
        ([(b"api-key", b"azure"), (b"authorization", b"Bearer key")], b"key"),
        ([(b"authorization", b"Bearer "), (b"api-key", b" azure ")], b"azure"),
    ],
)
def test_a_key_comes_in_either_header(headers: list[tuple[bytes, bytes]], key: bytes) -> None:
    assert presented_key(headers) == key


def test_a_changed_file_holds_after_a_second_and_a_wrong_one_keeps_the_keys_and_says_why(
    path: Path, clock: Clock
) -> None:
    write(path, "one name=a\n", age=10)
    ring = KeyRing(AuthSettings(keys_file=str(path)), NAMES, clock=clock)
    write(path, "two name=b\n", age=5)
    assert ring.find(b"one") == Caller("a")
    with capture_logs() as logs:
        look(ring, clock)
        assert (ring.find(b"one"), ring.find(b"two")) == (None, Caller("b"))
    assert names(logs) == ["keys_reloaded"]
    for make_wrong in (lambda: write(path, "three name=\n", age=4), path.unlink):
        make_wrong()
        with capture_logs() as logs:
            for _ in range(2):
                look(ring, clock)
                assert ring.find(b"two") == Caller("b")
        assert names(logs) == ["keys_not_reloaded"]
        assert str(path) in logs[0]["reason"]
    write(path, "two name=b\n", age=3)
    with capture_logs() as logs:
        look(ring, clock)
        assert ring.find(b"two") == Caller("b")
    assert names(logs) == ["keys_reloaded"]


def test_a_file_that_changes_within_the_precision_of_its_time_is_noticed(path: Path, clock: Clock) -> None:
    write(path, "one name=a\n")
    ring = KeyRing(AuthSettings(keys_file=str(path)), NAMES, clock=clock)
    before = path.stat()
    write(path, "two name=b\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    look(ring, clock)
    assert ring.find(b"two") == Caller("b")


def test_a_file_without_keys_opens_nothing(path: Path, clock: Clock) -> None:
    write(path, "# none\n", age=10)
    with pytest.raises(SettingsError, match="holds no key"):
        KeyRing(AuthSettings(keys_file=str(path)), NAMES)
    write(path, "one\n", age=9)
    ring = KeyRing(AuthSettings(keys_file=str(path)), NAMES, clock=clock)
    write(path, "# none\n", age=8)
    look(ring, clock)
    assert ring.find(b"one") is None
    assert ring.is_on


def test_a_pipe_gives_its_keys_once_and_keeps_nobody_waiting(path: Path, clock: Clock) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"one name=a\n")
    os.close(writing)
    with os.fdopen(reading), capture_logs() as logs:
        ring = KeyRing(AuthSettings(keys_file=f"/dev/fd/{reading}"), NAMES, clock=clock)
        look(ring, clock)
        assert ring.find(b"one") == Caller("a")
    assert "keys_reloaded" not in names(logs)
    write(path, "one name=a\n")
    ring = KeyRing(AuthSettings(keys_file=str(path)), NAMES, clock=clock)
    path.unlink()
    os.mkfifo(path, 0o600)
    with capture_logs() as logs:
        look(ring, clock)
        path.unlink()
        write(path, "two name=b\n")
        look(ring, clock)
    assert names(logs) == ["keys_not_reloaded", "keys_reloaded"]
    assert ring.find(b"two") == Caller("b")


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o640, False), (0o644, True), (0o666, True)])
def test_a_file_that_others_may_read_or_write_is_warned_of(path: Path, mode: int, is_open: bool) -> None:
    write(path, "one\n")
    path.chmod(mode)
    with capture_logs() as logs:
        KeyRing(AuthSettings(keys_file=str(path)), NAMES)
    assert names(logs) == (["keys_file_open"] if is_open else [])


def test_models_of_a_key_are_meant_by_any_of_their_names_and_unknown_ones_are_warned_of() -> None:
    with capture_logs() as logs:
        ring = KeyRing(AuthSettings(keys=["a models=alias,nope name=x"]), NAMES)
    found = ring.find(b"a")
    assert found is not None
    assert (found.may_use("org/model"), found.may_use("other")) == (True, False)
    assert [(line["event"], line["models"]) for line in logs] == [("key_of_unknown_models", ["nope"])]


def test_a_keys_models_are_those_that_have_the_names_now() -> None:
    ring = KeyRing(AuthSettings(keys=["a models=alias"]), NAMES)
    for names_now, may_use in (
        ({"alias": "org/new"}, [False, True]),
        ({"org/model": "org/model"}, [False, False]),
        (NAMES, [True, False]),
    ):
        ring.use_names(names_now)
        found = ring.find(b"a")
        assert found is not None
        assert [found.may_use(name) for name in ("org/model", "org/new")] == may_use


def test_a_file_that_could_not_be_read_is_read_again_though_it_has_not_changed(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, "one name=a\n", age=10)
    ring = KeyRing(AuthSettings(keys_file=str(path)), NAMES, clock=clock)
    write(path, "two name=b\n", age=5)

    def fail(_: AuthSettings) -> list[ApiKey]:
        msg = "too many open files"
        raise SettingsError(msg)

    with monkeypatch.context() as patch:
        patch.setattr("provider.http.auth.read_keys", fail)
        look(ring, clock)
    assert ring.find(b"one") == Caller("a")
    look(ring, clock)
    assert (ring.find(b"one"), ring.find(b"two")) == (None, Caller("b"))


@pytest.mark.parametrize(
    ("auth", "counts_quotas", "said"),
    [
        (AuthSettings(keys=["a requests_per_day=1"]), False, "set auth.usage_file"),
        (AuthSettings(protect=["metrics"]), True, "cannot be protected without keys"),
    ],
)
def test_settings_that_could_not_hold_are_refused(auth: AuthSettings, counts_quotas: bool, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        KeyRing(auth, NAMES, counts_quotas=counts_quotas)
