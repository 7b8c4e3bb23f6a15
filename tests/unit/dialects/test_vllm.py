"""vLLM's score and classify: pairs in the order of the request, and the probability of each label."""

import json
from typing import Any

import numpy as np
import pytest

from provider.dialects.scores import vllm
from provider.domain import Scored, ScoreRequest, Timings, Truncated, Usage
from provider.errors import InvalidRequest


def score(**fields: Any) -> ScoreRequest:
    return vllm.parse_score(json.dumps({"model": "m", **fields}).encode(), max_inputs=4)


def classify(given: Any, **fields: Any) -> ScoreRequest:
    return vllm.parse_classify(json.dumps({"model": "m", "input": given, **fields}).encode(), max_inputs=4)


@pytest.mark.parametrize(
    ("fields", "queries", "texts"),
    [
        ({"text_1": "q", "text_2": "a"}, ("q",), ("a",)),
        ({"text_1": "q", "text_2": ["a", "b"]}, ("q",), ("a", "b")),
        ({"text_1": ["q", "r"], "text_2": ["a", "b"]}, ("q", "r"), ("a", "b")),
        ({"queries": "q", "documents": ["a", {"text": "b"}]}, ("q",), ("a", "b")),
        ({"data_1": ["q"], "data_2": ["a", "b"]}, ("q",), ("a", "b")),
        ({"query": "q", "items": ["a"]}, ("q",), ("a",)),
    ],
)
def test_one_text_with_many_or_as_many_with_as_many(
    fields: dict[str, Any], queries: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    assert score(**fields) == ScoreRequest("m", texts, queries)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"text_2": "a"}, "text_1", "Missing"),
        ({"text_1": "a"}, "text_2", "Missing"),
        ({"text_1": ["q", "r"], "text_2": ["a", "b", "c"]}, "text_1", "2 texts do not pair with the 3"),
        ({"text_1": ["q", "r"], "text_2": "a"}, "text_1", "do not pair"),
        ({"text_1": ["q", ""], "text_2": ["a", "b"]}, "text_1[1]", "empty"),
        ({"text_1": "q", "text_2": ["a"] * 5}, "text_2", "4 or less"),
        ({"text_1": "q", "queries": "r", "text_2": "a"}, "queries", "contradicts 'text_1'"),
    ],
)
def test_texts_that_are_no_pairs_are_refused(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as raised:
        score(**fields)
    assert raised.value.param == param


def test_texts_and_pairs_are_classified() -> None:
    assert classify("a") == ScoreRequest("m", ("a",))
    assert classify(["a", {"text": "b"}]) == ScoreRequest("m", ("a", "b"))
    assert classify([["a", "b"], ["c", "d"]], raw_scores=True) == ScoreRequest("m", ("b", "d"), ("a", "c"), raw=True)
    assert classify("a", use_activation=False).raw


@pytest.mark.parametrize(
    ("given", "param"),
    [([], "input"), ("", "input[0]"), (["a", ["b", "c"]], "input[0]"), ([["a", "b"], ["c"]], "input[1]")],
)
def test_an_input_of_another_form_is_named(given: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        classify(given)
    assert raised.value.param == param


def scored(scores: list[list[float]], labels: tuple[str, ...]) -> Scored:
    return Scored(
        np.array(scores, np.float32), labels, Usage(len(scores), 7), (Truncated(0, 3, 9),), Timings(), "f" * 16
    )


def test_scores_come_in_the_order_of_the_request() -> None:
    answer = json.loads(vllm.write_scores(scored([[0.25], [0.5]], ("LABEL_0",)), model="m", request_id="1"))
    assert answer["data"] == [
        {"index": 0, "object": "score", "score": 0.25},
        {"index": 1, "object": "score", "score": 0.5},
    ]
    assert (answer["id"], answer["object"], answer["model"]) == ("score-1", "list", "m")
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert answer["truncated"] == [{"index": 0, "kept_tokens": 3, "original_tokens": 9}]


def test_the_best_label_is_named_and_all_have_a_probability() -> None:
    answer = json.loads(vllm.write_classes(scored([[0.25, 0.75]], ("bad", "good")), model="m", request_id="1"))
    assert answer["data"] == [{"index": 0, "label": "good", "probs": [0.25, 0.75], "num_classes": 2}]
    assert answer["id"] == "classify-1"


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"top_n": 1}, "top_n", "POST /v1/rerank"),
        ({"return_documents": True}, "return_documents", "POST /v1/rerank"),
        ({"truncate_input_tokens": 0}, "truncate_input_tokens", "max_context_length"),
        ({"parameters": {"raw_scores": True}}, "parameters", "raw_scores"),
    ],
)
def test_fields_that_would_change_the_scores_of_pairs_are_refused(
    fields: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says) as raised:
        score(text_1="q", text_2="a", **fields)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "name", ["labels", "candidate_labels", "top_k", "function_to_apply", "threshold", "extra_body"]
)
def test_fields_that_would_change_the_labels_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        classify("a", **{name: "x"})
    assert (raised.value.param, raised.value.code) == (name, "unsupported_parameter")


def test_no_foreign_field_has_one_of_our_names() -> None:
    assert not set(vllm.SCORE_FOREIGN) & set(vllm.ScoreFields.__struct_fields__)
    assert not set(vllm.CLASSIFY_FOREIGN) & set(vllm.ClassifyFields.__struct_fields__)
