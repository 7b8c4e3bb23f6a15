"""Compiled classifiers and rerankers give CrossEncoder's scores, in its order."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from provider.backends import SCORES, Features, ModelSpec, TokenBatch
from provider.backends.torch import linear as torch_linear
from provider.backends.torch_compile.backend import TorchCompileBackend
from provider.domain import ScoreRequest
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing import BackendContract
from provider.testing.tiny import TINY_CLASSIFIERS, WORDS, tiny_classifier, tiny_reranker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUERY = "Which cat sleeps the most?"
LENGTHS = (1, 30, 2, 17, 5, 5, 9, 24, 3, 12)
DOCUMENTS = (*(" ".join(np.random.default_rng(n).choice(WORDS, n)) for n in LENGTHS), "?", "Zwölf Boxkämpfer, 世界!")
# One layer each: compiling takes its time.
FOLDERS: dict[str, Callable[[Path], Path]] = {
    **{
        family: partial(tiny_classifier, family=family, labels=1 + 2 * (i % 2), layers=1)
        for i, family in enumerate(TINY_CLASSIFIERS)
    },
    "qwen3": partial(tiny_reranker, layers=1),
}


@pytest.fixture(scope="module", autouse=True)
def _slow_kernels() -> Iterator[None]:
    """Our own kernels are measured as the slowest, so that models of the BERT family are compiled too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_linear, "_seconds", lambda steps, _: [1.0 + i for i in range(len(steps))])
        yield


class TestCompiledScores(BackendContract):
    backend_class = TorchCompileBackend
    shapes: ClassVar = {name: FOLDERS[name] for name in ("bert", "distilbert")}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _cache_of_its_own(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
            yield

    def test_types_that_the_model_has_no_place_for_fail(self, backend: TorchCompileBackend, spec: ModelSpec) -> None:
        row = Features(np.array([5, 6], np.int32), type_ids=np.array([0, 9], np.int32), outputs=(SCORES,))
        if not spec.tokenizer.type_ids:
            backend.run(TokenBatch.of([row]))
            return
        with pytest.raises(ValueError, match="type 9 of a token is not among the model's 2"):
            backend.run(TokenBatch.of([row]))


@pytest.mark.parametrize("family", FOLDERS)
async def test_scores_of_pairs_are_those_of_cross_encoder(family: str, open_service: Any, tmp_path: Path) -> None:
    folder = FOLDERS[family](tmp_path / "m")
    theirs = CrossEncoder(str(folder), device="cpu").predict([(QUERY, each) for each in DOCUMENTS])
    model = ModelSettings(
        name="m",
        path=str(folder),
        backend="torch-compile",
        options={"cache_folder": str(tmp_path / "cache")},
        tune=False,
        threads_per_lane=1,
    )
    async with open_service(Settings(model=model, cache=CacheSettings(enabled=False))) as service:
        is_packed = service.runtime("m").loaded.backend.traits.extra["packed"]
        assert is_packed is (family in ("bert", "roberta", "xlm-roberta"))
        together = (await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,)))).scores
        alone = [(await service.score(ScoreRequest("m", (each,), (QUERY,)))).scores[0] for each in DOCUMENTS]
    theirs = theirs.reshape(together.shape)
    for ours in (together, np.array(alone)):
        assert np.abs(ours - theirs).max() <= 1e-4
        ordered = np.take_along_axis(ours, np.argsort(theirs, axis=0), axis=0)
        assert np.diff(ordered, axis=0).min(initial=0) >= -1e-5
