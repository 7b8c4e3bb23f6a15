"""What a person sees on a terminal."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import clean_environment
from waiting import PATIENCE_SECONDS


def until(pattern: str, command: list[str], folder: Path, **more: str) -> str:
    """What `command` writes to its terminal until `pattern` comes."""
    ours, theirs = pty.openpty()
    env = clean_environment(TERM="xterm", **more)
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=env) as process:
        os.close(theirs)
        text, deadline = "", time.monotonic() + PATIENCE_SECONDS
        try:
            while not re.search(pattern, text):
                assert time.monotonic() < deadline, text
                if select.select([ours], [], [], 1)[0]:
                    text += os.read(ours, 65536).decode()
        finally:
            process.kill()
            process.wait(PATIENCE_SECONDS)
            os.close(ours)
    return text


def test_a_server_whose_terminal_is_gone_ends_in_order(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "provider", "serve", "--port", "0", "--backend", "example"]
    run = f"import os; os.login_tty({theirs}); os.execv({command[0]!r}, {command!r})"
    with subprocess.Popen(
        [sys.executable, "-c", run], cwd=tmp_path, env=clean_environment(), pass_fds=[theirs]
    ) as process:
        os.close(theirs)
        try:
            text, deadline = "", time.monotonic() + PATIENCE_SECONDS
            while "emb-provider serves" not in text:
                assert time.monotonic() < deadline, text
                if select.select([ours], [], [], 1)[0]:
                    text += os.read(ours, 65536).decode()
            os.close(ours)
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_start_ends_with_a_line_for_people_and_without_noise(tmp_path: Path, workers: str) -> None:
    command = [sys.executable, "-m", "provider", "serve", "--port", "0", "--host", "0.0.0.0", "--workers", workers]
    pattern = r"emb-provider serves all-MiniLM-L6-v2 at (http://localhost:\d+)/v1 \(try it: \1/docs\)\r\n"
    text = until(pattern, [*command, "--backend", "example"], tmp_path, NO_COLOR="1")
    assert re.search(pattern + "$", text)
    assert "\x1b[" not in text
    assert "uvicorn" not in text
