"""`plugins/README.md`, followed in an empty environment: a backend is written, tested, served, built and checked."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from processes import PATIENCE_SECONDS, ROOT, clean_environment, running

# Packages are fetched and installed, torch among them.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# A fence, with the name of the file that it is the content of, if a line before says so.
_BLOCK = re.compile(r"(?:^`(?P<path>[^`\n]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Reader:
    """Someone who follows the page: the folder they are in, and what they saw."""

    def __init__(self, folder: Path) -> None:
        self.place, self.seen = folder, ""
        self._place = folder / "place"
        # The Python of these tests without their packages; the versions are the tested ones.
        path = f"{sys.base_prefix}/bin{os.pathsep}{os.defpath}"
        pins = str(ROOT / "constraints.txt")
        self.environment = clean_environment(PATH=path, PIP_CONSTRAINT=pins, PIP_BUILD_CONSTRAINT=pins, NO_COLOR="1")
        self.environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_COMPILE": "1"}
        self.environment.pop("VIRTUAL_ENV", None)

    def write(self, path: str, text: str) -> None:
        assert (self.place / path).is_file(), f"{path} is not there to be replaced"
        (self.place / path).write_text(text)

    def run(self, commands: str) -> None:
        """In a shell like the one before: in the same folder, with the same environment active."""
        ran = subprocess.run(
            ["bash", "-euc", f"[ ! -d .venv ] || . .venv/bin/activate\n{commands}\npwd >{self._place}"],
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=1200,
        )
        assert ran.returncode == 0, f"{commands}\n{ran.stdout}"
        self.seen = ran.stdout
        self.place = Path(self._place.read_text().strip())

    def serve(self, command: str, asked: str) -> None:
        """Run a server on a free port, and what the page runs in another terminal."""
        program, *arguments = shlex.split(command.replace("--port 9000", "--port 0"))
        command_line = [str(self.place / ".venv" / "bin" / program)]
        with running(arguments, command=command_line, env=self.environment, cwd=self.place) as server:
            server.wait_until_ready()
            self.run(asked.replace("http://localhost:9000", server.url))
            server.signal()
            assert server.wait() == 0


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Someone with a checkout, at the end of the page."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "emb-provider").symlink_to(ROOT)
    reader = Reader(folder)
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
    return reader


def test_who_follows_the_page_has_a_backend_that_serves(reader: Reader) -> None:
    assert re.search(r"^numpy\s+emb_provider_numpy.backend:NumpyBackend", reader.seen, re.MULTILINE)


def test_an_installed_package_serves_its_model_from_an_empty_folder(reader: Reader, tmp_path: Path) -> None:
    program = str(reader.place / ".venv" / "bin" / "emb-provider")
    with running(["serve", "--port", "0"], command=[program], env=reader.environment, cwd=tmp_path) as server:
        server.wait_until_ready()
        asked = {"model": "all-MiniLM-L6-v2", "input": "A cat sits on the mat."}
        answer = httpx.post(f"{server.url}/v1/embeddings", json=asked, timeout=PATIENCE_SECONDS)
    assert len(answer.json()["data"][0]["embedding"]) == 384
