"""What is counted and how: percentiles, ratios, arrivals, lengths, operations, and the loads that options ask for."""

import json
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from provider.bench.figures import Latency, Spread, percentile
from provider.bench.flops import ModelShape
from provider.bench.job import BenchJob, run
from provider.bench.load_generator import arrival_times
from provider.bench.messages import Load, Setup, Texts
from provider.bench.texts import SHIPPED, TextPool
from provider.cli.bench import Numbers, bench, bench_job
from provider.errors import InvalidRequest, UnknownBackend


def asked(*arguments: str) -> BenchJob:
    """What the command makes of its arguments."""
    with bench.make_context("bench", list(arguments)) as context:
        return bench_job(**context.params)


def prepared(*arguments: str) -> tuple[list[Load], list[Setup]]:
    """The loads and the contenders of a run."""
    job = asked(*arguments)
    return job.loads(), job.setups(Texts(("a",)))


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    values = [float(each) for each in range(1, 101)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 50, 90, 99, 100]
    assert percentile([7.0], 0.99) == 7
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2


def test_latencies_are_in_milliseconds_and_of_no_requests_there_are_none() -> None:
    assert Latency.of([4000, 1000, 3000, 2000]) == Latency(2.0, 4.0, 4.0, 4.0)
    assert Latency.of([]) is None


def test_ratios_are_taken_round_by_round_and_a_drift_of_both_leaves_them_alone() -> None:
    drifting = [100.0, 50.0, 200.0]
    assert Spread.of_ratios([2 * each for each in drifting], drifting) == Spread(2.0, 2.0, 2.0)
    assert Spread.of_ratios([1.0, 6.0, 2.0], [1.0, 2.0, 1.0]) == Spread(2.0, 1.0, 3.0)


def test_a_round_that_came_to_nothing_has_no_ratio() -> None:
    assert Spread.of_ratios([0.0, 6.0], [1.0, 2.0]) == Spread(3.0, 3.0, 3.0)
    assert Spread.of_ratios([1.0], [0.0]) is None


def test_even_arrivals_have_the_same_pause_between_any_two() -> None:
    assert arrival_times(4, 1.5, "even", seed=1) == [0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_random_arrivals_are_as_many_as_asked_and_their_pauses_those_of_a_poisson_process() -> None:
    times = arrival_times(1000, 10, "poisson", seed=1)
    assert len(times) == 10_000
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < 10
    pauses = [after - before for before, after in pairwise(times)]
    # Of an exponential distribution, the share exp(-1) is longer than the mean.
    assert sum(pause > 0.001 for pause in pauses) / len(pauses) == pytest.approx(0.368, abs=0.02)
    assert times == arrival_times(1000, 10, "poisson", seed=1)
    assert times != arrival_times(1000, 10, "poisson", seed=2)


def test_the_slowest_rate_still_sends_one_request() -> None:
    assert len(arrival_times(0.1, 1, "poisson", seed=1)) == 1


def shipped(*, repeat: bool = False) -> TextPool:
    return TextPool.of(Texts(tuple(SHIPPED.read_text().splitlines()), repeat=repeat))


def test_texts_never_come_twice_and_contenders_get_other_ones_of_the_same_lengths() -> None:
    one, other = (list(islice(shipped().draw(5, salt), 2000)) for salt in (0, 1))
    assert len(set(one)) > 1990
    assert len(set(one) & set(other)) < 5
    assert [len(text.split()) for text in one] == [len(text.split()) for text in other]
    assert one == list(islice(shipped().draw(5, 0), 2000))


def test_repeated_texts_are_the_sentences_as_they_are() -> None:
    sentences = SHIPPED.read_text().splitlines()
    assert list(islice(shipped(repeat=True).draw(5), 100)) == sentences * 2
    drawn = shipped(repeat=True).draw(1, words=9)
    assert len(set(islice(drawn, 200))) == len(sentences)


def test_a_text_of_one_word_in_a_file_of_ones_own_is_enough() -> None:
    pool = TextPool.of(Texts(("Ångström",)))
    assert list(islice(pool.draw(1), 2)) == ["Ångström", "Ångström"]
    assert next(pool.draw(1, words=3)) == "Ångström Ångström Ångström"


def test_texts_of_a_length_have_that_many_tokens(minilm: Path) -> None:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: tuple[str, ...]) -> int:
        return sum(len(tokenizer.encode(text).ids) for text in texts)

    pool = shipped()
    for tokens in (3, 16, 256):
        words = pool.words_for(tokens, count)
        assert {count((text,)) for text in islice(pool.draw(3, words=words), 100)} == {tokens}


def test_operations_are_those_of_the_weights_in_the_file(minilm: Path) -> None:
    shape = ModelShape.of_config(json.loads((minilm / "config.json").read_text()))
    assert shape is not None
    with (minilm / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    layers = {name: each["shape"] for name, each in header.items() if "encoder.layer" in name}
    multiplied = sum(rows * columns for rows, columns in (shape for shape in layers.values() if len(shape) == 2))
    assert multiplied == 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    # Scores and their sum over the values: two products of (10, 384) with (384, 10) and back, in six layers.
    attention = 6 * 2 * 2 * 10 * 10 * 384
    assert shape.flops([10]) == 2 * 10 * multiplied + attention
    assert shape.flops([10, 10]) == 2 * shape.flops([10])


def test_gated_layers_and_shared_keys_are_counted() -> None:
    config = {"model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 8}
    shape = ModelShape.of_config({**config, "num_key_value_heads": 2, "intermediate_size": 100})
    assert shape is not None
    # Query, 2 keys and 2 values of 8 heads; output; gate, up and down.
    assert sum(rows * columns for rows, columns in shape.products) == 64 * 64 + 2 * 64 * 16 + 64 * 64 + 3 * 64 * 100


@pytest.mark.parametrize("config", [{}, {"model_type": "mamba", "hidden_size": 8}, {"model_type": "bert"}])
def test_of_an_unknown_architecture_no_operations_are_claimed(config: dict[str, Any]) -> None:
    assert ModelShape.of_config(config) is None


def test_every_combination_that_is_asked_for_is_a_load() -> None:
    loads = asked("--concurrency", "1,64", "--batch", "1,32", "--lengths", "16,256").loads()
    assert [load.label for load in loads[::2]] == ["1 x 1", "1 x 32", "64 x 1", "64 x 32"]
    assert [load.tokens for load in loads] == [16, 256] * 4
    (load,) = asked("--rate", "12.5", "--arrivals", "even").loads()
    assert load == Load(1, rate=12.5, arrivals="even")
    assert load.label == "12.5/s x 1"


def test_without_being_told_the_usual_loads_are_measured() -> None:
    assert [each.label for each in asked().loads()] == ["1 x 1", "64 x 1", "1 x 32", "4 x 32"]
    assert [each.label for each in asked("--batch", "8").loads()] == ["4 x 8"]
    assert [each.label for each in asked("--concurrency", "2").loads()] == ["2 x 1"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rate", "1", "--concurrency", "1"), "choose one of them"),
        (("--url", "http://localhost/v1", "--backend", "torch"), "has chosen already"),
        (("--url", "localhost:9000"), "give one like http://localhost:9000/v1"),
        (("--against", "st/int8"), "expected st, st/DTYPE, backend:NAME"),
        (("--against", "tei"), "expected st, st/DTYPE, backend:NAME"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        prepared(*arguments)


def test_a_backend_that_is_not_installed_is_refused_before_anything_starts() -> None:
    with pytest.raises(UnknownBackend, match="'nope' is not installed"):
        prepared("--against", "backend:nope/bfloat16")


@pytest.mark.parametrize("value", ["", "0", "1,x", "-3", "1.5"])
def test_numbers_are_positive_and_separated_by_commas(value: str) -> None:
    with pytest.raises(click.BadParameter, match="positive whole numbers"):
        Numbers(int).convert(value, None, None)


def test_a_missing_extra_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    job = asked("--plot", "folder")
    against = asked("--against", "st")
    monkeypatch.setattr("provider.bench.job.find_spec", lambda _: None)
    with pytest.raises(InvalidRequest, match=r"pip install matplotlib"):
        run(job)
    with pytest.raises(InvalidRequest, match="pip install sentence-transformers"):
        run(against)
