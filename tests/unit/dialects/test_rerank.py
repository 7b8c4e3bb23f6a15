"""One rerank request and answer for several clients; what would change the scores is read or refused."""

import json
from typing import Any

import numpy as np
import pytest

from provider.dialects.scores import rerank
from provider.domain import Scored, ScoreRequest, Timings, Truncated, Usage
from provider.errors import InvalidRequest, MissingModel

DOCUMENTS = ["a", {"text": "b", "title": "B"}, "c"]


def parse(**fields: Any) -> rerank.RerankCall:
    body = {"model": "m", "query": "q", "documents": DOCUMENTS} | fields
    body = {name: value for name, value in body.items() if value is not ...}
    return rerank.parse(json.dumps(body).encode(), max_inputs=4)


def scored(*scores: float, cut: tuple[Truncated, ...] = ()) -> Scored:
    column = np.array(scores, np.float32)[:, None]
    return Scored(column, ("LABEL_0",), Usage(len(scores), 30), cut, Timings(), "f" * 16)


def write(call: rerank.RerankCall, answer: Scored) -> Any:
    return json.loads(rerank.write(call, answer, model="m", request_id="req_1"))


@pytest.mark.parametrize("fields", [{}, {"texts": ["a"], "documents": None}])
def test_the_end_that_is_cut_off_may_be_told_by_itself(fields: dict[str, Any]) -> None:
    call = parse(truncation_direction="Left", **fields)
    assert [call.cut.resolved(configured) for configured in ("end", "none")] == ["start", "none"]


def test_two_fields_that_cut_different_ends_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="'truncation_direction' \\('Left'\\) contradicts 'truncate'"):
        parse(truncation_direction="Left", truncate="END")


def test_the_documents_are_scored_with_the_query() -> None:
    assert parse().request == ScoreRequest("m", ("a", "b", "c"), ("q",))


@pytest.mark.parametrize(
    ("fields", "attribute", "value"),
    [
        ({"truncate": True}, "truncate", "auto"),
        ({"truncation": True}, "truncate", "auto"),
        ({"truncation": False}, "truncate", "none"),
        ({"truncate_prompt_tokens": -1}, "truncate", "auto"),
        ({"truncate": True, "truncation_direction": "Right"}, "truncate", "auto"),
        ({"truncate": "END", "truncation_direction": "Right"}, "truncate", "end"),
        ({"truncate_prompt_tokens": 64}, "max_tokens", 64),
        ({"max_tokens": 64}, "max_tokens", 64),
        ({"max_tokens": 64}, "truncate", None),
        ({"max_tokens_per_doc": 8}, "max_document_tokens", 8),
        ({"truncate_input_tokens": -1}, "truncate", "auto"),
        ({"long_text_mode": "truncate"}, "truncate", "auto"),
        ({"max_doc_length": 8}, "max_document_tokens", 8),
        ({"instruct": "Find it."}, "instruction", "Find it."),
        ({"raw_scores": True}, "raw", True),
        ({"use_activation": False}, "raw", True),
        ({"use_activation": True}, "raw", False),
        ({"instruction": "Find it."}, "instruction", "Find it."),
        ({"query": {"text": "other"}}, "queries", ("other",)),
        ({"documents": ["", "b"]}, "texts", ("", "b")),
    ],
)
def test_a_field_by_any_name_reaches_the_request(fields: dict[str, Any], attribute: str, value: object) -> None:
    assert getattr(parse(**fields).request, attribute) == value


@pytest.mark.parametrize(
    "fields",
    [
        {"rank_fields": ["text"]},
        {"dtype": "float32", "parameters": {}, "overlap": False},
        {"max_chunks_per_doc": 10},
        {"priority": 1, "user": "u"},
        dict.fromkeys(rerank.FOREIGN),
    ],
)
def test_what_changes_no_score_may_be_sent(fields: dict[str, Any]) -> None:
    assert parse(**fields) == parse()


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"query": ...}, "query", "Missing required parameter"),
        ({"documents": ...}, "documents", "Missing required parameter"),
        ({"query": ""}, "query", "cannot be an empty string"),
        ({"documents": []}, "documents", "at least one"),
        ({"documents": ["a"] * 5}, "documents", "array length must be 4 or less. Got 5"),
        ({"documents": "a"}, "documents", "expected an array"),
        ({"documents": [{"image": "data:"}]}, "documents[0]", "Only text is scored"),
        ({"documents": ["a", {"text": "b", "image": "data:"}]}, "documents[1]", "an object with image"),
        ({"documents": [3]}, "documents[0]", "expected a string, but got an integer"),
        ({"texts": ["a"]}, "texts", "contradicts 'documents'"),
        ({"top_n": -1}, "top_n", "greater than or equal to 0"),
        ({"top_n": 1.5}, "top_n", "expected an integer"),
        ({"top_n": 1, "top_k": 2}, "top_k", "contradicts 'top_n'"),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc", "greater than or equal to 1"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "max_context_length"),
        ({"rank_fields": ["title"]}, "rank_fields", '"text"'),
        ({"raw_scores": True, "use_activation": True}, "use_activation", "contradicts 'raw_scores'"),
        ({"relevant_spans": {"mode": "x"}}, "relevant_spans", "Unsupported parameter"),
        ({"score_threshold": 0.5}, "score_threshold", "choose on your side"),
        ({"activation_fn": "Identity"}, "activation_fn", '"raw_scores": true'),
        ({"prompt_name": "query"}, "prompt_name", '"instruction"'),
        ({"prompt_template": "{query}"}, "prompt_template", '"instruction"'),
        ({"quantization": "int8"}, "quantization", "float32"),
        ({"long_text_mode": "mean"}, "long_text_mode", "split it on your side"),
        ({"parameters": {"top_n": 3}}, "parameters", "top_n"),
        ({"overlap_tokens": 80}, "overlap_tokens", "split it on your side"),
        ({"cutoff_layers": [28]}, "cutoff_layers", "layers"),
        ({"return_embeddings": True}, "return_embeddings", "/v1/embeddings"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_way_out(fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as raised:
        parse(**fields)
    assert raised.value.param == param


def test_a_model_must_be_named_unless_one_is_chosen_by_the_configuration() -> None:
    body = json.dumps({"query": "q", "documents": ["a"]}).encode()
    with pytest.raises(MissingModel):
        rerank.parse(body, max_inputs=4)
    assert rerank.parse(body, max_inputs=4, needs_model=False).request.model == ""


def test_results_are_sorted_and_equal_scores_keep_their_order() -> None:
    answer = write(parse(), scored(0.25, 0.5, 0.5))
    assert answer["results"] == answer["data"]
    assert [(each["index"], each["relevance_score"]) for each in answer["results"]] == [(1, 0.5), (2, 0.5), (0, 0.25)]
    assert answer["id"] == "req_1"
    assert answer["object"] == "list"
    assert answer["model"] == "m"
    assert answer["usage"] == {"prompt_tokens": 30, "total_tokens": 30}
    assert answer["meta"]["billed_units"] == {"search_units": 1}
    assert "truncated" not in answer
    assert "document" not in answer["results"][0]


@pytest.mark.parametrize("name", ["top_n", "top_k"])
def test_only_so_many_results_are_answered(name: str) -> None:
    assert [each["index"] for each in write(parse(**{name: 2}), scored(0.1, 0.3, 0.2))["results"]] == [1, 2]
    assert len(write(parse(**{name: 9}), scored(0.1, 0.3, 0.2))["results"]) == 3
    assert len(write(parse(**{name: 0}), scored(0.1, 0.3, 0.2))["results"]) == 3


@pytest.mark.parametrize("name", ["return_documents", "return_text", "return_input"])
def test_documents_come_back_as_they_were_sent(name: str) -> None:
    results = write(parse(**{name: True}), scored(0.1, 0.3, 0.2))["results"]
    assert [each["document"] for each in results] == [{"text": "b", "title": "B"}, {"text": "c"}, {"text": "a"}]


def test_infinitys_documents_are_strings() -> None:
    call, answer = parse(return_documents=True), scored(0.1, 0.3, 0.2)
    written = json.loads(rerank.write(call, answer, model="m", request_id="req_1", is_infinity=True))
    assert [each["document"] for each in written["results"]] == ["b", "c", "a"]
    plain = json.loads(rerank.write(parse(), answer, model="m", request_id="req_1", is_infinity=True))
    assert all("document" not in each for each in plain["results"])


def test_documents_that_were_cut_are_listed() -> None:
    answer = write(parse(truncate=True), scored(0.1, 0.3, 0.2, cut=(Truncated(1, 16, 40),)))
    assert answer["truncated"] == [{"index": 1, "kept_tokens": 16, "original_tokens": 40}]
    assert answer["meta"]["warnings"] == ["1 of 3 documents were cut: see `truncated`."]


def test_a_body_with_texts_is_answered_as_tei_does() -> None:
    call = parse(documents=..., texts=["a", "b"], return_text=True)
    assert write(call, scored(0.25, 0.5)) == [
        {"index": 1, "score": 0.5, "text": "b"},
        {"index": 0, "score": 0.25, "text": "a"},
    ]
    assert write(parse(documents=..., texts=["a"]), scored(0.25)) == [{"index": 0, "score": 0.25}]


@pytest.mark.parametrize("name", rerank.FOREIGN)
def test_no_value_of_a_foreign_field_is_ignored(name: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(**{name: {"x": 1}})
    assert raised.value.param == name


def test_no_foreign_field_has_one_of_our_names() -> None:
    assert not set(rerank.FOREIGN) & set(rerank.RerankFields.__struct_fields__)
