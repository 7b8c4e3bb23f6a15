"""Fields of other APIs are read as ours or refused; what is listed is never ignored."""

import json
from typing import Any

import pytest

from provider.dialects.openai import wire
from provider.dialects.openai.fields import FOREIGN, OwnFields
from provider.domain import EmbedRequest
from provider.errors import InvalidRequest


def parse(**fields: Any) -> wire.Parsed:
    return wire.parse(json.dumps({"model": "m", "input": "a", **fields}).encode(), max_inputs=4)


@pytest.mark.parametrize(
    ("fields", "attribute", "value"),
    [
        ({"output_dimension": 64}, "dimensions", 64),
        ({"output_dimension": 64.0, "dimensions": 64}, "dimensions", 64),
        ({"output_dimensionality": 64}, "dimensions", 64),
        ({"truncate_dim": 64}, "dimensions", 64),
        ({"dimensionality": 64}, "dimensions", 64),
        ({"dimension": 64}, "dimensions", 64),
        ({"matryoshka_dim": 64, "outputDimensionality": 64}, "dimensions", 64),
        ({"truncate_input_tokens": -1}, "truncate", "auto"),
        ({"truncate_inputs": True}, "truncate", "auto"),
        ({"autoTruncate": False}, "truncate", "none"),
        ({"long_text_mode": "truncate"}, "truncate", "auto"),
        ({"overflow_strategy": "drop_end"}, "truncate", "end"),
        ({"text_type": "query"}, "input_type", "query"),
        ({"is_query": True, "input_type": "search_query"}, "input_type", "search_query"),
        ({"is_query": False}, "input_type", "document"),
        ({"taskType": "RETRIEVAL_QUERY"}, "input_type", "RETRIEVAL_QUERY"),
        ({"truncation_strategy": "start"}, "truncate", "start"),
        ({"truncation": True}, "truncate", "auto"),
        ({"truncation": False}, "truncate", "none"),
        ({"truncation": True, "truncate": "END"}, "truncate", "end"),
        ({"truncate_prompt_tokens": -1}, "truncate", "auto"),
        ({"truncate_prompt_tokens": -1}, "max_tokens", None),
        ({"truncate_prompt_tokens": 128}, "truncate", "auto"),
        ({"truncate_prompt_tokens": 128}, "max_tokens", 128),
        ({"truncate_input_tokens": 128.0, "max_tokens": 128}, "max_tokens", 128),
        ({"truncate_prompt_tokens": 128, "truncation_side": "left"}, "truncate", "start"),
        ({"truncate_prompt_tokens": 128, "truncate": "START"}, "truncate", "start"),
        ({"max_tokens": 100}, "max_tokens", 100),
        ({"max_tokens": 100}, "truncate", None),
        ({"max_tokens": 100, "truncation": False}, "truncate", "none"),
        ({"max_tokens": 100, "truncation_side": "right"}, "truncate", "end"),
        ({"max_length": 100}, "max_tokens", 100),
        ({"max_seq_length": 100, "max_length": 100}, "max_tokens", 100),
        ({"truncation": True, "truncation_strategy": "start"}, "truncate", "start"),
        ({"truncate_prompt_tokens": -1, "truncation_side": "left"}, "truncate", "start"),
        ({"truncation_side": "left", "truncation": True}, "truncate", "start"),
        ({"truncate": True, "truncation_direction": "Right"}, "truncate", "end"),
        ({"truncate": "START", "truncation_direction": "left"}, "truncate", "start"),
        ({"truncate": False, "truncation_side": "left"}, "truncate", "none"),
        ({"task": "retrieval.query"}, "input_type", "retrieval.query"),
        ({"task": "retrieval.query", "input_type": "query"}, "input_type", "query"),
        ({"task_type": "RETRIEVAL_DOCUMENT"}, "input_type", "RETRIEVAL_DOCUMENT"),
        ({"prefix": "query: "}, "prompt", "query: "),
        ({"normalize": False}, "normalize", False),
        ({"normalized": False}, "normalize", False),
        ({"normalized": True, "normalize": True}, "normalize", True),
        ({"normalize_embeddings": False}, "normalize", False),
        ({"use_activation": False}, "normalize", False),
    ],
)
def test_another_name_means_the_same(fields: dict[str, Any], attribute: str, value: object) -> None:
    assert getattr(parse(**fields).request, attribute) == value


@pytest.mark.parametrize(
    ("fields", "encoding_format"),
    [
        ({"embedding_type": "float"}, "float"),
        ({"embedding_type": ["float"]}, "float"),
        ({"embedding_types": ["float"]}, "float"),
        ({"embedding_type": "base64"}, "base64"),
        ({"embedding_type": ["base64"], "encoding_format": "base64"}, "base64"),
        # openai-python asks for base64 by itself; `float` is the numbers' type then.
        ({"embedding_type": "float", "encoding_format": "base64"}, "base64"),
    ],
)
def test_the_type_of_the_elements_may_say_how_they_are_written(fields: dict[str, Any], encoding_format: str) -> None:
    assert parse(**fields).encoding_format == encoding_format


@pytest.mark.parametrize(
    ("fields", "outputs"),
    [
        ({"output_types": "sparse"}, ("sparse",)),
        ({"output_types": ["sparse", "dense", "sparse"]}, ("sparse", "dense")),
        ({"output_types": ["dense", "multivector"]}, ("dense", "multi_vector")),
        ({"output_types": ["DENSE", "a_plugin_s"]}, ("dense", "a_plugin_s")),
        ({"return_sparse": True}, ("dense", "sparse")),
        ({"return_dense": False, "return_sparse": True}, ("sparse",)),
        ({"output_type": "dense&sparse"}, ("dense", "sparse")),
        ({"output_type": "sparse", "output_types": ["sparse"]}, ("sparse",)),
        ({"return_sparse": True, "return_colbert_vecs": True}, ("dense", "sparse", "multi_vector")),
        ({"return_multivector": True, "return_dense": False}, ("multi_vector",)),
        ({"output_types": ["sparse"], "return_sparse": True, "return_dense": False}, ("sparse",)),
    ],
)
def test_outputs_are_asked_for_by_name_or_by_a_switch_each(fields: dict[str, Any], outputs: tuple[str, ...]) -> None:
    assert parse(**fields).request.outputs == outputs


@pytest.mark.parametrize(
    "name", ["output_dtype", "embedding_type", "embeddingTypes", "embed_dtype", "precision", "dtype", "quantization"]
)
@pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
def test_the_type_of_the_elements_may_be_a_smaller_one(name: str, kind: str) -> None:
    assert parse(**{name: kind}).element_type == kind
    assert parse(**{name: kind.upper()}, encoding_format="base64").element_type == kind


@pytest.mark.parametrize(
    "fields",
    [
        {"output_dtype": "float"},
        {"output_dtype": "float", "precision": "float32"},
        {"output_dtype": "FLOAT32"},
        {"embed_dtype": "float32"},
        {"dtype": "float32", "quantization": "none"},
        {"output_value": "sentence_embedding"},
        {"options": {"num_ctx": None}, "parameters": {}},
        {"chunking": False},
        {"precision": "float32"},
        {"endianness": "little"},
        {"endianness": "native"},
        {"output_types": ["dense"]},
        {"return_dense": True, "return_sparse": False, "return_multivector": False},
        {"late_chunking": False},
        {"add_special_tokens": True},
        {"modality": "text"},
        {"modality": ["text"]},
        {"messages": []},
        {"embd_normalize": 2},
        dict.fromkeys(FOREIGN),
    ],
)
def test_what_the_server_does_anyway_may_be_asked_for(fields: dict[str, Any]) -> None:
    assert parse(**fields).request == EmbedRequest("m", ("a",))


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"output_dtype": "float16"}, "output_dtype", "'float', 'int8', 'uint8', 'binary' and 'ubinary'"),
        ({"embedding_type": "bits"}, "embedding_type", "'bits'"),
        ({"embedding_type": ["float", "int8"]}, "embedding_type", "Send one of them"),
        ({"embedding_types": ["float", "base64"]}, "embedding_types", "Send one of them"),
        ({"embed_dtype": "float16"}, "embed_dtype", "'float16'"),
        ({"dtype": "float16"}, "dtype", "'float16'"),
        ({"quantization": "int4"}, "quantization", "'int4'"),
        ({"long_text_mode": "mean"}, "long_text_mode", "split it on your side"),
        ({"overflow_strategy": "drop_start"}, "overflow_strategy", "'drop_end'"),
        ({"truncate_input_tokens": -2}, "truncate_input_tokens", "max_context_length"),
        ({"long_text_mode": "truncate", "truncate": False}, "long_text_mode", "contradicts 'truncate'"),
        ({"is_query": True, "input_type": "document"}, "is_query", "contradicts 'input_type'"),
        ({"output_type": "sparse", "output_types": ["dense"]}, "output_type", "contradicts 'output_types'"),
        ({"output_value": "token_embeddings"}, "output_value", '"multi_vector"'),
        ({"parameters": {"truncate_input_tokens": 8}}, "parameters", r"\(truncate_input_tokens\) into the body itself"),
        ({"extra_body": {"input_type": "query"}}, "extra_body", "into the body itself, beside the model"),
        ({"options": {"normalize": False}}, "options", "normalize"),
        ({"params": "x"}, "params", "into the body itself"),
        ({"chunk_size": 512}, "chunk_size", "split it on your side"),
        ({"lora_path": "x"}, "lora_path", "merged model"),
        ({"title": "Cats"}, "title", "Put it into the text"),
        ({"instruct": "Find it"}, "instruct", '"prompt"'),
        ({"query_template": "{text}"}, "query_template", '"prompt"'),
        ({"return_logits": True}, "return_logits", "/v1/classify"),
        ({"max_active_dims": 64}, "max_active_dims", "largest weights"),
        ({"image": "data:"}, "image", "Only text"),
        ({"content": "a"}, "content", "`input` only"),
        ({"precision": "int4"}, "precision", "'int4'"),
        ({"precision": "int8", "output_dtype": "uint8"}, "precision", "contradicts 'output_dtype'"),
        ({"endianness": "big"}, "endianness", "little-endian"),
        ({"output_types": ["dense", "scores"]}, "output_types", "POST /v1/rerank"),
        ({"output_types": "sparse", "return_dense": True}, "return_dense", "contradicts 'output_types'"),
        ({"return_dense": False}, "return_dense", "Nothing is left"),
        ({"output_types": ["sparse"], "output_dtype": "int8"}, "output_dtype", "float numbers only"),
        ({"late_chunking": True}, "late_chunking", "Every input is embedded by itself"),
        ({"add_special_tokens": False}, "add_special_tokens", "needs its special tokens"),
        ({"truncate_prompt_tokens": -128}, "truncate_prompt_tokens", "max_context_length"),
        ({"truncate_prompt_tokens": 12.5}, "truncate_prompt_tokens", "expected an integer"),
        ({"truncate_prompt_tokens": 8, "max_tokens": 9}, "truncate_prompt_tokens", r"contradicts 'max_tokens' \(9\)"),
        ({"truncate_prompt_tokens": 8, "truncate": False}, "truncate_prompt_tokens", "contradicts 'truncate'"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "max_context_length"),
        ({"truncation_side": "left"}, "truncation_side", '"truncate": true'),
        ({"truncate": True, "truncation_side": "middle"}, "truncation_side", "'left' and 'right'"),
        ({"truncation": "LEFT"}, "truncate", "'NONE', 'START' and 'END'"),
        ({"modality": "image"}, "modality", "Only text"),
        ({"pooling": "cls"}, "pooling", "Unsupported parameter"),
        ({"instruction": "Find it"}, "instruction", '"prompt"'),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": "8"}, "max_tokens", "expected an integer"),
        ({"max_length": 100, "max_tokens": 99}, "max_length", "contradicts 'max_tokens'"),
        ({"max_query_length": 100}, "max_query_length", '"truncate": true'),
        ({"truncation_strategy": "start", "truncate": "END"}, "truncation_strategy", "contradicts 'truncate'"),
        ({"prompt_template": "{text}"}, "prompt_template", '"prompt"'),
        ({"embd_normalize": -1}, "embd_normalize", '"normalize": false'),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages", "`input` only"),
        ({"inputs": ["a"]}, "inputs", "`input` only"),
        ({"texts": ["a"]}, "texts", "`input` only"),
        ({"images": ["data:"]}, "images", "Only text"),
        ({"dimensions": 128, "output_dimension": 256}, "output_dimension", r"\(256\) contradicts 'dimensions' \(128\)"),
        ({"output_dimension": 9, "truncate_dim": 8}, "truncate_dim", r"contradicts 'output_dimension' \(9\)"),
        ({"truncation": True, "truncate": "NONE"}, "truncation", "contradicts 'truncate'"),
        ({"truncate": "END", "truncation_side": "left"}, "truncation_side", "contradicts 'truncate'"),
        ({"task": "retrieval.query", "input_type": "document"}, "task", "contradicts 'input_type'"),
        ({"prefix": "a", "prompt": "b"}, "prefix", "contradicts 'prompt'"),
        ({"normalize": True, "normalized": False}, "normalized", r"\(false\) contradicts 'normalize' \(true\)"),
        ({"embedding_type": "base64", "encoding_format": "float"}, "embedding_type", "contradicts 'encoding_format'"),
        ({"output_dimension": "64"}, "output_dimension", "expected an integer, but got a string"),
        ({"late_chunking": "yes"}, "late_chunking", "expected a boolean, but got a string"),
        ({"normalized": 0}, "normalized", "expected a boolean, but got an integer"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_way_out(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as raised:
        parse(**fields)
    assert raised.value.param == param


@pytest.mark.parametrize("name", FOREIGN)
def test_no_value_of_a_foreign_field_is_ignored(name: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(**{name: {"x": 1}})
    assert raised.value.param == name


def test_no_foreign_field_has_one_of_our_names() -> None:
    assert not set(FOREIGN) & set(OwnFields.__struct_fields__)
