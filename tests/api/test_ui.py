"""The page's files and the two questions that it alone asks. What it does in a browser: `tests/ui`."""

import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from litestar.types import Receive, Scope, Send

from provider.settings import AuthSettings, ModelSettings, UiSettings
from provider.testing.tiny.multi_vector import tiny_multi_vector

UI = Path(__file__).parents[2] / "provider" / "ui"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
QUERY = "a cat, on the mat"


async def test_browsers_are_sent_to_the_page_and_programs_get_json(client: Any) -> None:
    for accept in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
        answer = await client.get("/", headers=accept)
        assert (answer.status_code, answer.json()["name"], answer.headers["vary"]) == (200, "emb-provider", "Accept")
        assert answer.json()["endpoints"]["ui"] == "GET /ui"
    sent = await client.get("/", headers=BROWSER)
    assert (sent.status_code, sent.headers["location"], sent.headers["vary"]) == (307, "ui/", "Accept")
    assert (await client.head("/", headers=BROWSER)).status_code == 307


@pytest.mark.parametrize("start", ["/emb/", "/emb/ui", "/emb/ui/"])
async def test_the_page_and_all_of_its_files_are_found_behind_a_path_prefix(client: Any, start: str) -> None:
    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"].startswith("/emb/"), "a link leaves the prefix"
        stripped = {"path": scope["path"].removeprefix("/emb"), "raw_path": scope["raw_path"].removeprefix(b"/emb")}
        await client.app({**scope, **stripped}, receive, send)

    transport = httpx.ASGITransport(proxy)
    async with httpx.AsyncClient(transport=transport, base_url="http://host.local", follow_redirects=True) as browser:
        page = await browser.get(start, headers=BROWSER)
        assert str(page.url) == "http://host.local/emb/ui/"
        files = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert {Path(each).suffix for each in files} == {".js", ".css", ".svg"}
        for each in files:
            assert (await browser.get(urljoin(str(page.url), each))).status_code == 200


async def test_files_allow_nothing_from_elsewhere_and_are_sent_again_only_when_they_change(client: Any) -> None:
    kinds = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css", "icon.svg": "image/svg+xml"}
    for name, kind in kinds.items():
        answer = await client.get(f"/ui/{name}")
        assert answer.headers["content-type"].partition(";")[0] == kind
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self';" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-cache"
        again = await client.get(f"/ui/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert "<script>" not in (await client.get("/ui/")).text


@pytest.mark.parametrize("name", ["nope.js", "..%2Fhandlers.py", "index.html/x", "page", "%00"])
async def test_unknown_files_are_errors_like_any_other(client: Any, name: str) -> None:
    answer = await client.get(f"/ui/{name}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")


async def test_switched_off_nothing_of_it_is_there(open_app: Any) -> None:
    async with open_app(ui=UiSettings(enabled=False)) as client:
        root = await client.get("/", headers=BROWSER)
        assert (root.status_code, "ui" in root.json()["endpoints"]) == (200, False)
        for method, path in (("GET", "/ui"), ("GET", "/ui/page.js"), ("POST", "/ui/tokens"), ("POST", "/ui/words")):
            assert (await client.request(method, path)).status_code == 404


async def test_files_need_no_key_and_questions_do(open_app: Any) -> None:
    async with open_app(
        auth=AuthSettings(keys=["sk-long-enough-key"], protect=["docs", "metrics", "models"])
    ) as client:
        for path in ("/ui/", "/ui/page.js"):
            assert (await client.get(path)).status_code == 200
        for path, body in (("/ui/tokens", {"input": "a"}), ("/ui/words", {"ids": [1]})):
            asked = {"model": "org/model", **body}
            assert (await client.post(path, json=asked)).status_code == 401
            with_key = {"authorization": "Bearer sk-long-enough-key"}
            assert (await client.post(path, json=asked, headers=with_key)).status_code == 200


async def test_an_answer_says_where_its_time_went(client: Any) -> None:
    asked = {"model": "org/model", "input": ["one", "two"]}
    first = await client.post("/v1/embeddings", json=asked)
    pattern = r'tokenise;dur=[\d.]+, queue;dur=[\d.]+, forward;dur=([\d.]+), cache;desc="(\d)"'
    found = re.fullmatch(pattern, first.headers["server-timing"])
    assert found
    assert (float(found[1]) > 0, found[2]) == (True, "0")
    again = await client.post("/v1/embeddings", json=asked)
    found = re.fullmatch(pattern, again.headers["server-timing"])
    assert found
    assert (float(found[1]), found[2]) == (0, "2")
    assert "server-timing" not in (await client.get("/v1/models")).headers


async def tokens(client: Any, text: str, **more: Any) -> tuple[int, list[dict[str, Any]]]:
    answer = await client.post("/ui/tokens", json={"model": "org/model", "input": [text], **more})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["limit"], body["data"][0]


@pytest.fixture
async def short(open_app: Any, minilm: Path) -> AsyncIterator[Any]:
    """A model that takes 8 tokens, with a prompt for queries."""
    prompts = {"query": "find this:"}
    model = ModelSettings(
        name="org/model", path=str(minilm), backend="fake", max_context_length=8, prompts=prompts, lanes=1
    )
    async with open_app(model=model) as client:
        yield client


async def test_tokens_say_what_they_are_and_what_truncation_cuts(short: Any) -> None:
    limit, row = await tokens(short, "one two three four five six seven eight")
    assert limit == 8
    assert " ".join(each["text"] for each in row) == "[CLS] one two three four five six seven eight [SEP]"
    assert [each["special"] for each in row] == [True, *[False] * 8, True]
    assert [each["text"] for each in row if each["cut"]] == ["seven", "eight"]
    _, row = await tokens(short, "one two three four five six seven eight", truncate="START")
    assert [each["text"] for each in row if each["cut"]] == ["one", "two"]


@pytest.mark.parametrize(("truncate", "kept"), [("END", "one two three"), ("START", "six seven eight")])
async def test_a_prompt_is_told_apart_and_kept(short: Any, truncate: str, kept: str) -> None:
    text = "one two three four five six seven eight"
    _, row = await tokens(short, text, input_type="query", truncate=truncate)
    assert [each["text"] for each in row if each["prompt"]] == ["find", "this", ":"]
    assert " ".join(each["text"] for each in row if not each["special"] | each["prompt"] | each["cut"]) == kept
    _, by_name = await tokens(short, text, model="org/model:query", truncate=truncate)
    assert by_name == row


@pytest.mark.parametrize("truncate", ["END", "START"])
async def test_the_tokens_that_are_not_cut_are_those_that_the_model_gets(short: Any, truncate: str) -> None:
    for text in ("short", "one two three four five six seven eight", "word " * 5000):
        _, row = await tokens(short, text, truncate=truncate)
        asked = {"model": "org/model", "input": text, "truncate": truncate}
        used = (await short.post("/v1/embeddings", json=asked)).json()["usage"]["total_tokens"]
        assert sum(not each["cut"] for each in row) == used


@pytest.mark.parametrize("role", ["query", "document"])
async def test_every_vector_of_a_token_has_its_token(open_app: Any, tmp_path: Path, role: str) -> None:
    model = ModelSettings(name="org/model", path=str(tiny_multi_vector(tmp_path / "m")), lanes=1, tune=False)
    async with open_app(model=model) as client:
        _, row = await tokens(client, QUERY, input_type=role)
        asked = {"model": "org/model", "input": QUERY, "input_type": role, "output_types": "multi_vector"}
        vectors = (await client.post("/v1/embeddings", json=asked)).json()["data"][0]["multi_vector"]
        places = [each["vector"] for each in row if each["vector"] is not None]
        assert places == list(range(len(vectors)))
        # Punctuation is left out of documents; queries are filled up with special tokens.
        comma = next(each for each in row if each["text"] == ",")
        assert (comma["vector"] is None) == (role == "document")


async def test_words_are_what_ids_stand_for(client: Any) -> None:
    _, row = await tokens(client, "a cat")
    asked = {"model": "org/model", "ids": [each["id"] for each in row]}
    assert (await client.post("/ui/words", json=asked)).json() == {"data": ["[CLS]", "a", "cat", "[SEP]"]}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/ui/tokens", {"model": "org/model"}, 400, "input"),
        ("/ui/tokens", {"model": "org/model", "input": []}, 400, "input"),
        ("/ui/tokens", {"model": "org/model", "input": ["a", ""]}, 400, "input[1]"),
        ("/ui/tokens", {"model": "org/model", "input": "a", "truncate": "sometimes"}, 400, "truncate"),
        ("/ui/tokens", {"model": "nope", "input": "a"}, 404, "model"),
        ("/ui/tokens", {"model": "org/model", "input": ["a"] * 2049}, 400, "input"),
        ("/ui/words", {"model": "org/model"}, 400, "ids"),
        ("/ui/words", {"model": "org/model", "ids": [10_000_000]}, 400, "ids[0]"),
        ("/ui/words", {"model": "org/model", "ids": [1] * 2049}, 400, "ids"),
        ("/ui/words", {"model": "org/model", "ids": ["a"]}, 400, "ids[0]"),
    ],
)
async def test_wrong_questions_name_the_field(client: Any, path: str, body: Any, status: int, param: str) -> None:
    answer = await client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_the_built_files_are_those_of_the_sources() -> None:
    """`scripts/ui` writes the digest; `scripts/check ui` builds again and compares, where there is Node.js."""
    found = (each for each in (UI / "frontend").rglob("*") if each.is_file() and "node_modules" not in each.parts)
    sources = sorted(found, key=lambda each: each.relative_to(UI / "frontend").as_posix())
    digest = hashlib.sha256()
    for each in sources:
        digest.update(each.relative_to(UI / "frontend").as_posix().encode() + b"\0" + each.read_bytes() + b"\0")
    assert json.loads((UI / "built" / "sources.json").read_text()) == {"sha256": digest.hexdigest()}, "run scripts/ui"
