"""Shells complete the command as their users do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE_SECONDS

COMMAND = str(Path(sys.executable).with_name("emb-provider"))


ASKED = [
    ("emb-provider ver", ["verify"]),
    ("emb-provider keys re", ["revoke"]),
    ("emb-provider serve --back", ["--backend"]),
    ("emb-provider serve --backend torch-", ["torch-compile"]),
    ("emb-provider verify --dtype bf", ["bfloat16"]),
    ("emb-provider embed --dtype b", ["bfloat16"]),
    ("emb-provider embed --format np", ["npy"]),
    ("emb-provider completion f", ["fish"]),
]
# Each prints what it would offer at the end of $line. zsh completes in a line editor only: its builtins print instead.
SHELLS = {
    "bash": """
        source $script
        COMP_LINE=$line COMP_WORDS=($line) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _emb_provider_completion emb-provider
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        compdef() {}
        compadd() { print -rl -- ${(P)@[-1]} }
        _describe() { print -rl -- ${${(P)3}%%:*} }
        source $script
        words=(${=line}) CURRENT=${#words}
        _emb_provider_completion
    """,
    "fish": """
        source $script
        complete -C $line | cut -f 1
    """,
}


def completions(shell: str, script: Path, line: str) -> list[str]:
    """What the shell offers at the end of `line`."""
    env = {
        "PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}",
        "HOME": str(script.parent),
        "script": str(script),
        "line": line,
    }
    # Nothing of a user's or the system's set-up.
    plain = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}[shell]
    done = subprocess.run(
        [shell, plain, "-c", SHELLS[shell]],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
        env=env,
    )
    return done.stdout.split()


@pytest.mark.parametrize(("line", "found"), ASKED)
@pytest.mark.parametrize("shell", ["bash", *(pytest.param(each, marks=pytest.mark.slow) for each in ("zsh", "fish"))])
def test_shells_complete_commands_options_and_values(tmp_path: Path, shell: str, line: str, found: list[str]) -> None:
    script = tmp_path / "completion"
    done = subprocess.run([COMMAND, "completion", shell], capture_output=True, text=True, check=True, timeout=60)
    script.write_text(done.stdout)
    assert completions(shell, script, line) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script_that_names_the_command(shell: str) -> None:
    done = subprocess.run([COMMAND, "completion", shell], capture_output=True, text=True, check=True, timeout=60)
    assert "_EMB_PROVIDER_COMPLETE" in done.stdout
    assert f"{shell}_complete" in done.stdout


def test_an_unknown_shell_is_refused_with_those_that_are_known() -> None:
    done = subprocess.run([COMMAND, "completion", "csh"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr
