"""The documentation as a site: built strictly, complete, and without requests to anywhere else."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from processes import ROOT

pytestmark = pytest.mark.slow

# What a browser fetches by itself when it opens a page, but for links that a reader follows.
_FETCHED = {"audio": "src", "embed": "src", "iframe": "src", "img": "src", "link": "href", "object": "data"} | {
    "script": "src",
    "source": "srcset",
    "video": "src",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--doctree-dir", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(folder / "html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


class Fetched(HTMLParser):
    """Collects addresses that a browser fetches by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        value = dict(attrs).get(_FETCHED.get(tag, ""))
        if value:
            self.addresses.append(value)


def fetched(site: Path) -> Iterator[str]:
    for page in site.rglob("*.html"):
        parser = Fetched()
        parser.feed(page.read_text())
        yield from parser.addresses
    for sheet in site.rglob("*.css"):
        yield from re.findall(r"url\(\s*['\"]?([^'\")]+)", sheet.read_text())
        yield from re.findall(r"@import\s+['\"]([^'\"]+)", sheet.read_text())


def test_every_page_of_the_folder_is_a_page_of_the_site(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}


def test_a_browser_that_opens_it_asks_nobody_else(site: Path) -> None:
    found = [each for each in fetched(site) if not each.startswith("data:")]
    assert len(found) > 100
    assert [each for each in found if "//" in each.partition("?")[0]] == []


def test_files_of_the_repository_are_pages_with_links_that_lead_somewhere(site: Path) -> None:
    changelog = (site / "project" / "changelog.html").read_text()
    assert "Keep a Changelog" in changelog
    plugins = (site / "project" / "plugins.html").read_text()
    assert 'href="../reference/backends.html#the-protocol"' in plugins
