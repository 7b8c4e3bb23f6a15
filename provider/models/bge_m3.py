"""The two further heads of bge-m3: `BGEM3FlagModel` of FlagEmbedding."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provider.domain import HeadStep, MultiVectorTask, SparseTask, TaskSpec
from provider.errors import InvalidModel
from provider.models.tokenizer_json import token_text
from provider.models.weights import check_safetensors, tensor_shapes

_SPARSE_HEAD, _LATE_HEAD = "sparse_linear", "colbert_linear"
HEADS = tuple(f"{name}.{end}" for name in (_SPARSE_HEAD, _LATE_HEAD) for end in ("pt", "safetensors"))
"""The files with these heads: pickled, and converted."""


def bge_m3_tasks(
    folder: Path, hidden_size: int, vocabulary: Mapping[str, int], tokens: Mapping[str, Any]
) -> tuple[tuple[TaskSpec, ...], tuple[Path, ...], str | None]:
    """The tasks of bge-m3's further heads in `folder`, their files, and what an operator should read.

    Args:
        folder: the transformer's.
        hidden_size: width of the hidden states.
        vocabulary: token to id.
        tokens: special tokens by name, as in `tokenizer_config.json`.

    Raises:
        InvalidModel: a head is damaged or does not fit.
    """
    found = [folder / f"{name}.safetensors" for name in (_SPARSE_HEAD, _LATE_HEAD)]
    if not all(path.is_file() for path in found):
        pickled = [f"{name}.pt" for name in (_SPARSE_HEAD, _LATE_HEAD) if (folder / f"{name}.pt").is_file()]
        if not pickled:
            return (), (), None
        return (
            (),
            (),
            (
                f"the model is served dense only: its heads for sparse and multi-vector outputs are pickled "
                f"({', '.join(pickled)}); set model.convert_weights: true, or run `emb-provider convert`"
            ),
        )
    shapes = []
    for path in found:
        check_safetensors(path)
        shapes.append(tensor_shapes(path).get("weight", [0, 0]))
        if len(shapes[-1]) != 2 or shapes[-1][1] != hidden_size:
            msg = f"{path} has a weight of {shapes[-1]}, expected one over {hidden_size}; download the model again"
            raise InvalidModel(msg)
    special = {token_text(tokens.get(name)) for name in ("cls_token", "eos_token", "pad_token", "unk_token")}
    dropped = frozenset(vocabulary[token] for token in special if token in vocabulary)
    width = 1 + max(vocabulary.values(), default=-1)
    sparse = SparseTask(width, "tokens", head=found[0], dropped=dropped)
    late = MultiVectorTask(shapes[1][0], (HeadStep("linear", found[1], shapes[1][0]),), drops_first=True)
    return (sparse, late), tuple(found), None
