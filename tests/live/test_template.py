"""`plugins/README.md` from its first command to its last: a backend is written, tested, served, built and checked."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from processes import PATIENCE_SECONDS, ROOT, clean_environment, running

# A fence, with the name of the file that it is the content of, if a line before says so.
_BLOCK = re.compile(r"(?:^`(?P<path>[^`\n]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

_MAKE_ENVIRONMENT = re.compile(r"^python3 -m venv (?P<folder>\S+)$", re.MULTILINE)


class Reader:
    """Someone who follows the page: the folder they are in, and what they saw."""

    def __init__(self, folder: Path) -> None:
        self.place, self.seen = folder, ""
        # Heavy packages come from the environment of these tests; the reader's own holds what they install.
        self._shared = folder / "shared.pth"
        self._shared.write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # Nothing is fetched: what is to be installed is there, and is built with what is there.
        self.environment = clean_environment(PATH=path, PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0", NO_COLOR="1")
        self.environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def write(self, path: str, text: str) -> None:
        assert (self.place / path).is_file(), f"{path} is not there to be replaced"
        (self.place / path).write_text(text)

    def run(self, commands: str) -> None:
        """In a shell like the one before: in the same folder, with the same environment active."""
        script = f"[ ! -d .venv ] || . .venv/bin/activate\n{_MAKE_ENVIRONMENT.sub(self._share, commands)}"
        script += f"\npwd >{self._shared.parent}/place\n"
        ran = subprocess.run(
            ["bash", "-euc", script],
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=280,
        )
        assert ran.returncode == 0, f"{commands}\n{ran.stdout}"
        self.seen = ran.stdout
        self.place = Path((self._shared.parent / "place").read_text().strip())

    def _share(self, made: re.Match[str]) -> str:
        """The command, and what lets the new environment see the packages of this one, and run their commands."""
        folder, ours = made["folder"], Path(sys.executable).parent
        packages = f"{folder}/lib/python3.*/site-packages"
        lines = [made[0], f"cp {self._shared} {packages}"]
        # Some Pythons put a setuptools of their own into a new environment, which would hide the shared one.
        lines.append(f"rm -rf {packages}/setuptools*")
        for command in ("emb-provider", "pytest", "twine"):
            lines.append(f'sed "1s|.*|#!$PWD/{folder}/bin/python|" {ours}/{command} >{folder}/bin/{command}')
            lines.append(f"chmod +x {folder}/bin/{command}")
        return "\n".join(lines)

    def serve(self, command: str, asked: str) -> None:
        """Run a server on a free port, and what the page runs in another terminal."""
        program, *arguments = shlex.split(command.replace("--port 9000", "--port 0"))
        with running(arguments, command=[str(self.place / ".venv" / "bin" / program)], cwd=self.place) as server:
            server.wait_until_ready()
            self.run(asked.replace("http://localhost:9000", server.url))
            server.signal()
            assert server.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
def test_who_follows_the_page_has_a_backend_that_serves(tmp_path: Path) -> None:
    (tmp_path / "emb-provider").symlink_to(ROOT)
    reader = Reader(tmp_path)
    blocks = list(_BLOCK.finditer((ROOT / "plugins" / "README.md").read_text()))
    serving = ""
    for block in blocks:
        text = block["text"]
        if block["kind"] == "python":
            assert block["path"], "a file's content has its name before it"
            reader.write(block["path"], text)
        elif block["kind"] == "text":
            assert text.strip() in reader.seen
        elif block["kind"] == "sh" and serving:
            reader.serve(serving, text)
            assert '"embedding":[' in reader.seen
            serving = ""
        elif block["kind"] == "sh":
            serving = next((line for line in text.splitlines() if line.startswith("emb-provider serve")), "")
            reader.run(text.replace(serving, "") if serving else text)
        else:
            # What needs an account is shown and not run.
            assert (block["kind"], text) == ("console", "twine upload dist/*\n")
    assert not serving
    assert re.search(r"^numpy\s+emb_provider_numpy.backend:NumpyBackend", reader.seen, re.MULTILINE)
