"""Scores equal CrossEncoder's, for every family and way of saving: alone, in mixed batches, cut."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder

from provider.domain import EmbedRequest, ScoreRequest
from provider.errors import InputTooLong, InvalidOption, OutputNotSupported
from provider.settings import CacheSettings, ModelSettings, Settings
from provider.testing.tiny import (
    TINY_CLASSIFIERS,
    WORDS,
    resave_cross_encoder,
    tiny_bert,
    tiny_classifier,
    tiny_reranker,
)

TOLERANCE = 1e-4


def words(count: int, seed: int) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(count))


QUERY = "Which cat sleeps the most?"
DOCUMENTS = (*(words(n, n) for n in (1, 30, 2, 17, 5, 5, 9, 24, 3, 12)), "?", "Zwölf Boxkämpfer, 世界!", "the " * 20)


def resaved(path: Path, source: Callable[[Path], Path], **options: Any) -> Path:
    return resave_cross_encoder(source(path / "source"), path / "model", **options)


MXBAI = partial(tiny_reranker, family="mxbai")
FOLDERS: dict[str, Callable[[Path], Path]] = {
    **{f"{family}, one label": partial(tiny_classifier, family=family) for family in TINY_CLASSIFIERS},
    **{f"{family}, several": partial(tiny_classifier, family=family, labels=3) for family in TINY_CLASSIFIERS},
    "identity": partial(tiny_classifier, activation_fn="Identity"),
    "identity, before 4.0": partial(tiny_classifier, activation_fn="Identity", legacy_key=True),
    "softmax": partial(tiny_classifier, labels=4, activation_fn="Softmax"),
    "no types in a tokenizer's class of its own": partial(tiny_classifier, family="distilbert", labels=2),
    "qwen3, plain": tiny_reranker,
    "qwen3, resaved": partial(resaved, source=tiny_reranker),
    "qwen3, a prompt": partial(
        resaved, source=tiny_reranker, prompts={"web": "Find what helps."}, default_prompt_name="web"
    ),
    "mxbai": partial(resaved, source=MXBAI, true_token="1", false_token="0"),
    "one logit": partial(resaved, source=MXBAI, true_token="1"),
    "bert, resaved": partial(resaved, source=tiny_classifier),
    "bert, a prompt": partial(resaved, source=tiny_classifier, prompts={"q": "the query is "}, default_prompt_name="q"),
    "modernbert, resaved": partial(resaved, source=partial(tiny_classifier, family="modernbert", labels=3)),
}


@pytest.mark.parametrize("rendered", [True, False], ids=["template", "segments"])
async def test_a_decoder_with_a_classification_head_reads_the_last_token_that_is_not_padding(
    rendered: bool, open_service: Any, tmp_path: Path
) -> None:
    folder = decoder_with_head(tmp_path / "m")
    if not rendered:
        (folder / "chat_template.jinja").unlink()
    theirs = CrossEncoder(str(folder), device="cpu").predict([(QUERY, each) for each in DOCUMENTS])
    async with open_service(without_cache(folder)) as service:
        check((await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,)))).scores, theirs)


async def test_a_decoder_without_a_padding_token_is_refused_as_it_scores_one_text_at_a_time(
    open_service: Any, tmp_path: Path
) -> None:
    folder = decoder_with_head(tmp_path / "m", pad_token_id=None)
    async with open_service(without_cache(folder)) as service:
        failure = service.runtime("m").failure
        assert failure is not None
        assert "no padding token" in failure.message


def decoder_with_head(path: Path, **changes: Any) -> Path:
    tiny_reranker(path)
    config = transformers.AutoConfig.from_pretrained(path, num_labels=1, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.2)
    model.save_pretrained(path)
    return path


def without_cache(folder: Path, **more: Any) -> Settings:
    model = ModelSettings(name="m", path=str(folder), **more)
    return Settings(model=model, cache=CacheSettings(enabled=False))


def check(ours: Any, theirs: Any) -> None:
    theirs = np.asarray(theirs).reshape(ours.shape)
    assert np.abs(ours - theirs).max() <= TOLERANCE
    # In their order ours rise too, but for those that rounding makes equal.
    ordered = np.take_along_axis(ours, np.argsort(theirs, axis=0), axis=0)
    assert np.diff(ordered, axis=0).min(initial=0) >= -1e-5


# torch says so of Softmax() as it is saved.
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("build", FOLDERS.values(), ids=FOLDERS)
async def test_scores_of_pairs_are_those_of_cross_encoder(
    build: Callable[[Path], Path], open_service: Any, tmp_path: Path
) -> None:
    folder = build(tmp_path / "m")
    theirs = CrossEncoder(str(folder), device="cpu").predict([(QUERY, each) for each in DOCUMENTS])
    async with open_service(without_cache(folder)) as service:
        mixed = await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,)))
        check(mixed.scores, theirs)
        assert len(mixed.labels) == mixed.scores.shape[1]
        alone = [(await service.score(ScoreRequest("m", (each,), (QUERY,)))).scores[0] for each in DOCUMENTS]
        check(np.array(alone), theirs)
        own = tuple(reversed(DOCUMENTS))
        theirs = CrossEncoder(str(folder), device="cpu").predict(list(zip(own, DOCUMENTS, strict=True)))
        check((await service.score(ScoreRequest("m", DOCUMENTS, own))).scores, theirs)


@pytest.mark.parametrize("family", TINY_CLASSIFIERS)
async def test_texts_alone_are_classified_as_cross_encoder_does(family: str, open_service: Any, tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m", family, labels=3)
    # A list of texts would be a pair.
    reference = CrossEncoder(str(folder), device="cpu")
    theirs = [reference.predict(each) for each in DOCUMENTS]
    async with open_service(without_cache(folder)) as service:
        answer = await service.score(ScoreRequest("m", DOCUMENTS))
        check(answer.scores, theirs)
        assert answer.labels == ("contradiction", "entailment", "neutral")


@pytest.mark.parametrize(
    "build",
    [FOLDERS["bert, one label"], FOLDERS["roberta, one label"], FOLDERS["xlm-roberta, one label"], FOLDERS["mxbai"]],
    ids=["typed", "doubled", "unigram", "template"],
)
async def test_what_is_too_long_is_an_error_or_cut_as_cross_encoder_does_and_reported(
    build: Callable[[Path], Path], open_service: Any, tmp_path: Path
) -> None:
    folder = build(tmp_path / "m")
    reference = CrossEncoder(str(folder), device="cpu")
    limit = reference.max_seq_length
    assert limit is not None
    long = words(limit, 5)
    documents = (words(3, 1), long, words(2 * limit, 6), "x" * (40 * limit))
    # A query of half the limit is cut with its document, one over the limit too.
    for query in (words(4, 2), words(limit, 3)):
        theirs = reference.predict([(query, each) for each in documents])
        ids = [reference.preprocess([(query, each)])["input_ids"].shape[1] for each in documents]
        async with open_service(without_cache(folder)) as service:
            with pytest.raises(InputTooLong):
                await service.score(ScoreRequest("m", documents, (query,)))
            answer = await service.score(ScoreRequest("m", documents, (query,), truncate="end"))
            check(answer.scores, theirs)
            assert answer.usage.tokens == sum(ids)
            for cut in answer.truncated:
                assert cut.kept_tokens == limit
                assert cut.original_tokens is None or cut.original_tokens > limit
            assert {cut.index for cut in answer.truncated} == {i for i, n in enumerate(ids) if n == limit}


async def test_documents_are_cut_to_their_own_limit_first_and_that_is_reported(
    open_service: Any, tmp_path: Path
) -> None:
    documents = ("the cat runs", "the cat runs and sleeps and eats")
    async with open_service(without_cache(tiny_classifier(tmp_path / "m"))) as service:
        answer = await service.score(ScoreRequest("m", documents, (QUERY,), max_document_tokens=3))
        assert answer.scores[0] == answer.scores[1]
        (cut,) = answer.truncated
        whole = await service.score(ScoreRequest("m", documents, (QUERY,)))
        assert cut.index == 1
        assert cut.original_tokens == cut.kept_tokens + 4
        assert whole.usage.tokens == answer.usage.tokens + 4
    async with open_service(without_cache(FOLDERS["mxbai"](tmp_path / "r"))) as service:
        answer = await service.score(ScoreRequest("m", documents, (QUERY,), max_document_tokens=5))
        assert [cut.index for cut in answer.truncated] == [1]
        text = service.runtime("m").loaded.tokenizer.library
        part = documents[1][: text.encode(documents[1], add_special_tokens=False).offsets[4][1]]
        same = await service.score(ScoreRequest("m", (documents[0], part), (QUERY,)))
        assert np.array_equal(same.scores, answer.scores)


async def test_raw_scores_are_logits(open_service: Any, tmp_path: Path) -> None:
    async with open_service(without_cache(tiny_classifier(tmp_path / "m"))) as service:
        scores = (await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,)))).scores
        raw = (await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,), raw=True))).scores
        assert np.allclose(scores, 1 / (1 + np.exp(-raw)), atol=1e-6)


async def test_an_instruction_goes_where_the_template_has_a_place_for_one(open_service: Any, tmp_path: Path) -> None:
    folder = tiny_reranker(tmp_path / "m")
    pairs = [(QUERY, each) for each in DOCUMENTS]
    theirs = CrossEncoder(str(folder), device="cpu").predict(pairs, prompt="Find the cat.")
    async with open_service(without_cache(folder)) as service:
        answer = await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,), instruction="Find the cat."))
        check(answer.scores, theirs)
        with pytest.raises(InvalidOption, match="Send a query"):
            await service.score(ScoreRequest("m", DOCUMENTS))
    async with open_service(without_cache(tiny_classifier(tmp_path / "c"))) as service:
        with pytest.raises(InvalidOption, match="no place for an instruction"):
            await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,), instruction="Find the cat."))


async def test_a_model_does_what_its_task_is(open_service: Any, tmp_path: Path) -> None:
    async with open_service(without_cache(tiny_classifier(tmp_path / "c"))) as service:
        with pytest.raises(OutputNotSupported, match="rerank"):
            await service.embed(EmbedRequest("m", ("a",)))
    async with open_service(without_cache(tiny_bert(tmp_path / "e"))) as service:
        with pytest.raises(OutputNotSupported, match="embed"):
            await service.score(ScoreRequest("m", ("a",), ("b",)))


async def test_pairs_come_from_the_cache_and_equal_ones_run_once(open_service: Any, tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "m")
    async with open_service(Settings(model=ModelSettings(name="m", path=str(folder)))) as service:
        first = await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,)))
        again = await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,), raw=True))
        assert (first.usage.cache_hits, again.usage.cache_hits) == (0, len(DOCUMENTS))
        # The same tokens as one text, or split elsewhere, are another input.
        other = await service.score(ScoreRequest("m", (DOCUMENTS[0],), (DOCUMENTS[0],)))
        assert other.usage.cache_hits == 0


@pytest.mark.parametrize("options", [{"packed": True}, {"packed": False}], ids=["packed", "padded"])
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
async def test_without_and_with_padding_scores_are_the_same(
    options: dict[str, Any], family: str, open_service: Any, tmp_path: Path
) -> None:
    folder = tiny_classifier(tmp_path / "m", family, labels=2)
    theirs = CrossEncoder(str(folder), device="cpu").predict([(QUERY, each) for each in DOCUMENTS])
    async with open_service(without_cache(folder, options=options)) as service:
        assert service.runtime("m").loaded.backend.traits.extra["packed"] is options["packed"]
        check((await service.score(ScoreRequest("m", DOCUMENTS, (QUERY,)))).scores, theirs)
