"""Sparse encoders: SPLADE, document encoders whose queries run no model, and bge-m3 with its two further heads."""

import json
from pathlib import Path
from typing import Any, Literal, Unpack

from provider.testing.tiny.bert import tiny_bert, tiny_distilbert
from provider.testing.tiny.folder import Tiny, TinyOptions
from provider.testing.tiny.modernbert import tiny_modernbert
from provider.testing.tiny.roberta import tiny_roberta, tiny_xlm_roberta

_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_POOLING = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"
_STATIC = "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding"
_ROUTER = "sentence_transformers.base.modules.router.Router"
_FAMILIES = {
    "bert": (tiny_bert, "BertForMaskedLM"),
    "roberta": (tiny_roberta, "RobertaForMaskedLM"),
    "xlm-roberta": (tiny_xlm_roberta, "XLMRobertaForMaskedLM"),
    "distilbert": (tiny_distilbert, "DistilBertForMaskedLM"),
    "modernbert": (tiny_modernbert, "ModernBertForMaskedLM"),
}
SpladeFamily = Literal["bert", "roberta", "xlm-roberta", "distilbert", "modernbert"]


def tiny_masked_lm(path: Path, family: SpladeFamily = "bert", **options: Unpack[TinyOptions]) -> Path:
    """Write a masked language model to `path`, as transformers saves it: no sentence-transformers files. See `Tiny`."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    write, name = _FAMILIES[family]
    options["plain"] = True
    write(path, **options)
    config = transformers.AutoConfig.from_pretrained(path)
    seed = options.get("seed", 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, name)(config).eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.2)
                elif key.endswith("bias"):
                    parameter.normal_(0.0, 0.1)
    state = {key: value for key, value in model.state_dict().items() if "position_ids" not in key}
    # Tied weights are written once, as `save_pretrained` does.
    once = {value.data_ptr(): key for key, value in reversed(state.items())}
    save_file({key: state[key].contiguous() for key in once.values()}, path / "model.safetensors", {"format": "pt"})
    config.architectures = [name]
    config.save_pretrained(path)
    return path


def tiny_splade(
    path: Path,
    family: SpladeFamily = "bert",
    over_tokens: Literal["max", "sum"] = "max",
    log: Literal["relu", "log1p_relu"] = "relu",
    *,
    legacy: bool = False,
    **options: Unpack[TinyOptions],
) -> Path:
    """Write a SPLADE encoder to `path`, as SparseEncoder saves it.

    Args:
        path: the folder.
        family: of the masked language model.
        over_tokens: over tokens.
        log: the activation of the logits.
        legacy: as releases before 5.4 saved it, with a module of its own for masked language models.
        options: see `Tiny`.
    """
    tiny_masked_lm(path, family, **options)
    first = "sentence_transformers.sparse_encoder.models.MLMTransformer.MLMTransformer" if legacy else _TRANSFORMER
    second = "sentence_transformers.sparse_encoder.models.SpladePooling.SpladePooling" if legacy else _POOLING
    _write_modules(path, ("", first), ("1_SpladePooling", second))
    _write_transformer(path, options.get("max_seq_length", Tiny().max_seq_length), legacy=legacy)
    _write_splade_pooling(path / "1_SpladePooling", over_tokens, log, legacy=legacy)
    _write_about(path, "SparseEncoder", "dot", options)
    return path


def tiny_opensearch(
    path: Path,
    family: SpladeFamily = "distilbert",
    *,
    default_route: str | None = "document",
    **options: Unpack[TinyOptions],
) -> Path:
    """Write a document encoder to `path` whose queries are weights of their tokens, as OpenSearch's are.

    Args:
        path: the folder.
        family: of the masked language model.
        default_route: of inputs that are neither query nor document.
        options: see `Tiny`.
    """
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    tiny_masked_lm(path / "document_0_Transformer", family, **options)
    document = path / "document_0_Transformer"
    limit = options.get("max_seq_length", Tiny().max_seq_length)
    _write_transformer(document, limit)
    _write_splade_pooling(path / "document_1_SpladePooling", "max", "log1p_relu")
    query = path / "query_0_SparseStaticEmbedding"
    query.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (query / name).write_bytes((document / name).read_bytes())
    vocabulary = _vocabulary(document)
    random = torch.Generator().manual_seed(options.get("seed", 0) + 7)
    values = torch.rand(1 + max(vocabulary.values()), generator=random) * 6
    # Special tokens have none, nor have some words.
    values[:6] = 0
    values[10::9] = 0
    save_file({"weight": values}, query / "model.safetensors", metadata={"format": "pt"})
    _write(query / "config.json", {"frozen": True})
    types = {
        "query_0_SparseStaticEmbedding": _STATIC,
        "document_0_Transformer": _TRANSFORMER,
        "document_1_SpladePooling": _POOLING,
    }
    structure = {
        "query": ["query_0_SparseStaticEmbedding"],
        "document": ["document_0_Transformer", "document_1_SpladePooling"],
    }
    parameters = {"default_route": default_route, "allow_empty_key": True}
    _write(path / "router_config.json", {"types": types, "structure": structure, "parameters": parameters})
    _write_modules(path, ("", _ROUTER))
    _write_about(path, "SparseEncoder", "dot", options)
    return path


def tiny_bge_m3(path: Path, *, pickled: bool = True, **options: Unpack[TinyOptions]) -> Path:
    """Write bge-m3 to `path`: an XLM-RoBERTa encoder with `sparse_linear` and `colbert_linear` beside it.

    Args:
        path: the folder.
        pickled: the two heads as pickles, as the original has them; False for safetensors, as converted.
        options: see `Tiny`.
    """
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    options.setdefault("pooling", "cls")
    options.setdefault("prompts", None)
    tiny_xlm_roberta(path, **options)
    hidden = options.get("hidden", Tiny().hidden)
    random = torch.Generator().manual_seed(options.get("seed", 0) + 3)
    for name, width in (("sparse_linear", 1), ("colbert_linear", hidden)):
        state = {
            "weight": torch.randn(width, hidden, generator=random) * hidden**-0.5,
            "bias": torch.randn(width, generator=random) * 0.1,
        }
        if pickled:
            torch.save(state, path / f"{name}.pt")
        else:
            save_file(state, path / f"{name}.safetensors", metadata={"format": "pt"})
    return path


def _write_transformer(folder: Path, limit: int | None, *, legacy: bool = False) -> None:
    length = {} if limit is None else {"max_seq_length": limit}
    if legacy:
        _write(folder / "sentence_bert_config.json", {**length, "do_lower_case": False})
        return
    text = {"method": "forward", "method_output_name": "logits"}
    task = {
        "transformer_task": "fill-mask",
        "modality_config": {"text": text},
        "module_output_name": "token_embeddings",
    }
    # A limit of its own stands with the tokenizer in new saves.
    about = json.loads((folder / "tokenizer_config.json").read_bytes())
    _write(folder / "tokenizer_config.json", {**about, **({} if limit is None else {"model_max_length": limit})})
    _write(folder / "sentence_bert_config.json", task)


def _write_splade_pooling(folder: Path, pooling: str, activation: str, *, legacy: bool = False) -> None:
    width = "word_embedding_dimension" if legacy else "embedding_dimension"
    _write(folder / "config.json", {"pooling_strategy": pooling, "activation_function": activation, width: None})


def _write_modules(path: Path, *modules: tuple[str, str]) -> None:
    entries = [{"idx": i, "name": str(i), "path": place, "type": kind} for i, (place, kind) in enumerate(modules)]
    _write(path / "modules.json", entries)


def _write_about(path: Path, kind: str, similarity: str, options: TinyOptions) -> None:
    prompts = {"prompts": dict(options.get("prompts") or {"query": "", "document": ""})}
    chosen = {"default_prompt_name": options.get("default_prompt_name")}
    about = {"model_type": kind, "similarity_fn_name": similarity, **prompts, **chosen}
    _write(path / "config_sentence_transformers.json", about)


def _vocabulary(folder: Path) -> dict[str, int]:
    import tokenizers  # noqa: PLC0415

    found: dict[str, int] = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    return found


def _write(path: Path, document: Any) -> None:  # noqa: ANN401 - JSON
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
