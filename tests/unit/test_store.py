"""Entries of a store: whole or not at all, made once for any number of processes, and nothing is left behind."""

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE_SECONDS

from provider.store import Store, key_of, read_manifest, write_manifest

# Made slowly, so that processes meet; who makes it writes a line.
_MAKING = """
import sys, time
from pathlib import Path
from provider.store import Store

def make(folder):
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    (folder / "half").touch()
    time.sleep(0.5)
    (folder / "x").write_text("1")

def read(folder):
    return (folder / "x").read_text() if (folder / "x").is_file() else None

print(Store(Path(sys.argv[1])).fetch("e", make=make, read=read).content)
"""


def write(text: str, folder: Path) -> None:
    (folder / "x").write_text(text)
    write_manifest(folder, {"text": text})


def fetch(store: Store, text: str = "1", name: str = "e") -> tuple[dict[str, str], bool]:
    entry = store.fetch(name, make=lambda folder: write(text, folder), read=read_manifest)
    assert (entry.folder / "x").read_text() == entry.content["text"]
    return entry.content, entry.is_new


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "folder")
    assert fetch(store) == ({"text": "1"}, True)
    assert fetch(store, "2") == ({"text": "1"}, False)
    assert fetch(store, "2", "other") == ({"text": "2"}, True)


def test_what_is_there_needs_no_place_to_write(tmp_path: Path) -> None:
    fetch(Store(tmp_path))
    # A folder in place of the lock stops every user, root too.
    (tmp_path / ".e.lock").unlink()
    (tmp_path / ".e.lock").mkdir()
    assert fetch(Store(tmp_path)) == ({"text": "1"}, False)


@pytest.mark.parametrize("harm", ["changed", "removed"])
@pytest.mark.parametrize("file", ["x", "manifest.json"])
def test_what_is_damaged_is_made_again_and_said(
    tmp_path: Path, file: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(Store(tmp_path))
    path = tmp_path / "e" / file
    path.unlink() if harm == "removed" else path.write_text("0")
    assert fetch(Store(tmp_path)) == ({"text": "1"}, True)
    assert "is damaged: it is removed and made again" in caplog.text


def test_what_fails_half_way_leaves_its_lock_alone(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "x").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).fetch("e", make=half, read=read_manifest)
    assert names(tmp_path) == [".e.lock"]


def test_what_cannot_be_read_back_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be read back"):
        Store(tmp_path).fetch("e", make=lambda _: None, read=read_manifest)


def test_processes_that_start_at_once_make_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", _MAKING, str(tmp_path / "store"), str(log)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [each.communicate(timeout=PATIENCE_SECONDS)[0].strip() for each in started] == ["1"] * 3
    assert log.read_text() == "made\n"
    assert names(tmp_path / "store") == [".e.lock", "e"]


def test_what_a_killed_process_left_is_removed_with_the_next_entry(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", _MAKING.replace("sleep(0.5)", "sleep(60)"), str(tmp_path / "store"), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
        for _ in range(600):
            if log.exists() or killed.poll() is not None:
                break
            try:
                killed.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        fetch(Store(tmp_path / "store"), name="other")
        assert ".e.unfinished" in names(tmp_path / "store"), "the process that makes it still runs"
        killed.kill()
    fetch(Store(tmp_path / "store"), name="third")
    assert names(tmp_path / "store") == [".e.lock", ".other.lock", ".third.lock", "other", "third"]


def test_it_is_in_the_users_cache_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert Store.at(None, "kind").folder == Path("/home/me/.cache/emb-provider/kind")
    assert Store.at("~/mine", "kind").folder == Path("/home/me/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert Store.at(None, "kind").folder == Path("/cache/emb-provider/kind")


def test_a_folder_for_code_is_its_owners_own(tmp_path: Path) -> None:
    fetch(Store(tmp_path / "code", is_private=True))
    assert (tmp_path / "code").stat().st_mode & 0o077 == 0


def test_a_key_depends_on_every_part() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})
