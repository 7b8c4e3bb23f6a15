"""Shells complete the command as their users do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).with_name("emb-provider"))


def completions(script: Path, line: str) -> list[str]:
    """What bash offers at the end of `line`."""
    program = f"""
source {script}
COMP_LINE={line!r}; COMP_WORDS=($COMP_LINE); [[ $COMP_LINE == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_emb_provider_completion emb-provider
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    path = f"{Path(COMMAND).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", program], capture_output=True, text=True, check=True, timeout=60, env={"PATH": path}
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("emb-provider ver", ["verify"]),
        ("emb-provider keys re", ["revoke"]),
        ("emb-provider serve --back", ["--backend"]),
        ("emb-provider serve --backend torch-", ["torch-compile"]),
        ("emb-provider verify --dtype bf", ["bfloat16"]),
        ("emb-provider embed --dtype b", ["bfloat16"]),
        ("emb-provider embed --format np", ["npy"]),
        ("emb-provider completion f", ["fish"]),
    ],
)
def test_bash_completes_commands_options_and_values(tmp_path: Path, line: str, found: list[str]) -> None:
    script = tmp_path / "completion"
    done = subprocess.run([COMMAND, "completion", "bash"], capture_output=True, text=True, check=True, timeout=60)
    script.write_text(done.stdout)
    assert completions(script, line) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script_that_names_the_command(shell: str) -> None:
    done = subprocess.run([COMMAND, "completion", shell], capture_output=True, text=True, check=True, timeout=60)
    assert "_EMB_PROVIDER_COMPLETE" in done.stdout
    assert f"{shell}_complete" in done.stdout


def test_an_unknown_shell_is_refused_with_those_that_are_known() -> None:
    done = subprocess.run([COMMAND, "completion", "csh"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr
