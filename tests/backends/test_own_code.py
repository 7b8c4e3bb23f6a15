"""Models that bring code of their own are computed by transformers' classes as that code computes them.

`tests/data/own_code.json` holds configurations, the shapes of tensors under their original names, and the mean hidden
states that the original code gave, once, for the weights drawn here.
"""

import json
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file

from provider.backends import Backend, BackendOptions, find_backend
from provider.domain import ModelSpec, TokenBatch
from provider.errors import InvalidModel
from provider.models.spec import read_spec
from provider.testing.tiny import tiny_bert, tiny_classifier

RECORDED = json.loads((Path(__file__).parent.parent / "data" / "own_code.json").read_text())
CASES: dict[str, dict[str, Any]] = RECORDED["cases"]
IDS = [np.array(row, np.int32) for row in RECORDED["ids"]]
CUSTOM = {"jina-embeddings-v3": "custom_st.Transformer"}


def weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """As they were when the vectors were recorded: drawn in the order of the names without the class's prefix."""
    random = np.random.default_rng(0)
    drawn = {}
    for name in sorted(shapes, key=lambda each: each.removeprefix("new.")):
        is_scale = any(part in name.lower() for part in ("norm", "_ln")) and name.endswith("weight")
        drawn[name] = (random.standard_normal(shapes[name]) * 0.2 + is_scale).astype(np.float32)
    return drawn


def write(folder: Path, name: str, **changes: Any) -> Path:
    tiny_bert(folder)
    case = CASES[name]
    (folder / "config.json").write_text(json.dumps(case["config"] | changes))
    save_file(weights(case["tensors"]), folder / "model.safetensors")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = CUSTOM.get(name, modules[0]["type"])
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def spec_of(folder: Path) -> ModelSpec:
    return read_spec(folder, name="original", max_context_length=None, default_prompt=None)[0]


def load(spec: ModelSpec) -> Backend:
    kind = find_backend("torch")
    return kind.load(spec, BackendOptions(own=kind.Options()))


@pytest.mark.parametrize("name", CASES)
def test_the_vectors_are_those_of_the_models_own_code(name: str, tmp_path: Path) -> None:
    backend = load(spec_of(write(tmp_path / "model", name)))
    for rows in ([IDS[0]], [IDS[1]], IDS):
        vectors = backend.run(TokenBatch.of_rows(rows))["dense"]
        expected = [CASES[name]["vectors"][0 if row is IDS[0] else 1] for row in rows]
        np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_task_adapters_that_are_not_applied_are_a_notice(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "jina-embeddings-v3")
    _, notices = read_spec(folder, name="jina", max_context_length=None, default_prompt=None)
    assert any("retrieval.query" in notice and "not applied" in notice for notice in notices)


@pytest.mark.parametrize(
    "changes",
    [
        {"logn_attention_scale": True},
        {"layer_norm_type": "rms_norm"},
        {"position_embedding_type": "absolute"},
        {"pack_qkv": False},
        {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    ],
)
def test_what_transformers_class_does_not_compute_is_refused_by_name(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "gte-en", **changes)
    with pytest.raises(InvalidModel, match=rf"{next(iter(changes))} = .*[Cc]hoose another model"):
        spec_of(folder)


def test_a_configuration_of_the_original_form_under_transformers_name_is_read_alike(tmp_path: Path) -> None:
    backend = load(spec_of(write(tmp_path / "model", "gte-multilingual", model_type="gte")))
    vectors = backend.run(TokenBatch.of_rows(IDS))["dense"]
    np.testing.assert_allclose(vectors, CASES["gte-multilingual"]["vectors"], atol=2e-5)


def test_a_module_of_the_models_own_that_is_not_jinas_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "jina-embeddings-v3", position_embedding_type="absolute")
    with pytest.raises(InvalidModel, match=r"custom_st\.Transformer.*never run"):
        spec_of(folder)


def head(folder: Path, *prefixes: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Write the linear layers of a classifier with two labels beside the encoder's tensors."""
    tensors = load_file(folder / "model.safetensors")
    random = np.random.default_rng(1)
    layers = []
    for prefix, rows in zip(prefixes, (32, 2), strict=True):
        layer = (random.standard_normal((rows, 32)) * 0.3, random.standard_normal(rows))
        layers.append(tuple(each.astype(np.float32) for each in layer))
        tensors |= dict(zip((f"{prefix}.weight", f"{prefix}.bias"), layers[-1], strict=True))
    save_file(tensors, folder / "model.safetensors")
    return layers


CLASSIFIERS = {
    "gte-multilingual": ("NewForSequenceClassification", ("new.pooler.dense", "classifier")),
    "gte-en": ("NewForSequenceClassification", ("new.pooler.dense", "classifier")),
    "jina-embeddings-v3": ("XLMRobertaForSequenceClassification", ("classifier.dense", "classifier.out_proj")),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_put_the_original_head_on_that_encoder(name: str, tmp_path: Path) -> None:
    """A dense layer with tanh over the first token's state, then a linear one, in both original codes."""
    architecture, names = CLASSIFIERS[name]
    folder = write(tmp_path / "model", name)
    edit(folder / "1_Pooling" / "config.json", pooling_mode="cls")
    first = load(spec_of(folder)).run(TokenBatch.of_rows(IDS))["dense"]
    (inner, shift), (outer, last) = head(folder, *names)
    edit(folder / "config.json", architectures=[architecture], id2label={"0": "a", "1": "b"}, lora_adaptations=None)
    (folder / "modules.json").unlink()
    backend = load(spec_of(folder))
    expected = np.tanh(first @ inner.T + shift) @ outer.T + last
    for rows in ([0], [1], [0, 1]):
        logits = backend.run(TokenBatch.of_rows([IDS[i] for i in rows], outputs=("scores",)))["scores"]
        np.testing.assert_allclose(logits, expected[rows], atol=2e-5)


def as_jina_writes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of transformers' XLM-RoBERTa under the names of jina's code, with queries, keys and values in one."""
    names = (
        ("embeddings.LayerNorm", "emb_ln"),
        ("attention.output.LayerNorm", "norm1"),
        ("attention.output.dense", "mixer.out_proj"),
        ("output.LayerNorm", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("encoder.layer.", "encoder.layers."),
    )
    written = {}
    for name, tensor in tensors.items():
        if ".attention.self." in name:
            if ".query." in name:
                parts = [tensors[name.replace(".query.", f".{each}.")] for each in ("query", "key", "value")]
                new = name.replace("attention.self.query", "mixer.Wqkv").replace("encoder.layer.", "encoder.layers.")
                written[new] = torch.cat(parts)
            continue
        written[reduce(lambda new, pair: new.replace(*pair), names, name)] = tensor.clone()
    return written


def test_jinas_reranker_with_absolute_positions_is_a_usual_xlm_roberta_under_other_names(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "model", "xlm-roberta")
    usual = load(spec_of(folder)).run(TokenBatch.of_rows(IDS, outputs=("scores",)))["scores"]
    save_torch_file(as_jina_writes(load_torch_file(folder / "model.safetensors")), folder / "model.safetensors")
    code = "configuration_xlm_roberta.XLMRobertaFlashConfig"
    edit(folder / "config.json", auto_map={"AutoConfig": code}, position_embedding_type="absolute")
    logits = load(spec_of(folder)).run(TokenBatch.of_rows(IDS, outputs=("scores",)))["scores"]
    np.testing.assert_allclose(logits, usual, atol=1e-5)


def edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
