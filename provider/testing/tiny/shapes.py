"""The shapes of models that a backend is tested on."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from provider.testing.tiny.bert import tiny_bert
from provider.testing.tiny.qwen import tiny_decoder
from provider.testing.tiny.roberta import tiny_roberta

_POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

TINY_SHAPES: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {
        "mean": tiny_bert,
        "cls": partial(tiny_bert, pooling="cls"),
        "every pooling": partial(tiny_bert, pooling=_POOLINGS),
        "dense head": partial(tiny_bert, dense=16),
        "positions from an offset": tiny_roberta,
        "decoder, last token": tiny_decoder,
    }
)
"""Name to a function that writes such a model to a folder and returns it: poolings, a head, positions, a decoder."""
