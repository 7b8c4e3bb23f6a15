"""The package as a library: its names, and the examples of its page."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import clean_environment
from waiting import PATIENCE_SECONDS

import provider

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "library.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_every_exported_name_is_there_and_documented() -> None:
    for name in provider.__all__:
        assert getattr(provider, name) is not None
        assert name == "__version__" or getattr(provider, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        provider.Nothing  # noqa: B018


def test_importing_the_package_costs_nothing() -> None:
    program = "import sys, provider; print(sorted({'torch', 'litestar', 'numpy', 'attrs'} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("program", "expected"), [*zip(EXAMPLES, [r"\(2, 384\) 15", r"\[0\.\d+, -?0\.\d+\]", r"1000 \d+"], strict=True)]
)
def test_the_examples_of_the_page_run(program: str, expected: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        cwd=tmp_path,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(expected, done.stdout.strip())
    assert done.stderr == ""


def test_a_model_that_cannot_be_loaded_is_an_error_and_leaves_no_thread(tmp_path: Path) -> None:
    model = provider.ModelSettings(name="m", path=str(tmp_path))
    with pytest.raises(provider.ProviderError), provider.SyncEngine.open(provider.Settings(model=model)):
        pass
    assert "emb-provider engine" not in {thread.name for thread in threading.enumerate()}


def test_who_interrupts_while_a_model_loads_does_not_wait_for_it(tmp_path: Path) -> None:
    program = """
import os, signal, threading, time
from provider import ModelSettings, Settings, SyncEngine
from provider.engine import loading_steps

loading = threading.Event()

def find_model(*_, **__):
    loading.set()
    time.sleep(300)

loading_steps.find_model = find_model
threading.Thread(target=lambda: (loading.wait(60), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()
try:
    with SyncEngine.open(Settings(model=ModelSettings(name="m", path="."))):
        print("opened")
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        cwd=tmp_path,
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("interrupted", "", 0)
