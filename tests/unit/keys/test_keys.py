"""Keys and the words after them: read, written, added and revoked."""

import hashlib
import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from provider.cli import cli
from provider.domain import Caller, Quota
from provider.errors import SettingsError
from provider.keys import TASKS, add_key, parse_key, read_keys, read_keys_file, revoke_keys, rights_text
from provider.settings import AuthSettings

NAMES = st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters=","), min_size=1)
LIMITS = st.none() | st.integers(1, 10**17)
CALLERS = st.builds(
    Caller,
    name=NAMES,
    tier=st.sampled_from([None, "interactive", "bulk"]),
    weight=st.integers(1, 1000),
    models=st.none() | st.frozensets(NAMES, min_size=1),
    tasks=st.none() | st.frozensets(st.sampled_from(TASKS)),
    is_admin=st.booleans(),
    quota=st.builds(Quota, LIMITS, LIMITS, LIMITS, LIMITS),
)


@given(CALLERS)
def test_what_is_written_of_a_caller_is_read_as_the_same(caller: Caller) -> None:
    assert parse_key(f"a-key {rights_text(caller)}", "here").caller == caller


@pytest.mark.parametrize("key", ["plain", "with#hash", "quoted'key", "schlüssel", "keyà", "sk-a=b"])
def test_a_key_is_its_sha256_in_utf8_whether_in_clear_or_hashed(key: str) -> None:
    digest = hashlib.sha256(key.encode()).digest()
    in_clear, hashed = parse_key(key, "here"), parse_key(f"sha256:{digest.hex()}", "here")
    assert in_clear.digest == hashed.digest == digest
    assert (in_clear.is_hashed, hashed.is_hashed) == (False, True)
    assert in_clear.caller == hashed.caller == Caller(f"key-{digest.hex()[:8]}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sha256:123", "64 hex digits"),
        ("sha256:SECRET name=a", "64 hex digits"),
        ("\x00SECRET", "printable"),
        ("a SECRET", "NAME=VALUE"),
        ("SECRET title=a", "NAME=VALUE"),
        ("SECRET name='a", "quotation mark"),
        ("SECRET name=a name=b", "given twice"),
        ("SECRET name=", "name: expected printable"),
        ("SECRET tier=fast", "tier: expected one of interactive, bulk, got 'fast'"),
        ("SECRET tasks=embed,rank", "tasks: expected some of embed, rerank"),
        ("SECRET weight=0", "weight: expected a whole number, at least 1, got '0'"),
        ("SECRET models=a,,b", "models: expected names"),
        ("SECRET admin=true", "admin: expected yes or no"),
        ("SECRET tokens_per_day=-1", "tokens_per_day: expected a whole number"),
    ],
)
def test_a_wrong_line_is_told_without_its_key(line: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        parse_key(line, "place")
    assert caught.value.message.startswith("place: ")
    assert "SECRET" not in caught.value.message


@pytest.mark.parametrize("keys", [["a name=x", "a name=y"], ["a name=x", "b name=x tier=bulk"], {"x": "a name=y"}])
def test_a_key_has_one_name_and_a_name_one_set_of_rights(keys: list[str] | dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"two keys|given twice|too; leave"):
        read_keys(AuthSettings(keys=keys))


def test_adding_and_revoking_keep_the_rest_of_the_file_and_close_it_to_others(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes("\ufeff# ours\n\nold-key name=old\n".encode())
    path.chmod(0o666)
    key, added = add_key(path, Caller("new", tier="bulk"))
    again, _ = add_key(path, Caller("new", tier="bulk"))
    assert path.read_text().startswith("# ours\n\nold-key name=old\nsha256:")
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.caller.name for each in read_keys_file(path)] == ["old", "new", "new"]
    assert added.digest == hashlib.sha256(key.encode()).digest()
    assert revoke_keys(path, added.id) == [added]
    assert [each.digest for each in read_keys_file(path)[1:]] == [hashlib.sha256(again.encode()).digest()]
    assert len(revoke_keys(path, "new")) == 1
    assert path.read_text() == "# ours\n\nold-key name=old\n"
    assert [each.name for each in tmp_path.iterdir()] == ["keys"]
    path.chmod(0o640)
    add_key(path, Caller("new"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_comment_ends_with_its_line_only(tmp_path: Path, end: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(f"# a \x0b b \x0c c \x85 d \u2028 e{end}key name=a{end}".encode())
    assert [each.caller.name for each in read_keys_file(path)] == ["a"]
    add_key(path, Caller("b"))
    assert [each.caller.name for each in read_keys_file(path)] == ["a", "b"]


def test_a_file_that_cannot_be_changed_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("key name=a tier=nope\n")
    for change in (lambda: add_key(path, Caller("b")), lambda: revoke_keys(path, "b")):
        with pytest.raises(SettingsError, match="line 1: tier"):
            change()
    path.write_text("key name=a\n")
    with pytest.raises(SettingsError, match="different rights"):
        add_key(path, Caller("a", weight=2))
    with pytest.raises(SettingsError, match="no key of the name or id 'b'"):
        revoke_keys(path, "b")
    assert path.read_text() == "key name=a\n"
    with pytest.raises(SettingsError, match="cannot write"):
        add_key(tmp_path / "nowhere" / "keys", Caller("a"))


def test_the_commands_print_a_key_once_and_list_and_revoke_it(tmp_path: Path) -> None:
    path = tmp_path / "keys"

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["keys", *arguments, "--file", str(path)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    key = run("add", "search", "--models", "a,b", "--tasks", "embed", "--requests-per-minute", "9", "--admin").strip()
    assert len(key) > 43
    other = run("add", "search").strip()
    assert key not in path.read_text()
    rows = json.loads(run("list", "--json"))
    assert [row["name"] for row in rows] == ["search", "search"]
    assert {row["rights"] for row in rows} == {"models=a,b tasks=embed admin=yes requests_per_minute=9"}
    assert hashlib.sha256(other.encode()).hexdigest().startswith(rows[1]["id"])
    assert "hashed" in run("list")
    assert run("revoke", rows[0]["id"]) == f"search ({rows[0]['id']}) was revoked in {path}\n"
    assert len(json.loads(run("list", "--json"))) == 1
