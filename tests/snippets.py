"""Every code block of the documentation, and what runs it.

Blocks without a mark: `sh` and `python` run in order, in one folder a page, against a live server whose port stands for
9000; `yaml` is read as settings, `json` and `toml` by their parsers; `text`, `console` and no language show output. All
others carry a comment in the line before:

* `<!-- run by: tests/FILE.py::TEST -->`: a test that runs the block; `all run by` once on a page: all of its blocks.
* `<!-- run in: NAME -->`: a program, in the client environment of that name.
* `<!-- needs: THING -->`: one of `NEEDS`; run where the machine has it, else checked by its words.
* `<!-- yaml of: PROGRAM -->`: no settings, but checked as what that program reads.
"""

import ast
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from attrs import frozen
from processes import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "plugins").rglob("README.md")),
]
OUTPUT = ("", "text", "console")
YAML_OF = ("Prometheus",)
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_ALL = re.compile(r"^<!-- all run by: (\S.*) -->$", re.MULTILINE)
_MARK = re.compile(r"^\s*<!-- (?P<kind>run by|run in|needs|yaml of): (?P<value>\S.*) -->$")


def _answers(*command: str) -> Callable[[], bool]:
    def is_there() -> bool:
        if shutil.which(command[0]) is None:
            return False
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0

    return is_there


NEEDS: Mapping[str, Callable[[], bool]] = {
    "Docker": _answers("docker", "info"),
    "Kubernetes": _answers("kubectl", "cluster-info"),
    "an NVIDIA GPU": _answers("nvidia-smi"),
    "an idle machine": lambda: False,
    "a package index": lambda: False,
}
"""What a block may need, and whether this machine has it. The last two would take hours, or change the machine."""


@frozen
class Snippet:
    """A code block.

    Attributes:
        text: without the indent of the fence.
        kind: of its mark, or "".
        value: of its mark.
    """

    page: Path
    line: int
    language: str
    text: str
    kind: str = ""
    value: str = ""

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets(page: Path) -> Iterator[Snippet]:
    """The blocks of a page."""
    text = page.read_text(encoding="utf-8")
    of_all = _ALL.search(text)
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        mark = _MARK.match(before.rstrip("\n").rpartition("\n")[2])
        body = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        kind, value = (mark["kind"], mark["value"]) if mark else ("run by", of_all[1]) if of_all else ("", "")
        yield Snippet(page, before.count("\n") + 1, match["language"], body, kind, value)


def every_snippet() -> list[Snippet]:
    """Of all pages."""
    return [each for page in PAGES for each in snippets(page)]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def names_of_tests(path: Path) -> set[str]:
    """Names of the tests in a file: functions, and classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {each.name for each in ast.walk(tree) if isinstance(each, kinds) and each.name.lower().startswith("test")}
