"""What errors say to clients, by the names that a dialect has for our fields."""

import pytest

from provider import errors
from provider.dialects.phrases import FieldNames, phrase
from provider.dialects.scores import rerank, vllm
from provider.domain import DENSE, MULTI_VECTOR, SCORES, SPARSE

OPENAI = FieldNames()
LONG = errors.InputTooLong(3, tokens=70, limit=64)


def test_an_input_that_is_too_long_has_the_words_by_which_clients_know_it() -> None:
    said = phrase(LONG, OPENAI)
    assert said.param == "input[3]"
    assert "maximum input length is 64 tokens" in said.message
    assert "maximum context length is 64 tokens, however input 3 has 70 tokens" in said.message
    counted = errors.InputTooLong(0, tokens=129, limit=64, is_counted=False)
    assert "has more than 129 tokens" in phrase(counted, OPENAI).message


@pytest.mark.parametrize(
    ("names", "text", "one_query", "query"),
    [
        (rerank.NAMES, "documents[1]", "query", "query[1]"),
        (rerank.TEI_NAMES, "texts[1]", "query", "query[1]"),
        (vllm.SCORE_NAMES, "text_2[1]", "text_1", "text_1[1]"),
        (vllm.CLASSIFY_NAMES, "input[1]", "input", "input[1][0]"),
    ],
)
def test_texts_and_queries_have_the_names_of_the_request(
    names: FieldNames, text: str, one_query: str, query: str
) -> None:
    bad = errors.InvalidInput(1, "it is odd.")
    for exc, field in ((bad, text), (bad.of_query(None), one_query), (bad.of_query(1), query)):
        said = phrase(exc, names)
        assert (said.param, said.message) == (field, f"Invalid '{field}': it is odd.")
    too_long = phrase(errors.InputTooLong(1, tokens=9, limit=8, is_pair=True), names)
    assert too_long.param == text
    assert "together with what it is paired with" in too_long.message
    assert phrase(errors.NonFiniteVector("it broke.", index=1), names).message == f"{text}: it broke."


@pytest.mark.parametrize(
    ("option", "field"),
    [("max_document_tokens", "max_tokens_per_doc"), ("texts", "documents"), ("queries", "query"), ("raw", "raw")],
)
def test_options_have_the_names_of_the_request(option: str, field: str) -> None:
    said = phrase(errors.InvalidOption(option=option, reason="no."), rerank.NAMES)
    assert (said.param, said.message) == (field, f"Invalid '{field}': no.")


@pytest.mark.parametrize(
    ("dimensions", "output", "least", "most", "says"),
    [
        (9, DENSE, 1, 8, "Must be less than or equal to 8: this model's vectors have 8 dimensions."),
        (0, DENSE, 1, 8, "Must be greater than or equal to 1"),
        (9, SPARSE, 8, 8, "sparse vectors are not cut; leave it out, or ask for other outputs."),
        (9, MULTI_VECTOR, 8, 8, "token vectors have 8."),
        (9, SCORES, 0, 0, "scores have none."),
        (9, "of a plugin", 2, 3, "this model's of a plugin output has 2 to 3."),
    ],
)
def test_dimensions_are_told_by_output(dimensions: int, output: str, least: int, most: int, says: str) -> None:
    said = phrase(errors.InvalidDimensions(dimensions, output=output, least=least, most=most), OPENAI)
    assert said.param == "dimensions"
    assert says in said.message


def test_a_model_that_is_unknown_is_told_with_the_way_to_add_it() -> None:
    said = phrase(errors.ModelNotFound("text-embedding-ada-002", known=["large"]), OPENAI)
    assert said.param == "model"
    assert said.message.startswith("The model `text-embedding-ada-002` does not exist or you do not have access to it.")
    assert '`aliases: ["text-embedding-ada-002"]` under `model`' in said.message
    assert said.message.endswith("EMB_PROVIDER_MODEL_ALIASES=text-embedding-ada-002")
    assert "aliases" not in phrase(errors.ModelNotFound("x" * 200, known=[]), OPENAI).message


def test_the_engine_s_own_words_name_no_field_of_a_request() -> None:
    said = [
        LONG.message,
        errors.InvalidInput(1, "it is odd.").message,
        errors.TokenIdsNotAccepted().message,
        errors.ModelNotFound("x", known=["m"]).message,
        errors.InvalidDimensions(9, output=DENSE, least=1, most=8).message,
    ]
    for message in said:
        assert not any(word in message for word in ("input[", "'input'", '"truncate"', "check_embedding_ctx_length"))
