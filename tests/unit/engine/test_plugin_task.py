"""A distribution adds a task that nobody thought of: the number of tokens as a score."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from provider.domain import ScoreRequest
from provider.engine.engine import Engine
from provider.errors import ProviderError, SettingsError
from provider.settings import ModelSettings, Settings
from provider.tasks import find_task
from provider.testing.tiny import tiny_bert

PLUGIN = '''
    import numpy as np
    from provider.backends import SCORES, BackendTraits, NoOptions
    from provider.domain import ScoreTask
    from provider.tasks.scores import Scores

    class TokenCount(Scores):
        """A score that is the number of tokens."""

        def read(self, folder):
            return ScoreTask(labels=("tokens",), activation="identity")

    class CountingBackend:
        """Counts tokens."""

        Options = NoOptions
        concurrent = True
        outputs = frozenset({SCORES})
        traits = BackendTraits("cpu", "float32", padding_is_free=True, batch_tokens=4096)

        @classmethod
        def load(cls, spec, options):
            return cls()

        def run(self, batch):
            return {SCORES: batch.lengths[:, None].astype(np.float32)}

        def close(self):
            pass
'''
ENTRY_POINTS = """
    [provider.tasks]
    token_count = token_count:TokenCount
    [provider.backends]
    counting = token_count:CountingBackend
"""


@pytest.fixture
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    site = tmp_path / "site"
    about = site / "token_count-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "token_count.py").write_text(textwrap.dedent(PLUGIN))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: token-count\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(textwrap.dedent(ENTRY_POINTS))
    monkeypatch.syspath_prepend(str(site))
    find_task.cache_clear()
    yield
    find_task.cache_clear()
    sys.modules.pop("token_count", None)


@pytest.mark.usefixtures("_plugin")
async def test_a_task_of_a_plugin_is_served_like_the_product_s_own(tmp_path: Path) -> None:
    assert len((PLUGIN + ENTRY_POINTS).strip().splitlines()) < 60
    model = ModelSettings(name="m", path=str(tiny_bert(tmp_path / "bert")), backend="counting", task="token_count")
    async with Engine.open(Settings(model=model)) as engine:
        scored = await engine.score(ScoreRequest("m", ("the cat", "the cat and the dog"), raw=True))
    assert (scored.labels, scored.scores.tolist()) == (("tokens",), [[4.0], [7.0]])
    assert scored.usage.tokens == 11


@pytest.mark.parametrize(("task", "reason"), [("sparse", "leave the setting out"), ("other", "installed are: dense")])
async def test_a_task_that_cannot_be_configured_is_refused(tmp_path: Path, task: str, reason: str) -> None:
    model = ModelSettings(name="m", path=str(tiny_bert(tmp_path / "bert")), task=task)
    with pytest.raises(ProviderError, match=reason):
        async with Engine.open(Settings(model=model)):
            pass


@pytest.mark.usefixtures("_plugin")
def test_a_task_that_cannot_be_loaded_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "site" / "token_count.py").write_text("raise RuntimeError('broken')")
    with pytest.raises(SettingsError, match=r"task 'token_count' \(token_count:TokenCount\).*broken"):
        find_task("token_count")
