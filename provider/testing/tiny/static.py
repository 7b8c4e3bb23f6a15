"""Static models, as sentence-transformers and model2vec save them, and Routers of two ways."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from provider.testing.tiny.bert import tiny_bert
from provider.testing.tiny.folder import CLASSES, write_about, write_json, write_modules
from provider.testing.tiny.vocabularies import wordpiece

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_static(
    path: Path,
    *,
    dimension: int = 32,
    style: Literal["sentence-transformers", "model2vec", "bare"] = "sentence-transformers",
    quantised: bool = False,
    limit: int | None = None,
    normalize: bool = True,
    seed: int = 0,
) -> Path:
    """Write a table of token vectors to `path`.

    Args:
        path: the folder; made if need be.
        dimension: width of the table.
        style: how it is saved: `model2vec` is the form of minishlab's repositories, `bare` the same without
            `modules.json`.
        quantised: in model2vec's styles: int8 rows that tokens share, with a weight for each token.
        limit: tokens to which its tokenizer cuts; None for no limit.
        normalize: whether vectors have length 1.
        seed: of the table.
    """
    import torch  # noqa: PLC0415 - seconds that only callers pay
    from safetensors.torch import save_file  # noqa: PLC0415

    path.mkdir(parents=True, exist_ok=True)
    tokenizer = wordpiece(_SPECIAL, before="[CLS]", after="[SEP]", unknown="[UNK]")
    if limit is not None:
        tokenizer.enable_truncation(limit)
    tokenizer.save(str(path / "tokenizer.json"))
    random = torch.Generator().manual_seed(seed)
    rows = tokenizer.get_vocab_size()
    if style == "sentence-transformers":
        state = {"embedding.weight": torch.randn(rows, dimension, generator=random)}
        write_about(path)
    elif quantised:
        state = {
            "embeddings": torch.randint(-127, 128, (rows // 2 + 1, dimension), generator=random, dtype=torch.int8),
            "mapping": torch.arange(rows, dtype=torch.int32) // 2,
            "weights": torch.rand(rows, generator=random, dtype=torch.float64),
        }
    else:
        state = {"embeddings": torch.randn(rows, dimension, generator=random)}
    save_file(state, path / "model.safetensors", {"format": "pt"})
    if style != "sentence-transformers":
        about = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": normalize}
        write_json(path / "config.json", {**about, "hidden_dim": dimension, "max_length": limit})
    if style != "bare":
        write_modules(path, ["StaticEmbedding", *(["Normalize"] if normalize else [])])
    return path


def tiny_router(
    path: Path,
    *,
    queries: Literal["static", "transformer"] = "static",
    default_route: str | None = "document",
    allow_empty_key: bool = True,
    route_mappings: Mapping[str, str] | None = None,
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """Write a model whose documents go through a BERT encoder, and whose queries go another way.

    Args:
        path: the folder; made if need be.
        queries: through a table, or another BERT encoder with a pooling of its own.
        default_route: that of inputs which are neither.
        allow_empty_key: whether these go the first way, where there is no default.
        route_mappings: task and modality, as the text of a Python tuple, to a route.
        prompts: name to text.
    """
    documents = _inner(tiny_bert(path / "document_0_Transformer"), path, "document")
    if queries == "static":
        tiny_static(path / "query_0_StaticEmbedding")
        for name in ("modules.json", "config_sentence_transformers.json"):
            (path / "query_0_StaticEmbedding" / name).unlink()
        others = {"query_0_StaticEmbedding": CLASSES["StaticEmbedding"]}
    else:
        others = _inner(tiny_bert(path / "query_0_Transformer", seed=7, layers=1, pooling="cls"), path, "query")
    parameters: dict[str, Any] = {"default_route": default_route, "allow_empty_key": allow_empty_key}
    document = {
        "types": {**others, **documents},
        "structure": {"query": list(others), "document": list(documents)},
        "parameters": {**parameters, "route_mappings": dict(route_mappings or {})},
    }
    write_json(path / "router_config.json", document)
    write_modules(path, ["Router", "Normalize"])
    write_about(path, prompts)
    return path


def _inner(transformer: Path, path: Path, route: str) -> dict[str, str]:
    """Take what surrounds the transformer of a folder of its own apart; its modules' folders, and their classes."""
    pooling = f"{route}_1_Pooling"
    shutil.rmtree(path / pooling, ignore_errors=True)
    shutil.move(transformer / "1_Pooling", path / pooling)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (transformer / name).unlink()
    return {transformer.name: CLASSES["Transformer"], pooling: CLASSES["Pooling"]}
