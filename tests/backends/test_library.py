"""sentence-transformers as a contender of a benchmark."""

from pathlib import Path

import pytest

from provider.bench.library import Library
from provider.bench.messages import LibrarySetup, Load, Slice, Texts
from provider.settings import ModelSettings, Settings
from provider.testing.tiny import tiny_bert, tiny_classifier


async def test_sentence_transformers_encodes_in_batches_of_the_size_that_was_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny_bert(tmp_path / "tiny")
    library = await Library.open(
        LibrarySetup(Texts(("the cat sees the dog",)), Settings(model=ModelSettings(path=str(folder), device="cpu")))
    )
    assert (library.facts["model"], library.facts["dtype"]) == ("tiny", "float32")
    assert await library.count(("the cat", "the")) == 4 + 3
    outcome = await library.run(Slice(Load(32, concurrency=4), 0.05, seed=1))
    assert outcome.texts > 0
    assert outcome.seconds >= 0.05
    assert (outcome.requests, outcome.latencies_us) == (0, [])
    assert outcome.note in {f"batches of {size}" for size in (8, 16, 32, 64, 128)}


async def test_a_cross_encoder_scores_pairs_whose_tokens_are_counted_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny_classifier(tmp_path / "tiny")
    settings = Settings(model=ModelSettings(path=str(folder), device="cpu"))
    library = await Library.open(LibrarySetup(Texts(("the cat sees the dog",), task="rerank"), settings))
    one, two = await library.count(("the",)), await library.count(("the cat",))
    assert two == one + 1
    assert one > 1 + 3
    outcome = await library.run(Slice(Load(32, concurrency=1), 0.05, seed=1))
    assert outcome.texts > 0
