"""Models that are not served, told apart by their small JSON files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provider.errors import InvalidModel
from provider.models.configs import check_supported

Edit = Callable[..., None]
Write = Callable[[dict[str, Any]], Path]

_TRANSFORMER, _POOLING = (f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write JSON files, name to content, to a folder that holds nothing else."""

    def written(files: dict[str, Any]) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content))
        return tmp_path

    return written


def modules(*types: str) -> list[dict[str, str]]:
    return [{"type": kind, "path": f"{i}_x" if i else ""} for i, kind in enumerate(types)]


BERT = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, "vocab_size": 9}


def plain(**changes: Any) -> dict[str, Any]:
    return {"config.json": {**BERT, **changes}}


def pipeline(*types: str, **changes: Any) -> dict[str, Any]:
    return {**plain(**changes), "modules.json": modules(*types), "1_x/config.json": {"word_embedding_dimension": 32}}


def test_the_json_files_alone_are_enough(write: Write) -> None:
    check_supported(write(pipeline(_TRANSFORMER, _POOLING)))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"modules.json": modules("sentence_transformers.models.WordEmbeddings", _POOLING)}, "word counts"),
        ({"modules.json": modules("sentence_transformers.base.modules.router.Router")}, r"no router_config\.json"),
        ({"modules.json": modules("sentence_transformers.models.Asym", _POOLING)}, r"no router_config\.json"),
        ({"modules.json": modules("sentence_transformers.models.CLIPModel")}, "images.*CLIPModel"),
        (plain(model_type="clip", vision_config={"a": 1}, text_config={"hidden_size": 8}), "images.*vision_config"),
        ({"config.json": {"model_type": "vit", "hidden_size": 8, "patch_size": 16}}, "images.*patch_size"),
        (plain(audio_config={"a": 1}), "audio.*audio_config"),
        (plain(model_type="whisper", num_mel_bins=80), "audio.*num_mel_bins"),
        (plain(model_type="layoutlmv3", patch_size=16), "images.*patch_size"),
        (pipeline(_TRANSFORMER, "sentence_transformers.sparse_encoder.modules.SparseAutoEncoder"), "SparseAutoEncoder"),
        (pipeline(_TRANSFORMER, "sentence_transformers.multi_vector_encoder.modules.TokenPooling"), "TokenPooling"),
        (
            {**pipeline(_TRANSFORMER, _POOLING), "config_sentence_transformers.json": {"model_type": "SparseEncoder"}},
            "sparse encoder.*'SparseEncoder'",
        ),
        ({**plain(architectures=["BertForMaskedLM"]), "idf.json": {}}, r"SPLADE.*idf\.json"),
        (pipeline(_TRANSFORMER, "pylate.models.Other.Other"), r"ColBERT.*pylate\.models"),
        (plain(architectures=["ColBERTModel"]), "ColBERT.*ColBERTModel"),
        ({**plain(), "artifact.metadata": {}}, r"ColBERT.*artifact\.metadata"),
        (
            {**pipeline(_TRANSFORMER, _POOLING), "config_sentence_transformers.json": {"similarity_fn_name": "MaxSim"}},
            "ColBERT.*MaxSim",
        ),
        (
            {**plain(), "config_sentence_transformers.json": {"model_type": "MultiVectorEncoder"}},
            "ColBERT.*MultiVectorEncoder",
        ),
        (plain(architectures=["BertForTokenClassification"]), "reranker.*BertForTokenClassification"),
        (plain(architectures=["Qwen2ForRewardModel"]), "reranker.*Qwen2ForRewardModel"),
        (plain(architectures=["BertForTokenClassification"]), "classifier.*ForTokenClassification"),
        (plain(architectures=[], id2label={"0": "no"}), "classifier.*labels"),
        (plain(sentence_transformers={"activation_fn": "torch.nn.Identity"}), "reranker.*CrossEncoder"),
        ({**plain(), "config_sentence_transformers.json": {"model_type": "CrossEncoder"}}, "reranker.*'CrossEncoder'"),
        (
            {**pipeline(_TRANSFORMER, _POOLING), "sentence_bert_config.json": {"transformer_task": "fill-mask"}},
            "SPLADE.*fill-mask",
        ),
        (
            {
                **pipeline(_TRANSFORMER, _POOLING),
                "sentence_bert_config.json": {
                    "modality_config": {key: {"method": "forward"} for key in ("text", "image+text")}
                },
            },
            "images.*image",
        ),
        (plain(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised.*'gptq'"),
        (plain(compression_config={"quant_method": "compressed-tensors"}), "quantised.*compression_config"),
        (plain(position_embedding_type="alibi"), "position_embedding_type 'alibi'"),
        (plain(position_embedding_type="relative_key_query"), "relative_key_query"),
        (
            plain(model_type="nvembed", auto_map={"AutoModel": "modeling_nvembed.NVEmbedModel"}),
            r"modeling_nvembed\.NVEmbedModel.*trust_remote_code",
        ),
        (plain(model_type="marten"), "no class for model_type 'marten'"),
        (plain(model_type=None), "no model_type"),
        ({"adapter_config.json": {"base_model_name_or_path": "some/base"}}, "adapter for some/base.*merge_and_unload"),
        ({**plain(), "adapter_config.json": {}}, "adapter.*merge_and_unload"),
        ({"open_clip_config.json": {}}, "images and text"),
        ({"0_Transformer/config.json": BERT}, r"0_Transformer in it has one.*modules\.json"),
    ],
)
def test_another_kind_of_model_is_refused_for_what_it_is(files: dict[str, Any], words: str, write: Write) -> None:
    with pytest.raises(InvalidModel, match=words):
        check_supported(write(files))


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["BertForMaskedLM"]},
        {"architectures": ["BertForPreTraining"], "id2label": {"0": "LABEL_0"}},
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
        {"model_type": "nomic_bert", "auto_map": {"AutoModel": "nomic-ai/nomic-bert--modeling.NomicBertModel"}},
        {"position_embedding_type": "absolute"},
    ],
)
def test_what_sentence_transformers_embeds_is_no_other_kind(changes: dict[str, Any], write: Write) -> None:
    check_supported(write(plain(**changes)))


def test_a_classifiers_weights_under_a_pooling_are_an_embedder(write: Write) -> None:
    check_supported(write(pipeline(_TRANSFORMER, _POOLING, architectures=["BertForSequenceClassification"])))


def test_a_backend_with_a_graph_of_its_own_needs_no_class(write: Write) -> None:
    folder = write(plain(model_type="marten", quantization_config={"quant_method": "gptq"}))
    check_supported(folder, needs_class=False)
