"""What README and docs show works as pasted: requests, programs, command lines, configuration, backends, links."""

import gzip
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

from provider.backends import ModelSpec, Outputs, TokenBatch
from provider.cli import cli
from provider.configuration import load_settings
from provider.testing import BackendContract
from provider.testing.tiny import tiny_bert

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "plugins" / "README.md"]
NOT_SETTINGS = "<!-- not settings"
ELSEWHERE = "<!-- elsewhere: "
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"\w+=.*")


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Fenced blocks of a language, without their indent, each with the line before it."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        if match["language"] == language:
            body = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
            found.append((body, text[: match.start()].rstrip("\n").rpartition("\n")[2]))
    return found


def block(page: Path, language: str, start: str) -> str:
    """The only block of a language that has a line with that start."""
    (found,) = (text for text, _ in blocks(page, language) if re.search(rf"^{re.escape(start)}", text, re.MULTILINE))
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
    text = page.read_text()
    lines = [line for body, _ in blocks(page, "sh") for line in body.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
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


# What the commands of pages read.
SAMPLES = {
    "texts.txt": "A cat.\nA dog.\n",
    "docs.jsonl": '{"id": 1, "body": "A cat."}\n',
    "rows.csv": "id,abstract\n1,A cat.\n",
    "corpus.jsonl": '{"text": "A cat."}\n',
}


def write_samples(folder: Path) -> None:
    """The files that pages speak of."""
    import pyarrow as pa
    from pyarrow import parquet

    for name, content in SAMPLES.items():
        (folder / name).write_text(content)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes()))
    parquet.write_table(pa.table({"body": ["A cat."]}), folder / "in.parquet")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["tutorial", "how-to/embed", "how-to/monitoring", "how-to/moving", "reference/cli"],
)
def test_every_command_and_program_of_a_page_runs(name: str, shipped: ServerProcess, tmp_path: Path) -> None:
    page = ROOT / "docs" / f"{name}.md"
    write_samples(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = [("sh", *each) for each in blocks(page, "sh")] + [("python", *each) for each in blocks(page, "python")]
    runs = [(language, text) for language, text, before in found if not before.strip().startswith(ELSEWHERE)]
    assert runs
    for language, text in runs:
        here_text = text.replace("localhost:9000", f"localhost:{shipped.port}")
        command = (
            ["bash", "-euo", "pipefail", "-c", here_text] if language == "sh" else [sys.executable, "-c", here_text]
        )
        run(command, tmp_path, PATH=path, HOME=str(tmp_path))


def test_what_is_not_run_says_why() -> None:
    marks = [before for page in PAGES for text, before in blocks(page, "sh") if before.strip().startswith(ELSEWHERE)]
    assert marks
    for mark in marks:
        assert re.fullmatch(r"<!-- elsewhere: \w.+ -->", mark.strip())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
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


def test_the_langchain_example_runs(shipped: ServerProcess, tmp_path: Path) -> None:
    program = here(block(ROOT / "docs" / "how-to" / "clients.md", "python", "from langchain_openai import"), shipped)
    program += "\nassert len(embeddings.embed_query('hello')) == 384\n"
    run([sys.executable, "-c", program], tmp_path)


def test_what_the_api_page_shows_of_a_request_is_answered_like_that(shipped: ServerProcess) -> None:
    import httpx

    shown = [json.loads(text) for text, _ in blocks(ROOT / "docs" / "reference" / "api.md", "json")]
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
    assert ["backends", "--check"] in list(command_lines(ROOT / "docs" / "reference" / "backends.md"))
    for wrong in (["sevre"], ["serve", "--prot", "1"], ["embed", "--format", "csv"]):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check_command_line(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_configuration_is_accepted(page: Path, tmp_path: Path) -> None:
    import yaml

    for text, before in blocks(page, "yaml"):
        path = tmp_path / "litestar.yaml"
        path.write_text(text)
        assert yaml.safe_load(text)
        if not before.startswith(NOT_SETTINGS):
            load_settings(path, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_and_json_block_can_be_read(page: Path) -> None:
    for text, _ in blocks(page, "python"):
        compile(text, page.name, "exec")
    for text, _ in blocks(page, "json"):
        json.loads(text)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page.read_text())):
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
