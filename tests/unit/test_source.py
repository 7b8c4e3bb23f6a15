"""Rules for all of the source that no linter knows: waits have a deadline, text files an encoding."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).parents[2]
TESTS = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("plugins/*/tests/**/*.py")]
PRODUCT = [*ROOT.glob("provider/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py"), ROOT / "scripts" / "settings-table"]

# Calls that wait: the last part of their name, and from how many arguments on by position one is a deadline.
WAITS = {
    **dict.fromkeys(("run", "call", "check_call", "check_output"), 99),
    "communicate": 2,
    "urlopen": 3,
    "create_connection": 2,
    "join": 1,
    "wait": 1,
    "get": 1,
    "result": 1,
}
# Whose `wait` has a deadline of its own (`processes.ServerProcess`).
SERVERS = {"server", "two"}


def calls(text: str) -> Iterator[tuple[ast.Call, str, str]]:
    """Every call that is not part of what is awaited, what it is called on, and its name."""
    tree = ast.parse(text)
    awaiting = [each for each in ast.walk(tree) if isinstance(each, ast.Await) or _is_create_task(each)]
    awaited = {id(part) for each in awaiting for part in ast.walk(each)}
    for each in ast.walk(tree):
        if isinstance(each, ast.Call) and id(each) not in awaited:
            if isinstance(each.func, ast.Attribute):
                yield each, ast.unparse(each.func.value), each.func.attr
            elif isinstance(each.func, ast.Name):
                yield each, "", each.func.id


def _is_create_task(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "create_task"


def waits_for_ever(text: str) -> list[int]:
    """Lines with a call that waits as long as it takes."""
    return [
        call.lineno
        for call, on, name in calls(text)
        if name in WAITS
        and (WAITS[name] < 99 or on == "subprocess")
        and (name not in {"join", "get", "wait", "result"} or (on and not call.keywords))
        and on not in SERVERS
        and len(call.args) < WAITS[name]
        and not any(keyword.arg in {"timeout", "timeout_seconds", None} for keyword in call.keywords)
    ]


def opens_in_any_encoding(text: str) -> list[int]:
    """Lines with a call that reads or writes text in the encoding of the locale."""
    found = []
    for call, on, name in calls(text):
        mode = next((keyword.value for keyword in call.keywords if keyword.arg == "mode"), None)
        if (on, name) in {("", "open"), ("io", "open"), ("os", "fdopen")} and mode is None and len(call.args) > 1:
            mode = call.args[1]
        elif name == "open" and on not in {"", "io", "os"} and mode is None and call.args:
            mode = call.args[0]
        is_file = name in {"open", "fdopen"} and (on in {"", "io"} or on.endswith("path") or _is_mode(mode))
        is_text = name in {"read_text", "write_text"} or (is_file and not (_is_mode(mode) and "b" in ast.unparse(mode)))
        if is_text and not any(keyword.arg in {"encoding", None} for keyword in call.keywords):
            found.append(call.lineno)
    return found


def _is_mode(node: ast.expr | None) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and bool(re.fullmatch("[rwxabt+]+", str(node.value)))


def places(files: list[Path], rule: Callable[[str], list[int]]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}" for path in sorted(files) for line in rule(path.read_text(encoding="utf-8"))
    ]


def test_every_wait_of_a_test_has_a_deadline() -> None:
    assert places(TESTS, waits_for_ever) == []


def test_every_text_file_is_read_and_written_in_a_stated_encoding() -> None:
    assert places(PRODUCT, opens_in_any_encoding) == []


@pytest.mark.parametrize(
    ("rule", "wrong", "right"),
    [
        (waits_for_ever, "subprocess.run(command)", "subprocess.run(command, timeout=9)"),
        (waits_for_ever, "thread.join()", "thread.join(9)"),
        (waits_for_ever, "lines.get()", "lines.get(timeout=9)"),
        (waits_for_ever, "process.wait()", "process.wait(timeout=9)"),
        (waits_for_ever, "process.communicate()", "process.communicate(timeout=9)"),
        (waits_for_ever, "socket.create_connection(at)", "socket.create_connection(at, 9)"),
        (opens_in_any_encoding, "open(name)", "open(name, 'rb')"),
        (opens_in_any_encoding, "path.open('w')", "path.open('w', encoding='utf-8')"),
        (opens_in_any_encoding, "path.read_text()", "path.read_text(encoding='utf-8')"),
        (opens_in_any_encoding, "os.fdopen(9, 'w')", "os.fdopen(9, 'wb')"),
    ],
)
def test_the_rules_find_what_is_wrong_only(rule: Callable[[str], list[int]], wrong: str, right: str) -> None:
    assert (rule(wrong), rule(right)) == ([1], [])
