"""The whole way of a text equals sentence-transformers on the real model: alone, in mixed batches, over the limit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from provider.domain import EmbedRequest
from provider.settings import CacheSettings, ModelSettings, Settings

SENTENCES = Path(__file__).parents[1] / "data" / "sentences.txt"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Short, long, odd and in several languages; one a line."""
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    assert len(lines) > 100
    return lines


@pytest.fixture(scope="module")
def reference(minilm: Path, texts: list[str]) -> Any:
    return SentenceTransformer(str(minilm), device="cpu").encode(texts, normalize_embeddings=True)


async def test_every_text_alone_and_in_mixed_batches_equals_sentence_transformers(
    open_service: Any, minilm: Path, texts: list[str], reference: Any
) -> None:
    settings = Settings(model=ModelSettings(name="m", path=str(minilm)), cache=CacheSettings(enabled=False))
    async with open_service(settings) as service:
        order = np.random.default_rng(0).permutation(len(texts))
        mixed = await service.embed(EmbedRequest("m", tuple(texts[i] for i in order), truncate="end"))
        assert (mixed.vectors * reference[order]).sum(axis=1).min() >= 0.99999
        for text, expected in zip(texts, reference, strict=True):
            alone = await service.embed(EmbedRequest("m", (text,), truncate="end"))
            assert float(alone.vectors[0] @ expected) >= 0.99999, text


async def test_usage_counts_what_sentence_transformers_feeds_its_model(
    open_service: Any, minilm: Path, texts: list[str]
) -> None:
    model = SentenceTransformer(str(minilm), device="cpu")
    expected = sum(int(model.preprocess([text])["attention_mask"].sum()) for text in texts)
    async with open_service(Settings(model=ModelSettings(name="m", path=str(minilm)))) as service:
        answer = await service.embed(EmbedRequest("m", tuple(texts), truncate="end"))
        assert answer.usage.tokens == expected
