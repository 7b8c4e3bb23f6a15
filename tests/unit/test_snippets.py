"""No code block of the documentation without something that runs or reads it."""

import json
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import client_environments
import pytest
import yaml
from processes import ROOT
from snippets import NEEDS, OUTPUT, PAGES, YAML_OF, Snippet, every_snippet, names_of_tests, snippets

from provider.configuration import load_settings

ALL = every_snippet()


def of(language: str, kind: str = "", value: str = "") -> list[Any]:
    found = [
        each for each in ALL if each.language == language and each.kind == kind and (not value or each.value == value)
    ]
    return [pytest.param(each, id=each.place) for each in found]


def problem(snippet: Snippet) -> str | None:
    """Why nothing checks it; None: something does."""
    languages = {"run in": ("python", "js"), "needs": ("sh",), "yaml of": ("yaml",)}
    match snippet.kind, snippet.value:
        case "", _:
            ran = ("sh", "python", "yaml", "json", "toml", *OUTPUT)
            return None if snippet.language in ran else f"nothing runs {snippet.language}"
        case "run by", value:
            path, _, name = value.partition("::")
            is_there = (ROOT / path).is_file() and name in names_of_tests(ROOT / path)
            return None if is_there else f"there is no test {value}"
        case kind, _ if snippet.language not in languages[kind]:
            return f"`{kind}` is not for {snippet.language}"
        case "run in", value:
            return None if getattr(client_environments, value, None) else f"there is no environment {value}"
        case "needs", value:
            return None if value in NEEDS else f"nobody needs {value!r}"
        case _, value:
            return None if value in YAML_OF else f"nothing reads the YAML of {value!r}"


def test_something_checks_every_block() -> None:
    assert [f"{each.place}: {found}" for each in ALL if (found := problem(each))] == []
    assert len(ALL) > 100


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("```js\nlet a\n```\n", "nothing runs js"),
        ("```sh\nls\n```\n", None),
        ("<!-- run by: tests/nowhere.py::test_a -->\n```js\nlet a\n```\n", "there is no test tests/nowhere.py::test_a"),
        ("<!-- needs: luck -->\n```sh\nls\n```\n", "nobody needs 'luck'"),
        ("<!-- yaml of: Kubernetes -->\n```sh\nls\n```\n", "`yaml of` is not for sh"),
        ("<!-- run in: NOWHERE -->\n```js\nlet a\n```\n", "there is no environment NOWHERE"),
    ],
)
def test_a_block_that_nothing_checks_is_told(tmp_path: Path, text: str, reason: str | None) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{text}")
    (found,) = snippets(page)
    assert problem(found) == reason


def test_every_comment_before_a_block_is_a_mark_that_is_understood() -> None:
    lines = [line for page in PAGES for line in _comments_before_blocks(page)]
    marked = [each for each in ALL if each.kind]
    assert len(lines) <= len(marked)
    for line in lines:
        assert line.startswith(("<!-- run by: ", "<!-- run in: ", "<!-- needs: ", "<!-- yaml of: ")), line


def _comments_before_blocks(page: Path) -> Iterator[str]:
    lines = page.read_text().splitlines()
    for before, line in pairwise(lines):
        if line.lstrip().startswith("```") and before.lstrip().startswith("<!--"):
            yield before.strip()


@pytest.mark.parametrize("snippet", of("yaml"))
def test_settings_are_accepted(snippet: Snippet, tmp_path: Path) -> None:
    path = tmp_path / "litestar.yaml"
    path.write_text(snippet.text)
    assert yaml.safe_load(snippet.text)
    load_settings(path, {})


@pytest.mark.parametrize("snippet", of("yaml", "yaml of", "Prometheus"))
def test_prometheus_scrapes_the_port_and_loads_the_rules_that_there_are(snippet: Snippet) -> None:
    document = yaml.safe_load(snippet.text)
    (job,) = document["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["localhost:9000"]}]
    assert [(ROOT / "deploy" / "monitoring" / name).is_file() for name in document["rule_files"]] == [True]


@pytest.mark.parametrize("snippet", of("json"))
def test_json_can_be_read(snippet: Snippet) -> None:
    json.loads(snippet.text)


@pytest.mark.parametrize("snippet", of("toml"))
def test_toml_can_be_read(snippet: Snippet) -> None:
    tomllib.loads(snippet.text)
