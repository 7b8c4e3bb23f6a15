"""The view "Try", in Chromium."""

import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page, expect
from processes import ServerProcess
from waiting import PATIENCE_SECONDS

TEXTS = ["A cat sits on the mat.", "A kitten sleeps.", "Stocks fell today.", "Shares lost value."]


def ask(server: ServerProcess, path: str, body: Any) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
        return json.load(response)


def vectors(server: ServerProcess, texts: list[str], **more: Any) -> NDArray[np.float32]:
    body = {"model": "minilm", "input": texts, "encoding_format": "base64", **more}
    rows = [base64.b64decode(each["embedding"]) for each in ask(server, "/v1/embeddings", body)["data"]]
    return np.array([np.frombuffer(row, "<f4") for row in rows])


def embed(page: Page, texts: list[str]) -> None:
    page.get_by_role("textbox", name="Texts").fill("\n".join(texts))
    page.get_by_role("button", name="Embed").click()
    expect(fact(page, "Texts")).to_have_text(str(len(texts)))


def fact(page: Page, name: str) -> Any:
    return page.locator(".summary .facts div").filter(has=page.get_by_text(name, exact=True)).locator("dd")


def show(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()


def test_the_heat_map_shows_cosines_by_pointer_and_keys(page: Page, server: ServerProcess) -> None:
    embed(page, TEXTS)
    rows = vectors(server, TEXTS)
    cosines = rows @ rows.T
    readout = page.locator(".readout")
    heat = page.get_by_role("application")
    heat.focus()
    for key, (row, column) in [
        ("ArrowDown", (0, 0)),
        ("ArrowDown", (1, 0)),
        ("ArrowRight", (1, 1)),
        ("ArrowUp", (0, 1)),
    ]:
        page.keyboard.press(key)
        expect(readout.locator("strong")).to_have_text(f"{cosines[row, column]:.3f}")
    expect(readout).to_contain_text(TEXTS[1])
    size = heat.bounding_box()
    assert size is not None
    # The last cell is at the lower right corner.
    heat.hover(position={"x": size["width"] - 5, "y": size["height"] - 5})
    expect(readout.locator("strong")).to_have_text(f"{cosines[3, 3]:.3f}")
    best = max(cosines[i, j] for i in range(4) for j in range(i))
    expect(page.locator(".pairs td").first).to_have_text(f"{best:.3f}")


def test_the_map_holds_the_variance_of_two_principal_components(page: Page, server: ServerProcess) -> None:
    texts = [*TEXTS, "Bake the bread.", "Salt the soup."]
    embed(page, texts)
    show(page, "Map")
    rows = vectors(server, texts).astype(np.float64)
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    expect(page.locator(".map")).to_contain_text(f"{100 * values[:2].sum() / values.sum():.0f} %")
    expect(page.locator(".map circle")).to_have_count(6)
    page.locator(".map circle").nth(2).hover()
    expect(page.locator(".readout")).to_contain_text(texts[2])
    page.get_by_role("application").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".readout")).to_contain_text(texts[3])


def test_two_texts_have_no_map_and_one_has_no_pairs(page: Page) -> None:
    embed(page, TEXTS[:2])
    show(page, "Map")
    expect(page.get_by_text("A map needs three texts")).to_be_visible()
    embed(page, TEXTS[:1])
    show(page, "Similarity")
    expect(page.get_by_role("application")).to_be_visible()
    expect(page.locator(".pairs")).to_have_count(0)


def test_tokens_show_specials_and_where_a_text_is_cut(page: Page) -> None:
    page.get_by_label("Long texts").select_option("cut the end")
    embed(page, ["A cat.", "word " * 300])
    expect(fact(page, "Cut")).to_have_text("1")
    show(page, "Tokens")
    first, second = page.locator(".token-rows li").all()
    assert first.locator(".token").all_inner_texts() == ["[CLS]", "A", "cat", ".", "[SEP]"]
    assert first.locator(".token.special").all_inner_texts() == ["[CLS]", "[SEP]"]
    expect(second.locator(".cut-mark")).to_have_text("cut here: at most 256 tokens")
    expect(second.locator(".token.cut")).to_have_count(300 - 254)
    expect(second).to_contain_text("256 tokens, 46 cut")


def test_a_text_that_is_too_long_is_an_error_with_its_tokens(server: ServerProcess, open_page: Any) -> None:
    with open_page(server) as watched:
        watched.allowed = {400}
        page = watched.open()
        page.get_by_role("textbox", name="Texts").fill("word " * 300)
        page.get_by_role("button", name="Embed").click()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("302 tokens")
        expect(alert).to_contain_text("choose to cut long texts")
        expect(page.locator(".cut-mark")).to_be_visible()
        page.get_by_label("Long texts").select_option("cut the start")
        alert.get_by_role("button", name="Try again").click()
        expect(alert).to_have_count(0)
        expect(page.locator(".token-rows li .token.cut").first).to_have_text("word")
        expect(fact(page, "Texts")).to_have_text("1")


def test_dimensions_and_times_are_shown(page: Page, server: ServerProcess) -> None:
    page.get_by_label("Dimensions").fill("64")
    embed(page, [*TEXTS, "a text that is asked for the first time"])
    expect(fact(page, "Dimensions")).to_have_text("64")
    times = page.locator(".times dd").all_inner_texts()
    assert len(times) == 4
    assert all(re.fullmatch(r"[\d.]+ (ms|s)", each) for each in times)
    assert float(times[2].split()[0]) > 0
    rows = vectors(server, TEXTS, dimensions=64)
    page.get_by_role("application").focus()
    for key in ("ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator(".readout strong")).to_have_text(f"{rows[1] @ rows[0]:.3f}")
    page.get_by_role("button", name="Embed").click()
    expect(fact(page, "Cached")).to_have_text("5")


@pytest.mark.parametrize(("model", "measure"), [("splade", "dot product"), ("colbert", "MaxSim")])
def test_other_outputs_are_compared_by_their_own_measure(page: Page, model: str, measure: str) -> None:
    page.get_by_label("Model", exact=True).select_option(model)
    embed(page, TEXTS)
    expect(page.locator(".scale")).to_contain_text(measure)
    show(page, "Map")
    expect(page.locator(".map circle")).to_have_count(4)


def test_files_are_read_and_what_is_no_text_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    texts = page.get_by_role("textbox", name="Texts")
    choose = page.get_by_label("File for Texts")
    page.get_by_role("button", name="Open a file")
    (tmp_path / "a.txt").write_text("\ufeffeins\r\n\r\nzwei\n", encoding="utf-8")
    choose.set_input_files(tmp_path / "a.txt")
    expect(texts).to_have_value("eins\nzwei")
    (tmp_path / "b.jsonl").write_text('{"id": 1, "text": "drei\\nvier"}\n"fünf"\n', encoding="utf-8")
    choose.set_input_files(tmp_path / "b.jsonl")
    expect(texts).to_have_value("drei vier\nfünf")
    wrong = {
        "c.jsonl": (b'{"text": 1}\n', "c.jsonl, line 1: found no text"),
        "d.jsonl": (b"nope\n", "d.jsonl, line 1: this is no JSON"),
        "e.txt": (b"\xff\xfe\x00", "is not text in UTF-8"),
        "f.txt": (b"\n\n", "f.txt holds no text"),
    }
    for name, (content, says) in wrong.items():
        (tmp_path / name).write_bytes(content)
        choose.set_input_files(tmp_path / name)
        expect(page.get_by_role("alert")).to_contain_text(says)
        expect(texts).to_have_value("drei vier\nfünf")


def test_a_dropped_file_fills_the_field(page: Page) -> None:
    data = page.evaluate_handle(
        "() => { const all = new DataTransfer(); all.items.add(new File(['one\\ntwo'], 'x.txt')); return all; }"
    )
    texts = page.get_by_role("textbox", name="Texts")
    texts.dispatch_event("dragover", {"dataTransfer": data})
    expect(page.locator(".drop.over")).to_have_count(1)
    texts.dispatch_event("drop", {"dataTransfer": data})
    expect(texts).to_have_value("one\ntwo")
    expect(page.locator(".drop.over")).to_have_count(0)


def test_examples_are_one_click_away(page: Page) -> None:
    texts = page.get_by_role("textbox", name="Texts")
    for name, start in (("Support tickets", "I forgot"), ("Languages", "The weather"), ("Everyday", "A cat")):
        page.get_by_role("group", name="Examples").get_by_role("button", name=name).click()
        expect(texts).to_have_value(re.compile(f"^{start}"))


def test_vectors_are_saved_as_jsonl(page: Page, server: ServerProcess) -> None:
    embed(page, TEXTS)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save vectors").click()
    assert waiting.value.suggested_filename == "minilm.jsonl"
    lines = [json.loads(line) for line in Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()]
    assert [each["text"] for each in lines] == TEXTS
    np.testing.assert_array_equal(np.array([each["embedding"] for each in lines], np.float32), vectors(server, TEXTS))


RUN = {
    "curl": ["sh", "-s"],
    "Python": [sys.executable, "-"],
    "JavaScript": ["node", "--input-type=module", "-"],
}


@pytest.mark.parametrize("language", RUN)
def test_the_code_that_is_shown_gives_the_same_vectors(server: ServerProcess, open_page: Any, language: str) -> None:
    texts = ['It\'s "quoted" \\ and $HOME `id`', "Grüße, 你好 🙂", TEXTS[0]]
    with open_page(server, permissions=["clipboard-read", "clipboard-write"]) as watched:
        page = watched.open()
        page.get_by_label("Dimensions").fill("8")
        page.get_by_label("Long texts").select_option("cut the end")
        embed(page, texts)
        show(page, "Code")
        show(page, language)
        page.get_by_role("button", name="Copy").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        code = page.evaluate("navigator.clipboard.readText()")
        assert code == page.get_by_label("Request as code").inner_text()
    env = os.environ | {"NO_PROXY": "localhost", "no_proxy": "localhost"}
    done = subprocess.run(RUN[language], input=code, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert done.returncode == 0, done.stderr
    found = np.array([each["embedding"] for each in json.loads(done.stdout)["data"]], np.float32)
    np.testing.assert_array_equal(found, vectors(server, texts, dimensions=8))


def test_a_text_is_never_made_html(page: Page) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    embed(page, [evil, f"{evil} again", "<b>bold</b>"])
    for tab in ("Similarity", "Map", "Tokens", "Code"):
        show(page, tab)
        expect(page.get_by_role("tabpanel").first).to_be_visible()
        assert page.locator("main img, main script, main b").count() == 0
    expect(page).to_have_title("Try · emb-provider")
    assert "<img src=x" in page.get_by_label("Request as code").inner_text()


def test_all_of_it_works_by_keyboard(server: ServerProcess, open_page: Any) -> None:
    with open_page(server) as watched:
        # A fragment in the address is where the browser would begin.
        page = watched.open("")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_role("textbox", name="Texts")).to_be_focused()
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "Embed":
                break
        page.keyboard.press("Enter")
        tab = page.get_by_role("tab", name="Similarity")
        expect(tab).to_be_visible()
        tab.focus()
        for key, name in (("ArrowRight", "Map"), ("End", "Code"), ("ArrowRight", "Similarity"), ("ArrowLeft", "Code")):
            page.keyboard.press(key)
            expect(page.get_by_role("tab", name=name, exact=True)).to_be_focused()
            expect(page.get_by_role("tab", name=name, exact=True)).to_have_attribute("aria-selected", "true")
