"""Late-interaction models of the ColBERT family, as MultiVectorEncoder, PyLate and Stanford's code save them."""

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

from attrs import evolve

from provider.testing.tiny.bert import tiny_bert
from provider.testing.tiny.folder import Tiny, TinyOptions
from provider.testing.tiny.modernbert import tiny_modernbert
from provider.testing.tiny.roberta import tiny_xlm_roberta

_FAMILIES = {"bert": tiny_bert, "modernbert": tiny_modernbert, "xlm-roberta": tiny_xlm_roberta}
_BASE = "sentence_transformers.base.modules"
_MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
ColBertFamily = Literal["bert", "modernbert", "xlm-roberta"]
EXPANSION: Mapping[str, Any] = {"strategy": "fixed", "attend": False, "token": None, "length": 24}
"""ColBERT's query expansion, to 24 tokens."""


def tiny_multi_vector(
    path: Path,
    family: ColBertFamily = "bert",
    widths: Sequence[int] = (16,),
    *,
    expansion: Mapping[str, Any] | None = EXPANSION,
    skiplist: Sequence[str] = tuple(string.punctuation),
    skiplist_tasks: Sequence[str] = ("document",),
    query_length: int | None = None,
    document_length: int | None = None,
    **options: Unpack[TinyOptions],
) -> Path:
    """Write a late-interaction model to `path`, as MultiVectorEncoder saves it.

    Args:
        path: the folder.
        family: of the encoder.
        widths: of the linear layers over tokens, in order.
        expansion: as the Transformer module has it; None for none.
        skiplist: words whose tokens are left out of documents.
        skiplist_tasks: whose tokens are left out.
        query_length: most tokens of a query; None for the model's own limit.
        document_length: most tokens of a document.
        options: see `Tiny`; `normalize` is that of the token vectors, `activation` and `residual` those of all linear
            layers but the last.
    """
    options["plain"] = True
    _FAMILIES[family](path, **options)
    tiny = evolve(Tiny(), **options)
    steps = [("", f"{_BASE}.transformer.Transformer")]
    taken = tiny.hidden
    for i, given in enumerate(widths):
        place = f"{1 + i}_Dense"
        steps.append((place, f"{_BASE}.dense.Dense"))
        name = "Identity" if i + 1 == len(widths) else str(options.get("activation", "Identity"))
        _write_dense(path / place, taken, given, seed=tiny.seed + 1 + i, activation=name, residual=tiny.residual)
        taken = given
    place = f"{len(steps)}_MultiVectorMask"
    steps.append((place, _MASK))
    mask = {"skiplist_words": list(skiplist), "skiplist_tasks": list(skiplist_tasks), "keep_only_token_ids": None}
    _write(path / place / "config.json", mask)
    if tiny.normalize:
        place = f"{len(steps)}_Normalize"
        steps.append((place, f"{_BASE}.normalize.Normalize"))
        io = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
        _write(path / place / "config.json", io)
    _write_modules(path, steps)
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    settings: dict[str, Any] = {"transformer_task": "feature-extraction", "modality_config": {"text": text}}
    lengths: dict[str, Any] = {"query_length": query_length, "document_length": document_length}
    lengths["query_expansion"] = None if expansion is None else dict(expansion)
    settings |= {key: value for key, value in lengths.items() if value}
    _write(path / "sentence_bert_config.json", {**settings, "module_output_name": "token_embeddings"})
    _set_limit(path, options)
    prompts = dict(options.get("prompts") or {"query": "[Q] ", "document": "[D] "})
    about = {"model_type": "MultiVectorEncoder", "similarity_fn_name": "maxsim", "prompts": prompts}
    _write(path / "config_sentence_transformers.json", {**about, "default_prompt_name": None})
    return path


def tiny_pylate(
    path: Path,
    family: ColBertFamily = "modernbert",
    widths: Sequence[int] = (16,),
    *,
    markers: tuple[str, str] = ("[Q] ", "[D] "),
    added: bool = True,
    about: Mapping[str, Any] | None = None,
    **options: Unpack[TinyOptions],
) -> Path:
    """Write a late-interaction model to `path`, as PyLate before release 4 saved it.

    Args:
        path: the folder.
        family: of the encoder.
        widths: of the linear layers over tokens, in order.
        markers: put before queries and documents.
        added: whether the markers are tokens of their own, as PyLate adds them.
        about: further keys of `config_sentence_transformers.json`.
        options: see `Tiny`.
    """
    options["plain"] = True
    _FAMILIES[family](path, **options)
    if added:
        _add_tokens(path, markers)
    tiny = evolve(Tiny(), **options)
    steps = [("", "sentence_transformers.models.Transformer")]
    taken = tiny.hidden
    for i, given in enumerate(widths):
        steps.append((f"{1 + i}_Dense", "pylate.models.Dense.Dense"))
        _write_dense(path / f"{1 + i}_Dense", taken, given, seed=tiny.seed + 1 + i, residual=tiny.residual, named=False)
        taken = given
    _write_modules(path, steps)
    limit = options.get("max_seq_length", tiny.max_seq_length)
    _write(path / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    said = {
        "model_type": "ColBERT",
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": markers[0],
        "document_prefix": markers[1],
        "query_length": 24,
        "document_length": 48,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation),
        **(about or {}),
    }
    _write(path / "config_sentence_transformers.json", said)
    return path


def tiny_stanford_colbert(
    path: Path, width: int = 16, metadata: Mapping[str, Any] | None = None, **options: Unpack[TinyOptions]
) -> Path:
    """Write a BERT late-interaction model to `path`, as Stanford's ColBERT does, with its projection.

    Args:
        path: the folder.
        width: of the token vectors.
        metadata: of `artifact.metadata`; None for ColBERTv2's.
        options: see `Tiny`.
    """
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    options["plain"] = True
    tiny_bert(path, **options)
    _rename_tokens(path, {"reads": "[unused0]", "sings": "[unused1]"})
    state = {f"bert.{key}": value for key, value in load_file(path / "model.safetensors").items()}
    hidden = options.get("hidden", Tiny().hidden)
    random = torch.Generator().manual_seed(options.get("seed", 0) + 1)
    state["linear.weight"] = torch.randn(width, hidden, generator=random) * hidden**-0.5
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_bytes())
    _write(path / "config.json", {**config, "architectures": ["HF_ColBERT"]})
    usual = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_maxlen": 24,
        "doc_maxlen": 48,
        "mask_punctuation": True,
        "attend_to_mask_tokens": False,
    }
    _write(path / "artifact.metadata", usual if metadata is None else dict(metadata))
    return path


def _add_tokens(path: Path, tokens: Sequence[str]) -> None:
    """Add tokens to the vocabulary, as a tokenizer's `add_tokens` does, with random rows of embeddings."""
    import tokenizers  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=True, special=False) for token in tokens])
    tokenizer.save(str(path / "tokenizer.json"))
    state = load_file(path / "model.safetensors")
    (name,) = (key for key in state if key.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
    more = torch.randn(len(tokens), state[name].shape[1], generator=torch.Generator().manual_seed(11)) * 0.2
    state[name] = torch.cat([state[name], more])
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_bytes())
    _write(path / "config.json", {**config, "vocab_size": len(state[name])})


def _rename_tokens(path: Path, names: Mapping[str, str]) -> None:
    document = json.loads((path / "tokenizer.json").read_bytes())
    vocabulary = document["model"]["vocab"]
    document["model"]["vocab"] = {names.get(token, token): i for token, i in vocabulary.items()}
    _write(path / "tokenizer.json", document)


def _set_limit(path: Path, options: TinyOptions) -> None:
    limit = options.get("max_seq_length", Tiny().max_seq_length)
    if limit is not None:
        about = json.loads((path / "tokenizer_config.json").read_bytes())
        _write(path / "tokenizer_config.json", {**about, "model_max_length": limit})


def _write_dense(
    folder: Path,
    taken: int,
    given: int,
    *,
    seed: int,
    activation: str = "Identity",
    residual: bool = False,
    named: bool = True,
) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    kind = "linear.Identity" if activation == "Identity" else f"activation.{activation}"
    config: dict[str, Any] = {"in_features": taken, "out_features": given, "bias": False}
    config["activation_function"] = f"torch.nn.modules.{kind}"
    if named:
        config |= {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    if residual:
        config["use_residual"] = True
    _write(folder / "config.json", config)
    random = torch.Generator().manual_seed(seed)
    state = {"linear.weight": torch.randn(given, taken, generator=random) * taken**-0.5}
    if residual and taken != given:
        state["residual.weight"] = torch.randn(given, taken, generator=random) * taken**-0.5
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _write_modules(path: Path, steps: Sequence[tuple[str, str]]) -> None:
    entries = [{"idx": i, "name": str(i), "path": place, "type": kind} for i, (place, kind) in enumerate(steps)]
    _write(path / "modules.json", entries)


def _write(path: Path, document: Any) -> None:  # noqa: ANN401 - JSON
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
