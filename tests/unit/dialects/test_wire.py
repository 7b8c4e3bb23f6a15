"""OpenAI's JSON, read strictly and written exactly."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from provider.dialects.openai import wire
from provider.domain import Embedded, EmbedRequest, SparseVector, Timings, Truncated, Usage
from provider.errors import InvalidRequest, MalformedJSON, MissingModel
from provider.tasks.quantisation import CALIBRATED, ElementType, Ranges, quantise


def parse(body: Any, **fields: Any) -> wire.Parsed:
    body = {"model": "m", "input": body, **fields} if not isinstance(body, bytes) else body
    return wire.parse(body if isinstance(body, bytes) else json.dumps(body).encode(), max_inputs=4)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(inputs=st.lists(texts, min_size=1, max_size=4))
def test_texts_arrive_as_they_were_sent(inputs: list[str]) -> None:
    assert parse(inputs).request.inputs == tuple(inputs)
    assert parse(inputs[0]).request.inputs == (inputs[0],)


@given(value=json_values)
def test_any_json_in_input_is_either_read_or_refused_as_a_bad_request(value: Any) -> None:
    refused = None
    try:
        assert 1 <= len(parse(value).request.inputs) <= 4
    except InvalidRequest as exc:
        refused = exc
    assert refused is None or str(refused.param).startswith("input")


@given(body=st.binary(max_size=60))
def test_any_bytes_are_either_read_or_refused_as_a_bad_request(body: bytes) -> None:
    with pytest.raises((InvalidRequest, MalformedJSON, MissingModel)):
        parse(body)


def test_a_flat_array_of_integers_is_one_input_of_token_ids() -> None:
    (ids,) = parse([1, 2, 3, 4, 5, 6]).request.inputs
    np.testing.assert_array_equal(ids, [1, 2, 3, 4, 5, 6])


def test_nested_arrays_are_several_inputs_of_token_ids() -> None:
    first, second = parse([[1, 2], [3]]).request.inputs
    np.testing.assert_array_equal(first, [1, 2])
    np.testing.assert_array_equal(second, [3])


@pytest.mark.parametrize(
    ("body", "param", "code", "says"),
    [
        (None, "input", "missing_required_parameter", "Missing required parameter: 'input'."),
        ("", "input", "invalid_value", "cannot be an empty string"),
        (["a", ""], "input[1]", "invalid_value", "cannot be an empty string"),
        ([], "input", "invalid_value", "at least one string"),
        ([[]], "input[0]", "invalid_value", "is empty"),
        (["a", 1], "input", "invalid_type", "mixed"),
        ([[1], "a"], "input", "invalid_type", "mixed"),
        (["a"] * 5, "input", "array_above_max_length", "array length must be 4 or less. Got 5"),
        ([[1, -1]], "input[0]", "invalid_value", "from 0 to"),
        (3, "input", "invalid_type", "expected a string or an array, but got an integer instead"),
        ([True], "input[0]", "invalid_type", "but got a boolean"),
        ([1.5], "input[0]", "invalid_type", "but got a number"),
        ({"a": 1}, "input", "invalid_type", "but got an object"),
        ([["a"]], "input[0][0]", "invalid_type", "expected an integer, but got a string"),
    ],
)
def test_an_input_of_another_form_is_named_with_what_is_allowed(body: Any, param: str, code: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(body)
    assert (raised.value.param, raised.value.code) == (param, code)
    assert says in raised.value.message


@pytest.mark.parametrize(
    ("fields", "param", "code", "says"),
    [
        ({"encoding_format": "string"}, "encoding_format", None, "Supported values: ['float', 'base64']."),
        ({"dimensions": "3"}, "dimensions", "invalid_type", "expected an integer, but got a string"),
        ({"dimensions": 2.5}, "dimensions", "invalid_type", "but got a number"),
        ({"truncate": "MIDDLE"}, "truncate", "invalid_value", "'NONE', 'START' and 'END'"),
        ({"truncate": 1}, "truncate", "invalid_type", "expected a boolean or a string"),
        ({"dimensions": True}, "dimensions", "invalid_type", "but got a boolean"),
        ({"dimensions": 1e300}, "dimensions", "invalid_value", "too large"),
        ({"encoding_format": "bytes"}, "encoding_format", None, "= bytes. Supported values"),
        ({"prompt": 3}, "prompt", "invalid_type", "expected a string"),
    ],
)
def test_a_field_of_another_type_is_refused_not_converted(
    fields: dict[str, Any], param: str, code: str | None, says: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse("a", **fields)
    assert (raised.value.param, raised.value.code) == (param, code)
    assert says in raised.value.message


def test_every_optional_field_may_be_null_and_unknown_ones_are_ignored() -> None:
    names = ("encoding_format", "dimensions", "truncate", "input_type", "prompt_name", "prompt", "normalize", "user")
    for more in ({}, {"some_field_of_some_client": {"x": 1}, "priority": 3, "request_id": "r", "cache_salt": "s"}):
        assert parse("a", **dict.fromkeys(names), **more) == parse("a")


def test_an_empty_choice_is_no_choice() -> None:
    names = ("encoding_format", "truncate", "input_type", "prompt_name", "task", "output_dtype", "embedding_type")
    assert parse("a", **dict.fromkeys(names, "")) == parse("a")


@pytest.mark.parametrize(("given", "means"), [("BASE64", "base64"), ("Float", "float"), (None, "float")])
def test_the_encoding_format_is_read_in_any_case(given: str | None, means: str) -> None:
    assert parse("a", encoding_format=given).encoding_format == means


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert parse("a", dimensions=128.0) == parse("a", dimensions=128)


@pytest.mark.parametrize(
    ("given", "means"),
    [(True, "auto"), (False, "none"), ("NONE", "none"), ("START", "start"), ("END", "end"), (None, None)],
)
def test_truncation_is_asked_for_in_either_dialect(given: Any, means: str | None) -> None:
    assert parse("a", truncate=given).request.truncate == means


def test_texts_may_stand_in_objects() -> None:
    items = [{"text": "a"}, "b", {"text": "c", "image": None}, {"type": "text", "text": "d", "id": 7}]
    assert parse(items).request.inputs == ("a", "b", "c", "d")
    assert parse({"text": "a", "image": ""}).request.inputs == ("a",)


@pytest.mark.parametrize(
    "item", [{"image": "x"}, {"text": "a", "image": "x"}, {}, {"text": 3}, {"type": "image_url", "text": "a"}]
)
def test_an_object_that_is_not_a_text_alone_is_refused_by_its_place(item: Any) -> None:
    with pytest.raises(InvalidRequest, match="only text is embedded") as raised:
        parse(["a", item])
    assert (raised.value.param, raised.value.code) == ("input[1]", "invalid_type")


def test_an_empty_text_in_an_object_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidRequest, match="cannot be an empty string") as raised:
        parse(["a", {"text": ""}])
    assert raised.value.param == "input[1]"


def test_a_body_without_a_model_is_refused() -> None:
    with pytest.raises(MissingModel, match="you must provide a model parameter"):
        parse(b'{"input": "a"}')


def asked(encoding_format: wire.EncodingFormat = "float", **how: Any) -> wire.Parsed:
    return wire.Parsed(EmbedRequest("m", ("a",)), encoding_format, **how)


def embedded(vectors: np.ndarray[Any, Any], *truncated: Truncated) -> Embedded:
    return Embedded({"dense": vectors}, Usage(len(vectors), 7), truncated, Timings(), "0123456789abcdef")


def test_base64_is_little_endian_float32_as_openais_clients_decode_it() -> None:
    vectors = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
    body = json.loads(wire.write(embedded(vectors), asked("base64"), model="m"))
    assert [each["embedding"] for each in body["data"]] == ["zczMPc3MTD4=", "mpmZPs3MzD4="]


floats = hnp.arrays(np.float32, (2, 5), elements=st.floats(-1, 1, width=32))


@given(vectors=floats)
def test_both_formats_bring_back_the_very_same_float32(vectors: np.ndarray[Any, Any]) -> None:
    as_float = json.loads(wire.write(embedded(vectors), asked("float"), model="m"))
    as_base64 = json.loads(wire.write(embedded(vectors), asked("base64"), model="m"))
    for i, row in enumerate(vectors):
        np.testing.assert_array_equal(np.array(as_float["data"][i]["embedding"], np.float32), row)
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(as_base64["data"][i]["embedding"]), "<f4"), row)


def test_a_float_is_printed_as_the_shortest_decimal_of_its_float32() -> None:
    body = wire.write(embedded(np.array([[0.1, 1 / 3]], np.float32)), asked("float"), model="m")
    assert b"[0.1,0.33333334]" in body


def test_the_answer_has_openais_keys_and_echoes_the_model() -> None:
    body = json.loads(wire.write(embedded(np.ones((2, 2), np.float32)), asked("float"), model="alias"))
    assert body == {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": [1.0, 1.0]} for i in (0, 1)],
        "model": "alias",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_inputs_that_were_cut_are_listed() -> None:
    body = wire.write(embedded(np.ones((2, 2), np.float32), Truncated(1, 256, 300)), asked("float"), model="m")
    assert json.loads(body)["truncated"] == [{"index": 1, "kept_tokens": 256, "original_tokens": 300}]


def test_every_output_that_was_asked_for_stands_beside_the_others() -> None:
    sparse = SparseVector(np.array([3, 7], np.int32), np.array([0.5, 1.5], np.float32))
    tokens = np.array([[1, 0], [0, 1]], np.float32)
    outputs = {"dense": np.array([[1, 0]], np.float32), "sparse": (sparse,), "multi_vector": (tokens,), "length": [4]}
    answer = Embedded(outputs, Usage(1, 7), (), Timings(), "0123456789abcdef")
    (entry,) = json.loads(wire.write(answer, asked(), model="m"))["data"]
    assert entry == {
        "object": "embedding",
        "index": 0,
        "embedding": [1, 0],
        "sparse": {"indices": [3, 7], "values": [0.5, 1.5]},
        "multi_vector": [[1, 0], [0, 1]],
        "length": 4,
    }
    (entry,) = json.loads(wire.write(answer, asked("base64"), model="m"))["data"]
    rows = [np.frombuffer(base64.b64decode(each), "<f4") for each in entry["multi_vector"]]
    np.testing.assert_array_equal(rows, tokens)
    assert entry["sparse"] == {"indices": [3, 7], "values": [0.5, 1.5]}


def test_an_output_that_was_not_asked_for_is_not_there() -> None:
    sparse = SparseVector(np.array([3], np.int32), np.array([0.5], np.float32))
    answer = Embedded({"sparse": (sparse,)}, Usage(1, 7), (), Timings(), "0123456789abcdef")
    assert set(json.loads(wire.write(answer, asked(), model="m"))["data"][0]) == {"object", "index", "sparse"}


RANGES = Ranges.given(np.array([[-1] * 9, [1] * 9], np.float32), source="a test")


@pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
def test_quantised_vectors_are_integers_in_both_formats_and_their_ranges_are_named(kind: ElementType) -> None:
    vectors = np.random.default_rng(0).uniform(-1, 1, (2, 9)).astype(np.float32)
    expected = quantise(vectors, kind, RANGES)
    ranges = {"dense": RANGES} if kind in CALIBRATED else None
    as_float, as_base64 = (
        json.loads(wire.write(embedded(vectors), asked(how, element_type=kind), model="m", ranges=ranges))
        for how in ("float", "base64")
    )
    assert [each["embedding"] for each in as_float["data"]] == expected.tolist()
    packed = [np.frombuffer(base64.b64decode(each["embedding"]), expected.dtype) for each in as_base64["data"]]
    np.testing.assert_array_equal(packed, expected)
    named = {"ranges": {"dense": {"name": RANGES.name, "source": "a test"}}} if ranges else {}
    assert as_float["quantization"] == {"output_dtype": kind} | named


def test_token_vectors_are_quantised_and_sparse_vectors_are_not() -> None:
    sparse = SparseVector(np.array([3], np.int32), np.array([0.5], np.float32))
    outputs = {"sparse": (sparse,), "multi_vector": (np.array([[1, -1], [-1, 1]], np.float32),)}
    answer = Embedded(outputs, Usage(1, 7), (), Timings(), "0123456789abcdef")
    (entry,) = json.loads(wire.write(answer, asked(element_type="ubinary"), model="m"))["data"]
    assert (entry["multi_vector"], entry["sparse"]["values"]) == ([[128], [64]], [0.5])
