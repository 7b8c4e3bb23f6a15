"""The contract finds what it is meant to find: a backend with one flaw fails the test for that flaw."""

import runpy
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from processes import ROOT

from provider.testing import BackendContract

FLAWED = Path(__file__).parent / "flawed.py"
KNOWN = runpy.run_path(str(FLAWED))
MEANT: dict[str, str] = {flaw.__name__: test for flaw, test in KNOWN["FLAWS"].items()}
ALSO: dict[str, set[str]] = {flaw.__name__: tests for flaw, tests in KNOWN["ALSO"].items()}


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Backend to the tests that it failed, with what they said."""
    report = tmp_path_factory.mktemp("contract") / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(FLAWED)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for case in ET.parse(report).iter("testcase"):
        tests = found[case.attrib["classname"].rpartition(".Test")[2]]
        for problem in [*case.iter("failure"), *case.iter("error")]:
            tests[case.attrib["name"]] = problem.attrib["message"]
    return dict(found)


def test_a_sound_backend_passes(failures: dict[str, dict[str, str]]) -> None:
    assert failures["Sound"] == {}


@pytest.mark.parametrize("flaw", MEANT)
def test_a_flaw_fails_the_test_that_is_meant_for_it_and_is_told_what_to_look_at(
    flaw: str, failures: dict[str, dict[str, str]]
) -> None:
    found = failures[flaw]
    assert set(found) == {MEANT[flaw]} | ALSO.get(flaw, set())
    # A sentence of the contract's own, before what was compared.
    first_line = found[MEANT[flaw]].splitlines()[0]
    assert len(first_line.partition(": ")[2].split()) > 3, first_line


def test_every_test_of_the_contract_has_a_flaw_that_it_finds() -> None:
    tests = {name for name in dir(BackendContract) if name.startswith("test_")}
    assert set(MEANT.values()) == tests
