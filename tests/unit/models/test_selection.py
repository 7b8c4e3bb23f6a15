"""Which files of repositories as they occur in public are fetched, and which repositories are refused.

The lists are shortened to one file of each kind.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from provider.errors import InvalidModel
from provider.models.selection import Selection, describing, select

BERT = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, "vocab_size": 99}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
POOLING = {"1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}}
DENSE = {"in_features": 32, "out_features": 16, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


def modules(*places: str, package: str = "sentence_transformers.models") -> list[dict[str, Any]]:
    """`modules.json` of folders named as usual: `1_Pooling` holds a Pooling; "" is the transformer's."""
    return [{"path": each, "type": f"{package}.{(each or '0_Transformer').split('_')[1]}"} for each in places]


def chosen(
    folder: Path, names: tuple[str, ...], documents: dict[str, Any], own: tuple[str, ...] = ()
) -> tuple[set[str], Selection]:
    """What is fetched first, and then, from a repository of `names`, of which `documents` are JSON files."""
    present = (*names, *documents)
    first = describing("org/name", present)
    for name in first:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(documents.get(name, {})))
    return set(first), select("org/name", present, folder, lambda _: own)


def test_bge_m3_has_its_weights_and_further_heads_pickled(tmp_path: Path) -> None:
    names = (
        *("pytorch_model.bin", "sparse_linear.pt", "colbert_linear.pt", "sentencepiece.bpe.model", "long.jpg"),
        *("onnx/model.onnx", "onnx/model.onnx_data", "onnx/config.json", "onnx/tokenizer.json", *TOKENIZER[:3]),
    )
    documents = {
        "config.json": BERT | {"model_type": "xlm-roberta"},
        "modules.json": modules("", "1_Pooling", "2_Normalize"),
        "sentence_bert_config.json": {"max_seq_length": 8192},
        "config_sentence_transformers.json": {"prompts": {}},
        **POOLING,
    }
    first, found = chosen(tmp_path, names, documents)
    assert first == {*documents, "tokenizer_config.json"}
    heads = ("sparse_linear.pt", "colbert_linear.pt")
    assert found.pickled == ("pytorch_model.bin", *heads)
    assert set(found.files) == {*documents, *TOKENIZER[:3], "sentencepiece.bpe.model", "pytorch_model.bin", *heads}
    own = ("onnx/model.onnx", "onnx/model.onnx_data")
    _, found = chosen(tmp_path, names, documents, own)
    assert (found.own, found.pickled) == (own, ())
    assert set(found.files) == {*documents, *TOKENIZER[:3], "sentencepiece.bpe.model", *own}


@pytest.mark.parametrize(
    ("weights", "more", "expected", "pickled"),
    [
        # E5, GTE, all-mpnet: one format is enough.
        (("model.safetensors", "pytorch_model.bin", "tf_model.h5"), (), {"model.safetensors"}, ()),
        # Shards, beside another copy and a consolidated one.
        (
            ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            ("original/consolidated.00.pth", "consolidated.safetensors", "checkpoint-5/model.safetensors"),
            {"model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"},
            (),
        ),
        (
            ("pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"),
            ("training_args.bin", "optimizer.pt"),
            {"pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"},
            ("pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"),
        ),
    ],
)
def test_weights_are_fetched_in_one_format(
    weights: tuple[str, ...], more: tuple[str, ...], expected: set[str], pickled: tuple[str, ...], tmp_path: Path
) -> None:
    _, found = chosen(tmp_path, (*weights, *more, *TOKENIZER), {"config.json": BERT})
    assert set(found.files) - {"config.json", *TOKENIZER} == expected
    assert tuple(sorted(found.pickled)) == pickled


def test_labse_has_a_dense_layer_that_may_be_pickled_alone(tmp_path: Path) -> None:
    documents = {
        "config.json": BERT,
        "modules.json": modules("", "1_Pooling", "2_Dense", "3_Normalize"),
        "2_Dense/config.json": DENSE,
        **POOLING,
    }
    _, found = chosen(tmp_path, ("model.safetensors", "2_Dense/pytorch_model.bin", *TOKENIZER), documents)
    assert found.pickled == ("2_Dense/pytorch_model.bin",)
    assert {"model.safetensors", "2_Dense/pytorch_model.bin"} < set(found.files)


def test_stella_has_layers_for_other_widths_that_stay_there(tmp_path: Path) -> None:
    documents = {
        "config.json": BERT,
        "modules.json": modules("", "1_Pooling", "2_Dense_1024"),
        **dict.fromkeys(("2_Dense_1024/config.json", "2_Dense_8192/config.json"), DENSE),
        **POOLING,
    }
    names = ("model.safetensors", "2_Dense_1024/model.safetensors", "2_Dense_8192/model.safetensors", *TOKENIZER)
    _, found = chosen(tmp_path, names, documents)
    assert "2_Dense_1024/model.safetensors" in found.files
    assert "2_Dense_8192/model.safetensors" not in found.files


@pytest.mark.parametrize("place", ["0_Transformer", "./0_Transformer", "parts/0_Transformer"])
def test_a_transformer_in_a_folder_comes_with_its_tokenizer(place: str, tmp_path: Path) -> None:
    inside = place.removeprefix("./")
    documents = {
        f"{inside}/config.json": BERT,
        "modules.json": [{"path": place, "type": "sentence_transformers.models.Transformer"}, *modules("1_Pooling")],
        **POOLING,
    }
    names = (f"{inside}/model.safetensors", *(f"{inside}/{name}" for name in TOKENIZER), "other/vocab.txt")
    _, found = chosen(tmp_path, names, documents)
    assert set(found.files) == {*names, *documents} - {"other/vocab.txt"}


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tokenizer.model",
        "source.spm",
        "qwen.tiktoken",
        "bpe.codes",
        "dict.txt",
        "added_tokens.json",
        "special_tokens_map.json",
    ],
)
def test_every_file_that_decides_token_ids_is_fetched(name: str, tmp_path: Path) -> None:
    _, found = chosen(tmp_path, ("model.safetensors", "vocab.txt", name), {"config.json": BERT})
    assert name in found.files


STATIC: dict[str, tuple[tuple[str, ...], dict[str, Any], set[str]]] = {
    "minishlab/potion-base-8M": (
        ("model.safetensors", "tokenizer.json", "onnx/model.onnx", "onnx/tokenizer.json"),
        {
            "config.json": {"model_type": "model2vec"},
            "modules.json": [{"path": ".", "type": "sentence_transformers.models.StaticEmbedding"}],
        },
        {"model.safetensors", "tokenizer.json"},
    ),
    "model2vec without modules.json": (
        ("model.safetensors", "tokenizer.json", "pipeline.skops"),
        {"config.json": {"model_type": "model2vec"}},
        {"model.safetensors", "tokenizer.json"},
    ),
    "sentence-transformers/static-retrieval-mrl-en-v1": (
        ("0_StaticEmbedding/model.safetensors", "0_StaticEmbedding/tokenizer.json", "README.md"),
        {"modules.json": modules("0_StaticEmbedding"), "config_sentence_transformers.json": {}},
        {"0_StaticEmbedding/model.safetensors", "0_StaticEmbedding/tokenizer.json"},
    ),
}


@pytest.mark.parametrize("repository", STATIC)
def test_static_models_have_no_config_json_in_most_repositories(repository: str, tmp_path: Path) -> None:
    names, documents, expected = STATIC[repository]
    first, found = chosen(tmp_path, names, documents)
    assert (first, set(found.files)) == (set(documents), {*documents, *expected})


def test_both_ways_of_a_router_are_fetched(tmp_path: Path) -> None:
    package = "sentence_transformers.models"
    folders = {
        "query_0_StaticEmbedding": f"{package}.StaticEmbedding",
        "document_0_Transformer": f"{package}.Transformer",
        "document_1_Pooling": f"{package}.Pooling",
        "document_2_Dense": f"{package}.Dense",
    }
    documents = {
        "modules.json": [{"path": "", "type": f"{package}.Router"}],
        "router_config.json": {
            "types": folders,
            "structure": {"query": [next(iter(folders))], "document": list(folders)[1:]},
            "parameters": {"default_route": "document"},
        },
        "document_0_Transformer/config.json": BERT,
        "document_1_Pooling/config.json": {"word_embedding_dimension": 32},
        "document_2_Dense/config.json": DENSE,
    }
    weights = {f"{name}/model.safetensors" for name in folders if not name.endswith("Pooling")}
    tokenizers = {f"{name}/tokenizer.json" for name in list(folders)[:2]}
    first, found = chosen(tmp_path, (*weights, *tokenizers, "document_0_Transformer/pytorch_model.bin"), documents)
    assert (first, set(found.files)) == (set(documents), {*documents, *weights, *tokenizers})
    with pytest.raises(InvalidModel, match=r"no model\.safetensors"):
        chosen(tmp_path, (*weights - {"query_0_StaticEmbedding/model.safetensors"}, *tokenizers), documents)


REFUSED: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "sentence-transformers/clip-ViT-B-32": (
        ("0_CLIPModel/pytorch_model.bin", "0_CLIPModel/vocab.json"),
        {"modules.json": modules("0_CLIPModel"), "0_CLIPModel/config.json": {"model_type": "clip"}},
        "images",
    ),
    "opensearch-project/opensearch-neural-sparse-encoding-doc-v3": (
        ("model.safetensors", *TOKENIZER),
        {"modules.json": modules("0_Router"), "router_config.json": {}, "config.json": BERT},
        "Router",
    ),
    "dslim/bert-base-NER": (
        ("pytorch_model.bin", *TOKENIZER),
        {"config.json": BERT | {"architectures": ["BertForTokenClassification"]}},
        "classifier",
    ),
    "Qwen/Qwen3-Embedding-0.6B-GGUF": (("model-f16.gguf", "README.md"), {}, r"no config\.json; .*llama\.cpp"),
    "an adapter": (("adapter_model.safetensors",), {"adapter_config.json": {}}, "adapter"),
    "an adapter beside a configuration": (
        ("adapter_model.safetensors",),
        {"adapter_config.json": {}, "config.json": BERT},
        "adapter",
    ),
    "stabilityai/sdxl": (("unet/model.safetensors",), {"model_index.json": {}, "unet/config.json": {}}, "images"),
    "laion/CLIP": (("open_clip_model.safetensors",), {"open_clip_config.json": {}}, "images and text"),
    "onnx-community/some": (("onnx/model.onnx", *TOKENIZER), {"config.json": BERT}, "--backend onnx"),
    "OpenVINO/some": (
        ("openvino_model.xml", "openvino_model.bin", *TOKENIZER),
        {"config.json": BERT},
        "--backend open",
    ),
    "TensorFlow's": (("tf_model.h5", *TOKENIZER), {"config.json": BERT}, r"another library \(tf_model\.h5\)"),
    "a data set": (("data.parquet",), {}, r"no config\.json"),
}


@pytest.mark.parametrize("repository", REFUSED)
def test_what_cannot_be_served_is_refused_for_its_reason_by_its_small_files(repository: str, tmp_path: Path) -> None:
    names, documents, words = REFUSED[repository]
    with pytest.raises(InvalidModel, match=words) as raised:
        chosen(tmp_path, names, documents)
    assert raised.value.message.count("org/name") >= 1
    assert str(tmp_path) not in raised.value.message
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("graphs", "found"),
    [
        (("onnx/model.onnx",), "onnx/model.onnx"),
        (("0_Transformer/onnx/model.onnx",), "0_Transformer/onnx/model.onnx"),
        (("onnx/model.onnx", "0_Transformer/onnx/model.onnx"), "0_Transformer/onnx/model.onnx"),
    ],
)
def test_other_formats_are_found_beside_the_transformer_or_at_the_top(
    graphs: tuple[str, ...], found: str, tmp_path: Path
) -> None:
    documents = {"0_Transformer/config.json": BERT, "modules.json": modules("0_Transformer", "1_Pooling"), **POOLING}
    for name, document in documents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(document))
    names = (*graphs, "0_Transformer/tokenizer.json", *documents)
    selection = select("org/name", names, tmp_path, lambda _: ["onnx/model.onnx"])
    assert selection.own == (found,)
