"""Pairs become the ids and types that the tokenizer makes of them itself, whole and cut."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.engine.pairs import PairOptions, PairTokenizer, longest_first, pair_tokenizer
from provider.engine.tokenizer import Tokenizer
from provider.errors import InputTooLong, InvalidInput, InvalidModel, InvalidOption
from provider.models.spec import read_spec
from provider.testing.tiny import TINY_CLASSIFIERS, tiny_classifier, tiny_reranker

TEXTS = ("the cat runs", "", "Zwölf Boxkämpfer!", "the old man and the new world " * 9, "x y " * 70)
LIMIT = 64


def opened(folder: Path, limit: int | None = LIMIT) -> tuple[PairTokenizer, Tokenizer]:
    spec, _ = read_spec(folder, name="m", max_context_length=limit, default_prompt=None)
    tokenizer = Tokenizer.from_folder(
        spec.folder, max_tokens=spec.max_tokens, embedding_rows=spec.vocabulary_size, spec=spec.tokenizer
    )
    return pair_tokenizer(tokenizer, spec.scores, gives_types=spec.tokenizer.type_ids, name="m"), tokenizer


@pytest.fixture(scope="module", params=TINY_CLASSIFIERS)
def family(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("pairs") / "m", request.param)


@pytest.mark.parametrize("side", ["end", "start"])
def test_ids_and_types_are_those_of_transformers_whole_and_cut_at_either_end(family: Path, side: Any) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(family)
    theirs.truncation_side = "right" if side == "end" else "left"
    pairs, _ = opened(family)
    for query in TEXTS:
        ours = pairs.encode([query], TEXTS, PairOptions(truncate=side))
        for text, mine in zip(TEXTS, ours, strict=True):
            # As a list, as CrossEncoder does: alone, an empty second text is taken for none.
            found = theirs([[query, text]], truncation="longest_first", max_length=LIMIT)
            own = {name: rows[0] for name, rows in found.items()}
            assert mine.ids.tolist() == own["input_ids"]
            types = mine.features.type_ids
            assert (types is None) == ("token_type_ids" not in own)
            if types is not None:
                assert types.tolist() == own["token_type_ids"]
            whole = len(theirs([[query, text]], verbose=False)["input_ids"][0])
            assert mine.was_cut == (whole > LIMIT)
            if mine.original_tokens is not None:
                assert mine.original_tokens == whole


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("most", [None, 20])
def test_pairs_are_cut_where_the_files_say_and_to_the_requests_own_limit(
    tmp_path: Path, side: str, most: int | None
) -> None:
    folder = tiny_classifier(tmp_path / "m", "bert")
    about = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(about | {"truncation_side": side}))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    pairs, _ = opened(folder)
    for query in TEXTS:
        ours = pairs.encode([query], TEXTS, PairOptions(truncate="auto", max_tokens=most))
        for text, mine in zip(TEXTS, ours, strict=True):
            found = theirs([[query, text]], truncation="longest_first", max_length=most or LIMIT)
            assert mine.ids.tolist() == found["input_ids"][0]


def test_a_limit_that_leaves_no_room_for_text_is_refused(tmp_path: Path) -> None:
    pairs, _ = opened(tiny_classifier(tmp_path / "m", "bert"))
    with pytest.raises(InvalidOption, match="max_tokens: 3 leave no room for text"):
        pairs.encode(["cat"], ["dog"], PairOptions(truncate="end", max_tokens=3))


@pytest.mark.parametrize("most", [None, 40])
def test_a_chat_template_keeps_its_end_where_pairs_are_cut(tmp_path: Path, most: int | None) -> None:
    pairs, _ = opened(tiny_reranker(tmp_path / "m"), 128)
    whole, cut = (
        pairs.encode(["cat"], ["dog " * n], PairOptions(truncate="end", max_tokens=most))[0] for n in (1, 900)
    )
    assert (len(cut.ids), cut.was_cut) == (most or 128, True)
    assert cut.ids[-3:].tolist() == whole.ids[-3:].tolist()


def test_a_prompt_stands_before_each_query(family: Path) -> None:
    pairs, _ = opened(family)
    prompted = pairs.encode(["cat"], ["dog"], PairOptions("find a "))
    joined = pairs.encode(["find a cat"], ["dog"])
    assert prompted[0].ids.tolist() == joined[0].ids.tolist()


def test_too_long_a_pair_is_an_error_that_names_it(family: Path) -> None:
    pairs, _ = opened(family)
    with pytest.raises(InputTooLong) as caught:
        pairs.encode(["cat"], ["dog", "the " * 80])
    assert (caught.value.index, caught.value.limit, caught.value.is_pair) == (1, LIMIT, True)


def test_a_query_that_is_no_unicode_is_told_as_such(family: Path) -> None:
    with pytest.raises(InvalidInput, match="query: it is not valid Unicode") as caught:
        opened(family)[0].encode(["\ud800"], ["dog"])
    assert (caught.value.index, caught.value.is_query) == (None, True)
    with pytest.raises(InvalidInput, match="query 1: it is not valid Unicode") as caught:
        opened(family)[0].encode(["cat", "\ud800"], ["dog", "dog"])
    assert (caught.value.index, caught.value.is_query) == (1, True)


@settings(max_examples=200)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 30))
def test_the_longest_text_is_cut_first_as_by_the_library(first: int, second: int, room: int) -> None:
    import tokenizers
    from tokenizers import models, pre_tokenizers

    if first + second <= room:
        return
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1, "u": 2}, unk_token="u"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(room)
    ids = tokenizer.encode("a " * first, "b " * second).ids
    assert longest_first(first, second, room) == (ids.count(0), ids.count(1))


@pytest.mark.parametrize("family", ["qwen3", "mxbai"])
def test_a_template_s_pairs_are_those_that_transformers_renders(family: Any, tmp_path: Path) -> None:
    folder = tiny_reranker(tmp_path / "m", family)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    pairs, _ = opened(folder, None)
    for instruction in ("", "Find it."):
        system = [{"role": "system", "content": instruction}] if instruction else []
        for query in ("the cat", " {{ cat }} "):
            for text in ("", " a\n", "{% dog %}"):
                messages = [*system, {"role": "query", "content": query}, {"role": "document", "content": text}]
                (mine,) = pairs.encode([query], [text], PairOptions(instruction))
                assert mine.ids.tolist() == theirs.apply_chat_template(messages)["input_ids"]


def test_a_cut_keeps_the_template_s_end(tmp_path: Path) -> None:
    pairs, tokenizer = opened(tiny_reranker(tmp_path / "m"), None)
    whole, cut = (pairs.encode(["cat"], ["dog " * n], PairOptions(truncate="end"))[0] for n in (3, 900))
    assert cut.was_cut
    assert len(cut.ids) == tokenizer.max_tokens
    assert np.array_equal(cut.ids[-8:], whole.ids[-8:])
    with pytest.raises(InvalidOption, match=r"truncate: .*at the end only"):
        pairs.encode(["cat"], ["dog"], PairOptions(truncate="start"))


def test_a_template_that_drops_the_document_is_refused(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m")
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about["chat_template"] = "{% for message in messages if message.role == 'query' %}{{ message.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    with pytest.raises(InvalidModel, match="the document does not reach"):
        opened(folder)


def test_a_document_s_own_limit_holds_whatever_its_tokens_are_made_of(tmp_path: Path) -> None:
    pairs, _ = opened(tiny_reranker(tmp_path / "m"), limit=200)
    text = "the cat" + " " * 3_000 + "and the dog and the cat and the dog"
    (short,), (whole,) = (
        pairs.encode(["cat"], [each], PairOptions(truncate="end", max_document_tokens=limit))
        for each, limit in ((text, 4), ("the cat", None))
    )
    assert short.was_cut
    assert len(short.ids) <= len(whole.ids) + 4


@pytest.mark.parametrize("limit", [None, 4])
def test_a_document_that_is_no_unicode_is_named(tmp_path: Path, limit: int | None) -> None:
    pairs, _ = opened(tiny_reranker(tmp_path / "m"), limit=200)
    with pytest.raises(InvalidInput, match=r"input 1: .*not valid Unicode"):
        pairs.encode(["cat"], ["the dog", "\ud800"], PairOptions(truncate="end", max_document_tokens=limit))


@pytest.mark.parametrize("folder", [lambda at: tiny_classifier(at, "bert"), tiny_reranker])
def test_many_pairs_are_tokenised_in_chunks_and_errors_name_the_place_in_the_request(
    folder: Any, tmp_path: Path
) -> None:
    pairs, _ = opened(folder(tmp_path / "m"))
    queries, texts = [f"cat {i}" for i in range(60)], ["dog " + " " * 5_000] * 60
    chunks = list(pairs.chunks(queries, texts, PairOptions(truncate="end")))
    assert len(chunks) > 2
    assert [len(chunk) for chunk in chunks[:2]] == [20, 20]
    for place, broken in (("texts", [*texts[:50], "\ud800"]), ("queries", [*queries[:50], "\ud800"])):
        given = {"queries": queries[:51], "texts": texts[:51]} | {place: broken}
        with pytest.raises(InvalidInput) as raised:
            pairs.encode(**given, options=PairOptions(truncate="end"))
        assert (raised.value.index, raised.value.is_query) == (50, place == "queries")
