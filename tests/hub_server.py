"""A hub on the loopback interface: as much of the Hugging Face hub's HTTP as huggingface_hub uses to fetch a model.

`GET /api/models/REPO[/revision/REV]`, `GET /api/models/REPO/tree/COMMIT`, and `HEAD` and `GET` of
`/REPO/resolve/COMMIT/FILE` with ETag, X-Repo-Commit and ranges.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import pytest
from attrs import define, field, frozen
from waiting import PATIENCE_SECONDS, join

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def forget_settings(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make huggingface_hub know nothing of this machine: no token, no cache, and connections are allowed."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_OIDC_RESOURCE"):
        patch.delenv(name, raising=False)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    patch.setattr(constants, "HF_HUB_CACHE", str(folder / "default-cache"))


def files_in(folder: Path) -> dict[str, bytes]:
    """Name to content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@frozen
class Seen:
    """A request that came.

    Attributes:
        headers: with lower-case names.
    """

    method: str
    path: str
    headers: dict[str, str]


@define(eq=False)
class HubServer:
    """Use as a context manager.

    Attributes:
        repository: the one that it has.
        files: name to content.
        others: files of further repositories, by name.
        commit: what `branches` point to.
        deny: answer everything with this status (401, 403, 404, 500 …).
        deny_code: and with this X-Error-Code.
        deny_files: deny files only, as the hub does for gated repositories, whose lists are public.
        drop: name of a file whose first download breaks off, to the number of bytes after which it does.
        held: names of files of which the second half comes when the event is set.
        short: names of files of which the second half is missing, in header and body alike.
        requests: what came so far.
    """

    files: dict[str, bytes]
    repository: str = "tests/tiny"
    others: dict[str, dict[str, bytes]] = field(factory=dict)
    commit: str = COMMIT
    deny: int | None = None
    deny_code: str | None = None
    deny_files: bool = False
    drop: dict[str, int] = field(factory=dict)
    held: dict[str, threading.Event] = field(factory=dict)
    short: set[str] = field(factory=set)
    requests: list[Seen] = field(factory=list)
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """A hub whose repository holds the files of `folder`."""
        return cls(files_in(folder))

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A short poll: the end of each test waits for it.
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        join(self._thread)

    @property
    def address(self) -> str:
        """For HF_ENDPOINT."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def holding(self, path: str) -> tuple[str, dict[str, bytes]]:
        """The repository that a path is about, and its files."""
        names = (name for name in self.others if path.startswith((f"/api/models/{name}/", f"/{name}/")))
        found = next(names, path.removeprefix("/api/models/"))
        return (found, self.others[found]) if found in self.others else (self.repository, self.files)

    def content(self, name: str, whole: bytes) -> bytes:
        """What it answers for a file."""
        return whole[: len(whole) // 2] if name in self.short else whole

    def fetched(self) -> set[str]:
        """Names of the files that were downloaded."""
        return {
            each.path.partition(f"/resolve/{self.commit}/")[2] for each in self.requests if each.method == "GET"
        } - {""}


class _Handler(BaseHTTPRequestHandler):
    state: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of http.server
        """Silence."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.state, unquote(urlsplit(self.path).path)
        hub.requests.append(Seen(self.command, path, {key.lower(): value for key, value in self.headers.items()}))
        repository, files = hub.holding(path)
        api, resolve = f"/api/models/{repository}", f"/{repository}/resolve/"
        if hub.deny is not None and (path.startswith(resolve) or not hub.deny_files):
            self._refuse(hub.deny, hub.deny_code)
        elif path.startswith(f"{api}/tree/"):
            self._json([{"type": "file", "path": name, **_about(content)} for name, content in files.items()])
        elif path == api or path.startswith(f"{api}/revision/"):
            if path.rpartition("/revision/")[2] not in (path, "main", hub.commit):
                self._refuse(404, "RevisionNotFound")
                return
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            self._json({"id": repository, "sha": hub.commit, "siblings": siblings})
        elif path.startswith(resolve):
            self._file(path.removeprefix(resolve).partition("/")[2], files)
        else:
            self._refuse(404, "RepoNotFound")

    def _file(self, name: str, files: dict[str, bytes]) -> None:
        if name not in files:
            self._refuse(404, "EntryNotFound")
            return
        content = self.state.content(name, files[name])
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(files[name]).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.state.commit)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        breaks_after = self.state.drop.pop(name, None)
        if name in self.state.held:
            self.wfile.write(content[start : len(content) // 2])
            start = len(content) // 2
            assert self.state.held[name].wait(PATIENCE_SECONDS)
        self.wfile.write(content[start:breaks_after])
        if breaks_after is not None:
            self.close_connection = True

    def _json(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str | None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _about(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}
