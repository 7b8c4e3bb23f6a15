"""What README and docs say is true: the first requests, command lines, links, the backend of the page."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import click
import numpy as np
import pytest
from processes import ROOT, ServerProcess
from snippets import PAGES, prose, snippets

from provider.backends import ModelSpec, Outputs, TokenBatch
from provider.cli import cli
from provider.testing import BackendContract
from provider.testing.tiny import tiny_bert

README = ROOT / "README.md"
LINKED = [*PAGES, ROOT / "CHANGELOG.md"]
_ASSIGNMENT = re.compile(r"\w+=.*")


def block(page: Path, language: str, start: str) -> str:
    """The only block of a language that has a line with that start."""
    texts = (each.text for each in snippets(page) if each.language == language)
    (found,) = (text for text in texts if re.search(rf"^{re.escape(start)}", text, re.MULTILINE))
    return found


def here(text: str, server: ServerProcess) -> str:
    """The page's server is the one under test."""
    assert "localhost:9000" in text
    return text.replace("localhost:9000", f"localhost:{server.port}")


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Standard output of a command that ends well."""
    direct = {"NO_PROXY": "localhost", "no_proxy": "localhost"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        env=os.environ | direct | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command_lines(page: Path) -> Iterator[list[str]]:
    """Arguments of every call of `emb-provider` (or `./scripts/serve`) on a page, in blocks and in running text."""
    commands = (each.text.replace("\\\n", " ") for each in snippets(page) if each.language == "sh")
    lines = [line for text in commands for line in text.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", prose(page))
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # running text in code type, no command
        while words and _ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        if words and words[0] == "./scripts/serve":
            yield ["serve", *words[1:]]
        elif words and Path(words[0]).name == "emb-provider":
            yield words[1:]


def check_command_line(arguments: list[str]) -> None:
    """Parse it as the command would, without doing anything."""
    context = click.Context(cli, info_name="emb-provider")
    if not arguments:
        return
    command = cli.get_command(context, arguments[0])
    assert command is not None, f"there is no command {arguments[0]!r}"
    try:
        values, _, _ = command.make_parser(click.Context(command, parent=context)).parse_args(arguments[1:])
    except click.UsageError as exc:
        pytest.fail(f"{shlex.join(arguments)}: {exc.format_message()}")
    for parameter in command.params:
        given = values.get(str(parameter.name))
        if isinstance(parameter.type, click.Choice) and isinstance(given, str):
            assert given in parameter.type.choices, shlex.join(arguments)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_curl_example_answers_a_vector(shipped: ServerProcess, tmp_path: Path) -> None:
    answer = json.loads(run(["sh", "-c", here(block(README, "sh", "curl "), shipped)], tmp_path))
    (entry,) = answer["data"]
    assert len(entry["embedding"]) == 384
    assert all(isinstance(number, float) for number in entry["embedding"])
    assert answer["model"] == "all-MiniLM-L6-v2"


def test_the_python_example_runs(shipped: ServerProcess, tmp_path: Path) -> None:
    program = here(block(README, "python", "from openai import"), shipped)
    assert run([sys.executable, "-c", program], tmp_path).startswith("2 vectors of 384 numbers, ")


def test_the_two_commands_of_the_readme_are_there(shipped: ServerProcess) -> None:
    assert shipped.get("/health/live")[0] == 200  # it was started by scripts/serve
    asked = [str(ROOT / "scripts" / "test"), "--collect-only", "--quiet", "tests/unit/test_cores.py"]
    assert "test_cores.py" in run(asked, ROOT)


def test_the_langchain_example_runs(shipped: ServerProcess, tmp_path: Path) -> None:
    program = here(block(ROOT / "docs" / "how-to" / "clients.md", "python", "from langchain_openai import"), shipped)
    program += "\nassert len(embeddings.embed_query('hello')) == 384\n"
    run([sys.executable, "-c", program], tmp_path)


def test_what_the_api_page_shows_of_a_request_is_answered_like_that(shipped: ServerProcess) -> None:
    import httpx

    page = ROOT / "docs" / "reference" / "api.md"
    shown = [json.loads(each.text) for each in snippets(page) if each.language == "json"]
    request, answer = shown[:2]
    error, health = (next(each for each in shown if key in each) for key in ("error", "problems"))
    response = httpx.post(f"{shipped.url}/v1/embeddings", json=request).raise_for_status().json()
    assert set(response) | {"truncated"} == set(answer)
    assert set(response["data"][0]) == set(answer["data"][0])
    assert set(response["usage"]) == set(answer["usage"])
    assert len(response["data"][0]["embedding"]) == request["dimensions"]
    too_wide = httpx.post(f"{shipped.url}/v1/embeddings", json=request | {"dimensions": 1536})
    assert too_wide.json() == error
    ready = httpx.get(f"{shipped.url}/health").json()
    assert set(ready) == set(health)
    listed = httpx.get(f"{shipped.url}/v1/models").json()["data"][0]
    models = (ROOT / "docs" / "reference" / "api.md").read_text().partition("\n## Models\n")[2].partition("\n## ")[0]
    assert set(listed) - {"object"} == {
        name for row in re.findall(r"^\| (`.+?) \|", models, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_has_existing_commands_and_options(page: Path) -> None:
    for arguments in command_lines(page):
        check_command_line(arguments)


def test_command_lines_are_found_and_wrong_ones_noticed() -> None:
    assert ["serve", "--model", "/models/mine"] in list(command_lines(README))
    assert ["backends", "--check"] in list(command_lines(ROOT / "plugins" / "README.md"))
    for wrong in (["sevre"], ["serve", "--prot", "1"], ["embed", "--format", "csv"]):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check_command_line(wrong)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def shown_backend(page: Path) -> dict[str, Any]:
    """The names of the module with the backend that a page shows whole."""
    names: dict[str, Any] = {"__name__": "emb_provider_bag"}
    exec(compile(block(page, "python", "class BagBackend:"), page.name, "exec"), names)
    return names


class TestShownBackend(BackendContract):
    """The backend of the page keeps the contract; the reference counts one token at a time."""

    backend_class = shown_backend(ROOT / "docs" / "reference" / "backends.md")["BagBackend"]
    shapes: ClassVar = {"mean": tiny_bert}

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls, spec: ModelSpec) -> Callable[[TokenBatch], Outputs]:
        def count(batch: TokenBatch) -> Outputs:
            vectors = np.zeros((batch.rows, spec.dense.dimension), np.float32)
            for i in range(batch.rows):
                for token in batch.row(i)[batch.skips[i] :]:
                    vectors[i, token % spec.dense.dimension] += 1
            return {"dense": vectors}

        return count
