"""Pooling equals sentence-transformers', for torch and numpy, padded on either side."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from provider.backends import pool
from provider.domain import PoolingMode

MODES = get_args(PoolingMode)
LENGTHS = np.array([5, 2, 7, 1])
WIDTH, HIDDEN = 7, 6


def hidden(side: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    states = np.random.default_rng(0).standard_normal((4, WIDTH, HIDDEN)).astype(np.float32)
    column = np.arange(WIDTH)
    mask = column < LENGTHS[:, None] if side == "right" else column >= WIDTH - LENGTHS[:, None]
    return states, mask.astype(np.int64)


def theirs(states: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], modes: Any, prompt: int) -> np.ndarray[Any, Any]:
    module = Pooling(HIDDEN, modes, include_prompt=prompt == 0)
    features = {"token_embeddings": torch.tensor(states), "attention_mask": torch.tensor(mask), "prompt_length": prompt}
    return module(features)["sentence_embedding"].numpy()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("modes", [*[(mode,) for mode in MODES], ("cls", "mean"), ("max", "lasttoken", "weightedmean")])
def test_every_mode_equals_sentence_transformers(modes: Any, side: Any) -> None:
    states, mask = hidden(side)
    expected = theirs(states, mask, modes, prompt=0)
    skips = np.zeros(4, np.int64)
    ours = pool(np, states, LENGTHS, skips, modes, padding_side=side)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    in_torch = pool(
        torch, torch.tensor(states), torch.tensor(LENGTHS), torch.tensor(skips), modes, padding_side=side
    ).numpy()
    np.testing.assert_allclose(in_torch, expected, rtol=1e-5, atol=1e-6)
    assert ours.dtype == in_torch.dtype == np.float32


@pytest.mark.parametrize("mode", ["mean", "max", "cls", "weightedmean", "mean_sqrt_len_tokens"])
def test_a_prompt_can_be_left_out(mode: Any) -> None:
    states, mask = hidden("right")
    states, mask, lengths = states[[0, 2]], mask[[0, 2]], LENGTHS[[0, 2]]
    expected = theirs(states, mask, (mode,), prompt=2)
    np.testing.assert_allclose(pool(np, states, lengths, np.array([2, 2]), (mode,)), expected, rtol=1e-5, atol=1e-6)


def test_half_precision_is_summed_in_float32() -> None:
    states = np.full((1, 4096, 1), 1.0, np.float16)
    pooled = pool(np, states, np.array([4096]), np.array([0]), ("mean_sqrt_len_tokens",))
    np.testing.assert_allclose(pooled, 64.0)
