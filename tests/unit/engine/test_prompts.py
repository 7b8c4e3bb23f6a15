"""Which prompt goes before the inputs."""

from pathlib import Path

import pytest

from provider.domain import DenseTask, EmbedRequest, ModelSpec
from provider.engine.prompts import IGNORED, notice_of, prompt_for, with_named
from provider.errors import PromptNotFound, UnknownInputType, UnknownPrompt


def spec(prompts: dict[str, str], default: str = "", **more: dict[str, str]) -> ModelSpec:
    return ModelSpec(
        "m", Path(), "bert", 8, 64, 64, "f", (DenseTask(8),), prompts=prompts, default_prompt=default, **more
    )


def ask(**fields: str) -> EmbedRequest:
    return EmbedRequest("m", ("text",), **fields)  # type: ignore[arg-type]


E5 = {"query": "query: ", "passage": "passage: "}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ""),
        ({"prompt": "say: "}, "say: "),
        ({"prompt": "", "prompt_name": "query"}, ""),
        ({"prompt_name": "passage"}, "passage: "),
        ({"input_type": "query"}, "query: "),
        ({"input_type": "search_query"}, "query: "),
        ({"input_type": "retrieval.passage"}, "passage: "),
        ({"input_type": "document"}, "passage: "),
        ({"input_type": "passage", "prompt_name": "query"}, "query: "),
    ],
)
def test_the_most_specific_wish_wins(fields: dict[str, str], expected: str) -> None:
    assert prompt_for(ask(**fields), spec(E5)) == expected


def test_the_models_default_holds_when_nothing_is_asked() -> None:
    assert prompt_for(ask(), spec(E5, "query: ")) == "query: "


def test_documents_stay_bare_where_only_queries_have_a_prompt() -> None:
    assert prompt_for(ask(input_type="document"), spec({"query": "q: "}, "q: ")) == ""


def test_a_model_without_prompts_ignores_the_input_type() -> None:
    assert prompt_for(ask(input_type="anything"), spec({})) == ""


def test_a_prompt_the_model_does_not_have_is_an_error_that_lists_those_it_has() -> None:
    with pytest.raises(UnknownPrompt, match="passage, query"):
        prompt_for(ask(prompt_name="nope"), spec(E5))


def test_an_input_type_that_means_nothing_is_an_error_rather_than_another_vector() -> None:
    with pytest.raises(UnknownInputType, match=r"search_query.*passage, query"):
        prompt_for(ask(input_type="nope"), spec(E5))


@pytest.mark.parametrize(
    ("prompt", "expected"), [("query", "search: "), ("search_query", "search: "), ("document", ""), ("passage", "")]
)
@pytest.mark.parametrize("prompts", [{}, {"query": "", "document": ""}], ids=["none", "empty"])
def test_the_card_s_prompts_are_put_where_the_name_asks_for_them(
    prompts: dict[str, str], prompt: str, expected: str
) -> None:
    bge = spec(prompts, recipe={"query": "search: "})
    named = with_named(ask(), prompt, bge)
    assert (prompt_for(named, bge), notice_of(named, bge, "m")) == (expected, None)


def test_the_card_s_prompts_are_never_put_in_silence() -> None:
    bge = spec({}, recipe={"query": "search: "})
    assert [prompt_for(each, bge) for each in (ask(), ask(input_type="query"))] == ["", ""]
    assert notice_of(ask(input_type="query"), bge, "m") == IGNORED
    assert "model.prompts: recipe" in (notice_of(ask(), bge, "m") or "")
    with pytest.raises(PromptNotFound, match="there are: m:document, m:query"):
        with_named(ask(), "other", bge)
