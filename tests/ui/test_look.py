"""How the page looks: pictures of every view in both themes at three widths, and what axe finds."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest
from axe_playwright_python.sync_playwright import Axe
from job_runs import ended, submit, write_input
from playwright.sync_api import Page, expect
from processes import ROOT, ServerProcess

PICTURES = ROOT / "build" / "pictures"
WIDTHS = {360: 780, 768: 1024, 1280: 900}
MOST_HEIGHT = 12_000
TABS = ("Similarity", "Map", "Tokens", "Code")


@pytest.fixture(scope="module")
def at_work(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """The server after a batch."""
    path = tmp_path_factory.mktemp("batch") / "in.jsonl"
    write_input(path, 200, model="minilm")
    ended(server, submit(server.url, path)["id"])
    return server


def states(page: Page) -> Iterator[str]:
    """Every view with a result, one after another."""
    page.get_by_role("textbox", name="Texts").wait_for()
    yield "empty"
    page.get_by_label("Long texts").select_option("cut the end")
    page.get_by_role("textbox", name="Texts").press("End")
    page.get_by_role("button", name="Embed").click()
    for tab in TABS:
        page.get_by_role("tab", name=tab, exact=True).click()
        yield f"try-{tab.lower()}"
    page.get_by_role("link", name="Search").click()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".hit.marked").first).to_be_visible()
    yield "search"
    page.get_by_role("link", name="Compare").click()
    page.get_by_label("Second model").select_option("splade")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".changes")).to_be_visible()
    yield "compare"
    page.get_by_role("link", name="Live").click()
    page.locator(".models summary").first.click()
    for number in range(4):
        page.request.post(
            urljoin(page.url, "../v1/embeddings"), data={"model": "minilm", "input": [f"text {number}", "a"]}
        )
        page.wait_for_timeout(1000)
    expect(page.get_by_role("img", name=re.compile(r"^Requests a second: all \d*\.?\d*[1-9]"))).to_be_visible()
    yield "live"
    page.get_by_role("button", name="Key", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    yield "key"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_view_fits_its_width_and_axe_finds_nothing_serious(
    at_work: ServerProcess, open_page: Any, width: int, theme: str
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    size = {"width": width, "height": WIDTHS[width]}
    with open_page(at_work, viewport=size, color_scheme=theme, reduced_motion="reduce") as watched:
        page = watched.open()
        wrong: list[str] = []
        for state in states(page):
            page.evaluate("window.scrollTo(0, 0)")
            page.screenshot(path=PICTURES / f"{state}-{theme}-{width}.png", full_page=True)
            if page.evaluate("document.documentElement.scrollWidth") > width:
                wrong.append(f"{state}: wider than {width} pixels")
            if page.evaluate("document.documentElement.scrollHeight") > MOST_HEIGHT:
                wrong.append(f"{state}: higher than {MOST_HEIGHT} pixels")
            found = Axe().run(page).response["violations"]
            wrong += [
                f"{state}: {each['id']}: {each['nodes'][0]['html'][:200]}"
                for each in found
                if each["impact"] in {"critical", "serious", "moderate"}
            ]
        assert wrong == []
