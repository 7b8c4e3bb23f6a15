"""The views "Search" and "Compare", in Chromium."""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect
from processes import ServerProcess, holding_environment, running
from waiting import PATIENCE_SECONDS, wait_until

QUERY = "Where does the cat sit?"
DOCUMENTS = ["On the mat, of course.", "Stocks fell today.", "The dog barks.", "A cat sits on a mat."]


def ask(server: ServerProcess, path: str, body: Any) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
        return json.load(response)


@pytest.fixture
def searched(page: Page) -> Page:
    """A search by every kind of model."""
    page.get_by_role("link", name="Search").click()
    page.get_by_role("textbox", name="Query").fill(QUERY)
    page.get_by_role("textbox", name="Documents").fill("\n".join(DOCUMENTS))
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".ranking")).to_have_count(4)
    return page


def column(page: Page, name: str) -> Locator:
    return page.locator(".ranking").filter(has=page.get_by_role("heading", name=name))


def order(ranking: Locator) -> list[str]:
    return ranking.locator(".hit-text").all_inner_texts()


def test_every_way_of_ranking_has_a_column_in_its_own_order(searched: Page, server: ServerProcess) -> None:
    ranked = ask(server, "/v1/rerank", {"model": "reranker", "query": QUERY, "documents": DOCUMENTS})["results"]
    assert order(column(searched, "Reranker")) == [DOCUMENTS[each["index"]] for each in ranked]
    body = {"model": "minilm", "input": [QUERY, *DOCUMENTS]}
    query, *rows = [np.array(each["embedding"]) for each in ask(server, "/v1/embeddings", body)["data"]]
    scores = [float(query @ row) for row in rows]
    best = sorted(range(4), key=lambda each: -scores[each])
    embedding = column(searched, "Embedding")
    assert order(embedding) == [DOCUMENTS[each] for each in best]
    expect(embedding.locator(".score").first).to_contain_text(f"{scores[best[0]]:.3f}")
    moved = column(searched, "Reranker").locator(".moved").all_inner_texts()
    places = [best.index(each["index"]) - rank for rank, each in enumerate(ranked)]
    assert [each.split()[0].strip("▲▼") for each in moved] == [str(abs(by)) if by else "=" for by in places]


def marked(ranking: Locator, document: str) -> Locator:
    """The entry of a document, with what its score is made of."""
    hit = ranking.locator("li").filter(has=ranking.page.get_by_role("button", name=document)).first
    button = hit.locator(".hit")
    if button.get_attribute("aria-pressed") == "false":
        button.click()
    return hit


def test_sparse_vectors_are_shown_as_words_that_add_up_to_the_score(searched: Page) -> None:
    sparse = column(searched, "Sparse")
    hit = marked(sparse, DOCUMENTS[0])
    shared = hit.get_by_role("list", name="Shared words, by what they add to the score")
    expect(shared).to_be_visible()
    added = [float(each) for each in shared.locator(".number").all_inner_texts()]
    assert added == sorted(added, reverse=True)
    score = re.match(r"[\d.]+", hit.locator(".score").inner_text())
    assert score
    assert 0 < sum(added) <= float(score[0]) + 0.5
    assert all(hit.get_by_role("list", name="The document's words").locator(".word").all_inner_texts())
    expect(hit.get_by_role("list", name="The query's words").locator("li").first).to_be_visible()


def test_token_vectors_show_which_tokens_match(searched: Page, server: ServerProcess) -> None:
    late = column(searched, "Late interaction")
    hit = marked(late, DOCUMENTS[3])
    # The comma of a document has no vector, all others have.
    body = {"model": "colbert", "output_types": "multi_vector"}
    (document,) = ask(server, "/v1/embeddings", {**body, "input": DOCUMENTS[3], "input_type": "document"})["data"]
    expect(hit.locator(".token.match")).to_have_count(len(document["multi_vector"]))
    (query,) = ask(server, "/v1/embeddings", {**body, "input": QUERY, "input_type": "query"})["data"]
    buttons = hit.locator("button.token")
    expect(buttons).to_have_count(len(query["multi_vector"]))
    scores = np.array(query["multi_vector"]) @ np.array(document["multi_vector"]).T
    buttons.nth(2).click()
    expect(buttons.nth(2)).to_have_attribute("aria-pressed", "true")
    values = [float(each.get_attribute("title") or "") for each in hit.locator(".token.match").all()]
    np.testing.assert_allclose(values, scores[2], atol=0.002)
    expect(hit.locator(".token.best")).to_have_attribute("title", f"{scores[2].max():.3f}")
    buttons.nth(2).click()
    values = [float(each.get_attribute("title") or "") for each in hit.locator(".token.match").all()]
    np.testing.assert_allclose(values, scores.max(axis=0), atol=0.002)


def test_a_document_is_marked_in_every_column(searched: Page) -> None:
    # The best one of the first column from the start.
    expect(column(searched, "Embedding").locator(".hit").first).to_have_attribute("aria-pressed", "true")
    column(searched, "Embedding").locator(".hit").nth(1).click()
    expect(searched.locator(".hit.marked")).to_have_count(4)
    assert len(set(searched.locator(".hit.marked .hit-text").all_inner_texts())) == 1
    searched.locator(".hit.marked").first.click()
    expect(searched.locator(".hit.marked")).to_have_count(0)


def test_ways_are_chosen_and_the_code_is_that_of_the_chosen_one(searched: Page) -> None:
    for name in ("Sparse splade", "Late interaction colbert", "Embedding minilm-bf16"):
        searched.get_by_role("checkbox", name=name).click()
    searched.get_by_role("button", name="Search", exact=True).click()
    headings = searched.locator(".ranking h2")
    expect(headings).to_have_text(["Embedding", "Embedding", "Reranker"])
    searched.locator(".ranking summary").first.click()
    expect(searched.locator(".ranking .times dd").first).to_be_visible()
    searched.get_by_text("The same request as code").click()
    code = searched.get_by_label("Request as code")
    expect(code).to_contain_text("/v1/embeddings")
    searched.get_by_label("Request", exact=True).select_option("Reranker · reranker")
    expect(code).to_contain_text("/v1/rerank")
    expect(code).to_contain_text(QUERY)


def test_an_example_fills_query_and_documents(page: Page) -> None:
    page.get_by_role("link", name="Search").click()
    page.get_by_role("button", name="Science").click()
    expect(page.get_by_role("textbox", name="Query")).to_have_value("Why is the sky blue?")
    page.get_by_role("textbox", name="Query").press("Enter")
    expect(page.locator(".ranking")).to_have_count(4)


def compare(page: Page, second: str) -> Locator:
    page.get_by_role("link", name="Compare").click()
    page.get_by_label("Second model").select_option(second)
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".facts")).to_be_visible()
    return page.locator(".facts")


def test_two_dtypes_of_a_model_are_compared_by_their_vectors(page: Page, server: ServerProcess) -> None:
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("textbox", name="Texts").fill("\n".join(DOCUMENTS))
    facts = compare(page, "minilm-bf16")
    rows = [
        [
            np.array(each["embedding"])
            for each in ask(server, "/v1/embeddings", {"model": name, "input": DOCUMENTS})["data"]
        ]
        for name in ("minilm", "minilm-bf16")
    ]
    least = min(float(a @ b) for a, b in zip(*rows, strict=True))
    expect(facts).to_contain_text(f"{least:.6f}")
    expect(facts).to_contain_text("100.0 %")
    expect(page.get_by_text("Every text has the same 3 nearest neighbours in both.")).to_be_visible()
    expect(page.locator(".scatter circle")).to_have_count(6)


def test_two_models_are_compared_by_their_neighbours(page: Page) -> None:
    facts = compare(page, "splade")
    expect(facts).not_to_contain_text("cosine")
    expect(page.get_by_text("different spaces")).to_be_visible()
    expect(page.locator(".changes > li").first).to_be_visible()
    expect(page.locator(".changes .badge").first).to_have_text("only here")
    # The first model cannot be its own second.
    page.get_by_label("First model").select_option("splade")
    assert "splade" not in page.get_by_label("Second model").locator("option").all_inner_texts()


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[ServerProcess]:
    """One model, whose forward passes wait for the file `go`."""
    with running([], env=holding_environment(tmp_path), cwd=tmp_path) as started:
        started.wait_until_ready()
        yield started


def test_long_work_shows_progress_and_is_cancelled(holding: ServerProcess, open_page: Any, tmp_path: Path) -> None:
    with open_page(holding) as watched:
        page = watched.open()
        page.get_by_role("textbox", name="Texts").fill("\n".join(f"text {i}" for i in range(200)))
        (tmp_path / "go").unlink()
        page.get_by_role("button", name="Embed").click()
        expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "0")
        expect(page.locator(".progress")).to_contain_text("0 of 200")
        # The page shows it before the browser has sent the request.
        wait_until(lambda: "emb_provider_requests_under_way 1.0" in holding.metrics())
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status")).to_have_text("Cancelled after 0 of 200.")
        holding.wait_for("request", status=499)
        (tmp_path / "go").touch()
        page.get_by_role("button", name="Embed").click()
        expect(page.locator(".summary")).to_contain_text("200")
        expect(page.get_by_role("progressbar")).to_have_count(0)


def test_with_one_model_the_page_says_what_to_add(holding: ServerProcess, open_page: Any) -> None:
    with open_page(holding) as watched:
        page = watched.open("compare")
        expect(page.get_by_text("There is only one model")).to_be_visible()
        page.get_by_role("link", name="Search").click()
        expect(page.get_by_text("No reranker is served.")).to_be_visible()
        page.get_by_role("link", name="Live").click()
        expect(page.get_by_text("Usage is not recorded")).to_be_visible()
