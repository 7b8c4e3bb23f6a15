"""`scripts/pictures` draws the pictures that the documentation shows."""

from pathlib import Path

from pictures import FOLDER, SIZE, photograph
from playwright.sync_api import Browser
from processes import ROOT, running


def test_the_page_is_photographed_with_its_results(browser: Browser, tmp_path: Path) -> None:
    with running(["--config", str(ROOT / "litestar.yaml")]) as server:
        server.wait_until_ready()
        taken = photograph(browser, f"http://localhost:{server.port}", tmp_path)
    for path in taken:
        head = path.read_bytes()[:24]
        assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (SIZE["width"], SIZE["height"])
        assert (FOLDER / path.name).is_file()
