"""The file of usage: nothing is lost, nothing counted twice, by any number of processes."""

import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from click.testing import CliRunner
from structlog.testing import capture_logs
from waiting import PATIENCE_SECONDS, wait_until

from provider.cli import cli
from provider.errors import SettingsError
from provider.usage.database import _KIND, Counts, UsageDatabase
from provider.usage.quotas import Quotas
from provider.usage.recorder import UsageRecorder

# A process for each caller: counts without end, and says before each write how many are counted, and after it that they
# are in the file.
COUNTING = """
import os, sys, time
from pathlib import Path
from provider.usage.database import Counts
from provider.usage.quotas import Quotas
from provider.usage.recorder import UsageRecorder

def count(caller):
    recorder, said, counted = UsageRecorder(Path("usage"), Quotas()), os.open(caller, os.O_WRONLY | os.O_CREAT), 0
    os.write(said, b"pid %d\\n" % os.getpid())
    while True:
        for number in range(7):
            recorder.add(caller, f"model-{number % 3}", Counts(requests=1, tokens=5))
            counted += 1
        os.write(said, b"counted %d\\n" % counted)
        recorder.flush()
        os.write(said, b"written %d\\n" % counted)
        time.sleep(0.05)  # the others get their turn

for caller in sys.argv[1:]:
    if not os.fork():
        count(caller)
for caller in sys.argv[1:]:
    os.wait()
"""


def total(path: Path, caller: str) -> int:
    database = UsageDatabase.open_to_read(path)
    (used,) = database.read([], only={"caller": [caller]})
    database.close()
    assert used.counts.tokens == 5 * used.counts.requests
    return used.counts.requests


def test_of_processes_that_are_killed_the_last_counts_are_lost_at_most_and_none_is_there_twice(tmp_path: Path) -> None:
    chance, callers = random.Random(7), [str(number) for number in range(20)]
    process = subprocess.Popen([sys.executable, "-c", COUNTING, *callers], cwd=tmp_path, start_new_session=True)
    try:
        for caller in callers:
            said = tmp_path / caller
            # When each is killed is chance, and what must hold does not depend on it.
            lines = chance.randrange(2, 9)
            wait_until(lambda: said.exists() and said.read_bytes().count(b"\n") >= lines)  # noqa: B023 - called at once
            pid = int(said.read_text().split()[1])
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not is_there(pid))  # noqa: B023
            counts = {"counted": 0, "written": 0}
            counts |= {what: int(count) for what, count in map(str.split, said.read_text().splitlines())}
            assert total(tmp_path / "usage", caller) in {counts["counted"], counts["written"]}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=PATIENCE_SECONDS)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_was_counted_is_written_at_the_end_and_by_the_thread(tmp_path: Path) -> None:
    path = tmp_path / "usage"
    recorder = UsageRecorder(path, Quotas())
    recorder.start()
    recorder.add("a", "m", Counts(requests=1, tokens=5))
    wait_until(lambda: total(path, "a") == 1)
    recorder.add("a", "m", Counts(requests=1, tokens=5))
    recorder.close()
    assert total(path, "a") == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_while_the_file_is_locked_counts_wait_and_the_log_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provider.usage.database._KIND", evolve(_KIND, busy_seconds=0.01))
    monkeypatch.setattr("provider.usage.recorder._WRITE_SECONDS", 0.01)
    path = tmp_path / "usage"
    recorder = UsageRecorder(path, Quotas())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with capture_logs() as logs:
        recorder.add("a", "m", Counts(requests=1, tokens=5))
        recorder.start()
        wait_until(lambda: logs)
        recorder.add("a", "m", Counts(requests=1, tokens=5))
        other.execute("ROLLBACK")
        wait_until(lambda: total(path, "a") == 2)
        recorder.close()
    assert [line["event"] for line in logs] == ["usage_not_written"]
    other.close()


def test_a_file_that_is_removed_is_made_anew_as_soon_as_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provider.usage.recorder._WRITE_SECONDS", 0.01)
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "usage"
    recorder = UsageRecorder(path, Quotas())
    recorder.add("a", "m", Counts(requests=1, tokens=5))
    recorder.flush()
    folder.rename(tmp_path / "moved")
    recorder.add("a", "m", Counts(requests=2, tokens=10))
    with capture_logs() as logs:
        recorder.start()
        wait_until(lambda: logs)
        folder.mkdir()
        wait_until(lambda: len(logs) == 2)
        recorder.add("a", "m", Counts(requests=1, tokens=5))
        recorder.close()
    assert [line["event"] for line in logs] == ["usage_not_written", "usage_file_gone"]
    assert (total(tmp_path / "moved" / "usage", "a"), total(path, "a")) == (1, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no database, but a text of some length" * 20, "cannot use"), (None, "its folder has to exist")],
)
def test_a_file_that_cannot_be_used_is_refused_at_once(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "usage" if content else tmp_path / "nowhere" / "usage"
    if content:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        UsageDatabase.open(path)


def test_a_database_of_another_program_or_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE usage (a)")
    theirs.close()
    for opens in (UsageDatabase.open, UsageDatabase.open_to_read):
        with pytest.raises(SettingsError, match="another program's"):
            opens(path)
    with sqlite3.connect(path) as theirs:
        assert theirs.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    theirs.close()
    ours = tmp_path / "ours"
    UsageDatabase.open(ours).close()
    with sqlite3.connect(ours) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    with pytest.raises(SettingsError, match="has version 99"):
        UsageDatabase.open(ours)


def test_the_command_shows_groups_and_days(tmp_path: Path) -> None:
    path = tmp_path / "usage"
    day = date(2026, 1, 1)
    days = iter(["2026-01-01", "2026-01-02", "2026-01-02", "2026-01-02"])
    recorder = UsageRecorder(path, Quotas(), today=lambda: next(days))
    for caller, model in (("a", "m"), ("a", "m"), ("b", "m"), ("", "")):
        recorder.add(caller, model, Counts(requests=1, errors=not model, inputs=2, tokens=10 * bool(model)))
    recorder.flush()
    recorder.close()

    def run(*arguments: str) -> Any:
        command = ["usage", "--file", str(path), "--json", *arguments]
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return [
            {key: row[key] for key in ("day", "caller", "model", "requests", "tokens") if key in row}
            for row in json.loads(result.stdout)
        ]

    assert run("--by", "none") == [{"requests": 4, "tokens": 30}]
    assert run("--by", "caller") == [
        {"caller": "", "requests": 1, "tokens": 0},
        {"caller": "a", "requests": 2, "tokens": 20},
        {"caller": "b", "requests": 1, "tokens": 10},
    ]
    assert run("--by", "day", "--until", day.isoformat()) == [{"day": "2026-01-01", "requests": 1, "tokens": 10}]
    assert run("--by", "day", "--since", "2026-01-02") == [{"day": "2026-01-02", "requests": 3, "tokens": 20}]
    assert run("--by", "none", "--since", "0001-01-01", "--until", "9999-12-31") == [{"requests": 4, "tokens": 30}]
    assert run("--since", "1d") == []
    table = CliRunner().invoke(cli, ["usage", "--file", str(path)]).stdout.splitlines()
    assert table[0].split() == ["caller", "model", *Counts._fields]
    assert table[1].split() == ["-", "-", "1", "1", "2", "0", "0", "0", "0"]
    for wrong in (["--by", "x"], ["--since", "x"]):
        assert CliRunner().invoke(cli, ["usage", "--file", str(path), *wrong]).exit_code == 2
