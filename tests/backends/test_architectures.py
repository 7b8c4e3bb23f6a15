"""Every architecture of the table in the documentation is served as it says, or refused for the reason it gives."""

import runpy

import pytest
from architectures import ARCHITECTURES, HEAD, row
from processes import ROOT

PAGE = (ROOT / "docs" / "reference" / "architectures.md").read_text()
TABLE = [line for line in PAGE.splitlines() if line.startswith("| ")]


def test_the_table_has_one_line_for_every_architecture_in_order() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "architectures-table"))
    assert PAGE.count(script["START"]) == PAGE.count(script["END"]) == 1
    assert script["page_with"](PAGE, "\n".join(TABLE)) == PAGE
    assert TABLE[:2] == HEAD.splitlines()
    assert [line.split(" | ")[0] for line in TABLE[2:]] == [f"| {name}" for name in ARCHITECTURES]
    assert len(ARCHITECTURES) >= 40


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_line_of_an_architecture_is_what_becomes_of_it(name: str) -> None:
    assert row(name) in TABLE, "run scripts/architectures-table --write"
