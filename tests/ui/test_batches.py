"""Batches on the view "Live", in Chromium."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from job_runs import MODEL, batch, ended, slow_environment, submit, write_input
from playwright.sync_api import Locator, Page, expect
from processes import ServerProcess, running


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that answers about a hundred requests of a batch a second."""
    folder = tmp_path_factory.mktemp("slow")
    with running([], env=slow_environment(folder, seconds=0.01), cwd=folder) as started:
        started.wait_until_ready()
        yield started


def entry(page: Page, batch_id: str) -> Locator:
    return page.locator(".batches > li").filter(has=page.get_by_role("heading", name=batch_id))


def test_a_batch_shows_its_counts_and_is_cancelled(slow: ServerProcess, open_page: Any, tmp_path: Path) -> None:
    with open_page(slow) as watched:
        page = watched.open("live")
        expect(page.get_by_text("No batches yet")).to_be_visible()
        write_input(tmp_path / "in.jsonl", 20_000)
        number = submit(slow.url, tmp_path / "in.jsonl")["id"]
        found = entry(page, number)
        expect(found.locator(".state")).to_have_text("in progress")
        expect(found.locator(".progress")).to_contain_text(re.compile(r"[1-9][\d,]* of 20,000"))
        expect(found).to_contain_text(re.compile(r"/v1/embeddings · since .* requests/s · about \d+ \w+ left"))
        expect(found).to_contain_text(re.compile(r"[1-9][\d,]* failed"))
        bar = found.get_by_role("progressbar")
        expect(bar).to_have_attribute("aria-valuemax", "20000")
        found.get_by_role("button", name="Cancel", exact=True).click()
        found.get_by_role("button", name="Go on with it").click()
        assert batch(slow, number)["status"] == "in_progress"
        found.get_by_role("button", name="Cancel", exact=True).click()
        found.get_by_role("button", name="Cancel the batch").click()
        expect(found.locator(".state")).to_have_text("cancelled")
        counts = ended(slow, number)["request_counts"]
        expect(found.locator(".progress")).to_have_text("20,000 of 20,000")
        expect(found).to_contain_text(f"{counts['failed']:,} failed")
        expect(found.get_by_role("button", name=re.compile("Cancel"))).to_have_count(0)


def test_results_of_a_batch_are_saved(slow: ServerProcess, open_page: Any, tmp_path: Path) -> None:
    write_input(tmp_path / "in.jsonl", 20)
    number = submit(slow.url, tmp_path / "in.jsonl")["id"]
    with open_page(slow) as watched:
        found = entry(watched.open("live"), number)
        expect(found.locator(".state")).to_have_text("completed")
        for name, kind, lines in (("Save results", "output", 18), ("Save errors", "errors", 2)):
            with watched.page.expect_download() as waiting:
                found.get_by_role("button", name=name).click()
            assert waiting.value.suggested_filename == f"{number}_{kind}.jsonl"
            assert len(Path(waiting.value.path()).read_text().splitlines()) == lines


def test_a_file_that_holds_no_requests_says_what_is_wrong(slow: ServerProcess, open_page: Any, tmp_path: Path) -> None:
    line = f'{{"custom_id": "a", "method": "GET", "url": "/v1/embeddings", "body": {{"model": "{MODEL}"}}}}\n'
    (tmp_path / "in.jsonl").write_text(line)
    number = submit(slow.url, tmp_path / "in.jsonl")["id"]
    with open_page(slow) as watched:
        found = entry(watched.open("live"), number)
        expect(found.locator(".state")).to_have_text("failed")
        expect(found.locator(".problem")).to_contain_text("Line 1:")
