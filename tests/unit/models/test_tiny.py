"""The tiny models, against sentence-transformers: both read the same from the same folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from provider.models.spec import read_spec
from provider.testing import tiny
from provider.testing.tiny import tiny_bert, tiny_decoder, tiny_roberta

# They have options of their own.
OTHERS = {"tiny_router", "tiny_static"}
FAMILIES: list[Callable[..., Path]] = [
    getattr(tiny, name) for name in tiny.__all__ if name.startswith("tiny_") and name not in OTHERS
]
TEXTS = ["The cat sleeps in the house.", "Hello, WORLD! 42 \u20ac \u00fcber", "", "house " * 300]
CASES: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "bert": (tiny_bert, {"prompts": {"query": "q: "}, "default_prompt_name": "query"}),
    "bert, dense, two modes": (tiny_bert, {"dense": 16, "pooling": ["mean", "cls"], "normalize": False}),
    "bert, plain": (tiny_bert, {"plain": True}),
    "roberta": (tiny_roberta, {"pooling": "cls"}),
    "roberta, length of the tokenizer": (tiny_roberta, {"max_seq_length": None}),
    "roberta, plain": (tiny_roberta, {"plain": True}),
    "decoder": (tiny_decoder, {}),
    "decoder, dense": (tiny_decoder, {"dense": 8, "max_seq_length": 32}),
    "two dense layers": (tiny_bert, {"dense": [48, 16], "activation": "GELU", "bias": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_sentence_transformers_reads_the_same(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit, width, prompt, ids and a vector of unit length or not."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer

    make, options = CASES[case]
    folder = make(tmp_path, **options)
    spec, _ = read_spec(folder, name=case, max_context_length=None, default_prompt=None)
    model = SentenceTransformer(str(folder), device="cpu")
    assert model.max_seq_length == spec.max_tokens
    assert model.get_embedding_dimension() == spec.dense.dimension
    assert model.prompts.get(model.default_prompt_name or "", "") == spec.default_prompt
    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert model.tokenizer(text)["input_ids"] == ours.encode(text).ids
    vectors = model.encode(TEXTS, show_progress_bar=False)
    assert vectors.shape == (len(TEXTS), spec.dense.dimension)
    assert np.isfinite(vectors).all()
    length = np.linalg.norm(vectors, axis=1)
    assert np.allclose(length, 1, atol=1e-5) == (options.get("normalize", True) and not options.get("plain"))
    # Texts that come out alike would hide mistakes in pooling and masks.
    cosines = vectors @ vectors.T / np.outer(length, length)
    assert cosines[~np.eye(len(TEXTS), dtype=bool)].max() < 0.99


@pytest.mark.parametrize("make", FAMILIES)
def test_the_same_seed_writes_the_same_model(make: Callable[..., Path], tmp_path: Path) -> None:
    """And another one another."""
    prints = [
        read_spec(make(tmp_path / str(i), seed=seed), name="x", max_context_length=None, default_prompt=None)[
            0
        ].fingerprint
        for i, seed in enumerate((1, 1, 2))
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("make", FAMILIES)
def test_a_tiny_model_is_tiny(make: Callable[..., Path], tmp_path: Path) -> None:
    """Small enough for a test to write one."""
    folder = make(tmp_path, dense=16)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 250_000
