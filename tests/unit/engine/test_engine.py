"""The use case on a fake backend: batching, sharing, failing, leaving, draining."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from waiting import PATIENCE_SECONDS, until, until_set

from provider.domain import Embedded, EmbedRequest
from provider.engine.engine import Engine
from provider.engine.hooks import BatchDone, Event, Hooks, ModelChanged, ModelNoticed, ModelState, RequestAnswered
from provider.engine.prompts import IGNORED
from provider.errors import (
    CallerTooSlow,
    EmbeddingFailed,
    InputTooLong,
    InvalidOption,
    ModelFailed,
    ModelLoading,
    ModelNotFound,
    NonFiniteVector,
    Overloaded,
    PromptTooLong,
    SettingsError,
    ShuttingDown,
    TokenIdsNotAccepted,
    TooManyTokens,
)
from provider.http.lifecycle import Lifecycle
from provider.settings import CacheSettings, LimitSettings, ModelSettings, QueueSettings, Settings
from provider.testing import FakeBackend

CAT, DOG = 4937, 3899  # the model's ids of "cat" and "dog"


@pytest.fixture
def model(minilm: Path) -> ModelSettings:
    return ModelSettings(name="m", path=str(minilm), backend="fake", lanes=1, tune=False)


Fake = Callable[..., Any]


@pytest.fixture
def fake(open_service: Any, model: ModelSettings) -> Fake:
    """The service and its fake backend, warmed up and with a clean record."""

    @asynccontextmanager
    async def opened(**sections: Any) -> AsyncIterator[tuple[Engine, FakeBackend]]:
        settings = Settings(model=sections.pop("model", model), **sections)
        async with open_service(settings) as service:
            loaded = service.runtimes["m"].loaded
            assert loaded is not None, service.runtimes["m"].failure
            assert isinstance(loaded.backend, FakeBackend)
            loaded.backend.batches.clear()
            loaded.backend.started.clear()
            yield service, loaded.backend
            loaded.backend.gate.set()

    return opened


def ask(*texts: str, **fields: Any) -> EmbedRequest:
    return EmbedRequest("m", texts, **fields)


async def held(service: Engine, backend: FakeBackend, text: str = "hold the lane") -> "asyncio.Task[Embedded]":
    """Occupy the only lane until the gate opens."""
    backend.gate.clear()
    backend.started.clear()
    task = asyncio.create_task(service.embed(ask(text)))
    await until_set(backend.started)
    return task


async def test_vectors_come_back_in_order_at_length_one_with_exact_usage(fake: Fake) -> None:
    async with fake() as (service, backend):
        texts = ["a cat", "a much longer text about a dog and a cat", "dog"] * 20
        answer = await service.embed(ask(*texts))
        encoded = service.runtimes["m"].loaded.tokenizer.encode(texts)
        expected = np.stack([backend.vector(each.ids) for each in encoded])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(answer.vectors, expected, rtol=1e-5, atol=1e-6)
        assert answer.usage.tokens == sum(len(each.ids) for each in encoded)
        assert answer.usage.inputs == 60


async def test_no_batch_has_more_rows_or_tokens_than_configured(fake: Fake, model: ModelSettings) -> None:
    import attrs

    small = attrs.evolve(model, max_batch_size=3, max_batch_tokens=24)
    async with fake(model=small, cache=CacheSettings(enabled=False)) as (service, backend):
        await service.embed(ask(*[f"number {i} of many" for i in range(40)]))
        assert sum(batch.rows for batch in backend.batches) == 40
        assert all(batch.rows <= 3 for batch in backend.batches)
        assert all(int(batch.lengths.max()) * batch.rows <= 24 for batch in backend.batches)


async def test_equal_inputs_run_once_in_a_request_and_across_requests_in_flight(fake: Fake) -> None:
    async with fake() as (service, backend):
        holding = await held(service, backend)
        both = [asyncio.create_task(service.embed(ask("cat", "cat", "dog"))) for _ in range(2)]
        await until(lambda: service.runtimes["m"].waiting[0] == 2)
        backend.gate.set()
        first, second = await asyncio.gather(*both)
        await holding
        np.testing.assert_array_equal(first.vectors, second.vectors)
        np.testing.assert_array_equal(first.vectors[0], first.vectors[1])
        assert sum(batch.rows for batch in backend.batches) == 3  # the held one, cat and dog


async def test_a_vector_seen_before_comes_from_the_cache_for_any_dimensions(fake: Fake) -> None:
    async with fake() as (service, backend):
        full = await service.embed(ask("cat"))
        again = await service.embed(ask("cat", dimensions=3))
        assert sum(batch.rows for batch in backend.batches) == 1
        assert (full.usage.cache_hits, again.usage.cache_hits) == (0, 1)
        cut = full.vectors[:, :3] / np.linalg.norm(full.vectors[:, :3])
        np.testing.assert_allclose(again.vectors, cut, rtol=1e-5)


async def test_a_vector_seen_before_comes_from_the_cache_at_its_own_length_too(fake: Fake) -> None:
    async with fake() as (service, backend):
        unit = await service.embed(ask("cat"))
        raw = await service.embed(ask("cat", normalize=False))
        assert sum(batch.rows for batch in backend.batches) == 1
        length = np.linalg.norm(raw.vectors)
        assert abs(length - 1) > 0.01
        np.testing.assert_allclose(raw.vectors / length, unit.vectors, rtol=1e-5)


async def test_an_input_type_without_effect_is_told_once(open_service: Any, model: ModelSettings) -> None:
    events: list[Any] = []
    async with open_service(Settings(model=model), events=events) as service:
        for input_type in ("query", "document", "query"):
            await service.embed(ask("cat", input_type=input_type))
        noticed = [event for event in events if isinstance(event, ModelNoticed)]
        assert [event.model for event in noticed] == ["m"]
        assert "model.prompts" in noticed[0].notice
        assert noticed[0].notice in service.runtimes["m"].notices


async def test_an_input_type_with_a_configured_prompt_has_an_effect(open_service: Any, model: ModelSettings) -> None:
    prompted = attrs.evolve(model, prompts={"query": "dog "})
    events: list[Any] = []
    async with open_service(Settings(model=prompted), events=events) as service:
        query = await service.embed(ask("cat", input_type="query"))
        written = await service.embed(ask("dog cat"))
        np.testing.assert_array_equal(query.vectors, written.vectors)
        assert IGNORED not in [event.notice for event in events if isinstance(event, ModelNoticed)]


async def test_another_prompt_is_another_vector(fake: Fake) -> None:
    async with fake() as (service, _):
        bare = await service.embed(ask("cat"))
        prompted = await service.embed(ask("cat", prompt="query: "))
        assert not np.allclose(bare.vectors, prompted.vectors)
        assert prompted.usage.tokens > bare.usage.tokens


async def test_switched_off_the_cache_neither_keeps_nor_shares(fake: Fake) -> None:
    async with fake(cache=CacheSettings(enabled=False)) as (service, backend):
        await service.embed(ask("cat", "cat"))
        await service.embed(ask("cat"))
        assert sum(batch.rows for batch in backend.batches) == 3


async def test_a_full_queue_refuses_texts_before_they_are_tokenised_and_answers_what_is_cached(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake(queue=QueueSettings(max_tokens=20)) as (service, backend):
        await service.embed(ask("a cat"))
        holding = await held(service, backend)
        filling = asyncio.create_task(service.embed(ask("w " * 17)))
        await until(lambda: service.runtimes["m"].waiting == (1, 19))
        monkeypatch.delattr(type(service.runtimes["m"].loaded.tokenizer), "chunks")
        with pytest.raises(Overloaded):
            await service.embed(ask("one text", "and another"))
        assert (await service.embed(ask("a cat"))).usage.cache_hits == 1
        backend.gate.set()
        await asyncio.gather(holding, filling)


@pytest.mark.parametrize("texts", [("a cat", "a dog"), ("w " * 400,), ("a cat", "b " * 400)])
async def test_what_is_cached_as_a_whole_is_answered_whatever_waits_and_what_is_so_in_part_is_not(
    fake: Fake, texts: tuple[str, ...]
) -> None:
    async with fake(queue=QueueSettings(max_tokens=20)) as (service, backend):
        await service.embed(ask(*texts, truncate="end"))
        holding = await held(service, backend)
        filling = asyncio.create_task(service.embed(ask("w " * 17)))
        await until(lambda: service.runtimes["m"].waiting == (1, 19))
        answer = await service.embed(ask(*texts, *texts[::-1], truncate="end"))
        assert answer.usage.cache_hits == 2 * len(texts)
        for request in ((*texts, "one that is new"), ("one that is new", *texts), (*texts, "x " * 300)):
            with pytest.raises(Overloaded):
                await service.embed(ask(*request, truncate="end"))
        backend.gate.set()
        await asyncio.gather(holding, filling)


async def test_what_others_wait_for_already_needs_no_room(fake: Fake) -> None:
    async with fake(queue=QueueSettings(max_tokens=20)) as (service, backend):
        holding = await held(service, backend)
        filling = asyncio.create_task(service.embed(ask("w " * 8, "v " * 8)))
        await until(lambda: service.runtimes["m"].waiting[0] == 2)
        joining = asyncio.create_task(service.embed(ask("v " * 8, "w " * 8)))
        await asyncio.sleep(0)
        assert not joining.done()
        backend.gate.set()
        assert np.array_equal((await joining).vectors, (await filling).vectors[::-1])
        await holding


async def test_one_bad_input_fails_its_own_request_and_nobody_elses(fake: Fake) -> None:
    async with fake() as (service, backend):
        holding = await held(service, backend)
        backend.poison = CAT
        bad = asyncio.create_task(service.embed(ask("a dog", "a cat")))
        good = asyncio.create_task(service.embed(ask("a bird", "a fish")))
        await until(lambda: service.runtimes["m"].waiting[0] == 4)
        backend.gate.set()
        with pytest.raises(EmbeddingFailed, match="input 1: "):
            await bad
        assert (await good).vectors.shape == (2, 384)
        await holding
        assert (await service.embed(ask("still here"))).usage.inputs == 1
        assert not service.problems


async def test_a_vector_with_nan_is_an_error_that_names_the_input_and_is_not_cached(fake: Fake) -> None:
    async with fake() as (service, backend):
        backend.nan = CAT
        with pytest.raises(NonFiniteVector, match="input 1: "):
            await service.embed(ask("dog", "cat"))
        backend.nan = None
        assert np.isfinite((await service.embed(ask("cat"))).vectors).all()


async def test_a_model_that_always_fails_turns_readiness_red_until_it_works_again(
    open_service: Any, model: Any
) -> None:
    async with open_service(Settings(model=model)) as service:
        runtime = service.runtimes["m"]
        runtime.prober.pause_seconds = 0.01
        backend = runtime.loaded.backend
        backend.failing = True
        for i in range(3):
            with pytest.raises(EmbeddingFailed):
                await service.embed(ask(f"text {i}"))
        await until(lambda: bool(service.problems))
        assert service.problems == {"m": "forward passes fail"}
        backend.failing = False
        await until(lambda: not service.problems)


async def test_a_probe_that_meets_a_full_queue_tries_again(fake: Fake) -> None:
    async with fake(queue=QueueSettings(max_tokens=1, max_wait_seconds=0)) as (service, backend):
        runtime = service.runtimes["m"]
        runtime.prober.pause_seconds = 0.01
        backend.failing = True
        holding = await held(service, backend)
        waiting = asyncio.create_task(service.embed(ask("a waits")))
        await until(lambda: service.runtimes["m"].waiting[0] == 1)
        probing = asyncio.create_task(runtime.prober._probe())
        await asyncio.sleep(0.03)
        assert not probing.done()
        backend.gate.set()
        for task in (holding, waiting):
            with pytest.raises(EmbeddingFailed):
                await task
        await until(lambda: service.problems == {"m": "forward passes fail"})
        backend.failing = False
        await asyncio.wait_for(probing, PATIENCE_SECONDS)
        await until(lambda: not service.problems)


async def test_a_listener_that_fails_leaves_nobody_waiting(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    async with fake() as (service, _):

        def broken(_: object) -> None:
            msg = "a listener broke"
            raise RuntimeError(msg)

        service.runtimes["m"].lanes._passes._on_batch = broken
        assert (await asyncio.wait_for(service.embed(ask("cat")), PATIENCE_SECONDS)).usage.inputs == 1
        assert "a listener broke" in caplog.text


async def test_a_forward_pass_that_never_ends_does_not_hold_up_the_close(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    from provider.engine import lanes

    monkeypatch.setattr(lanes, "_JOIN_SECONDS", 0.05)
    async with fake() as (service, backend):
        running = await held(service, backend)
        await service.close()
        with pytest.raises(ShuttingDown):
            await running
        assert backend.closed == 0


async def test_the_queue_is_empty_again_when_everyone_left(fake: Fake) -> None:
    async with fake() as (service, backend):
        holding = await held(service, backend)
        gone = [asyncio.create_task(service.embed(ask(f"nobody waits {i}"))) for i in range(5)]
        await until(lambda: service.runtimes["m"].waiting[0] == 5)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        backend.gate.set()
        await holding
        await until(lambda: service.runtimes["m"].waiting == (0, 0))


async def test_a_caller_who_takes_too_long_is_told_so_and_the_end_of_the_service_comes_first(fake: Fake) -> None:
    async with fake() as (service, _):
        lifecycle = Lifecycle(service, QueueSettings(), Hooks())
        with pytest.raises(CallerTooSlow, match=r"within 0\.01 s"):
            await lifecycle.deadlines.wait(0.01, asyncio.sleep(10))

        waiting = asyncio.create_task(lifecycle.deadlines.wait(60, asyncio.sleep(60)))
        await asyncio.sleep(0.01)
        await lifecycle.close()
        with pytest.raises(ShuttingDown):
            await asyncio.wait_for(waiting, PATIENCE_SECONDS)


async def test_a_full_queue_refuses_at_once_where_nobody_may_wait_and_says_when_to_return(fake: Fake) -> None:
    async with fake(queue=QueueSettings(max_tokens=10, max_wait_seconds=0)) as (service, backend):
        holding = await held(service, backend)
        waiting = asyncio.create_task(service.embed(ask("this one waits")))
        await until(lambda: service.runtimes["m"].waiting[0] == 1)
        with pytest.raises(Overloaded) as refused:
            await service.embed(ask("this one is too much for the queue"))
        assert 1 <= refused.value.retry_after_seconds <= 59
        backend.gate.set()
        await asyncio.gather(holding, waiting)


async def test_callers_who_left_cost_nothing(fake: Fake) -> None:
    async with fake() as (service, backend):
        holding = await held(service, backend)
        gone = asyncio.create_task(service.embed(ask("nobody waits for this cat")))
        await until(lambda: service.runtimes["m"].waiting[0] == 1)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        backend.gate.set()
        await holding
        await service.embed(ask("dog"))
        assert not any(CAT in batch.ids for batch in backend.batches)


async def test_limits_are_kept_and_nothing_is_cut_unasked(fake: Fake) -> None:
    async with fake(limits=LimitSettings(max_request_tokens=20)) as (service, _):
        with pytest.raises(TooManyTokens, match="30 tokens, at most 20"):
            await service.embed(ask(*["one two three"] * 6))
        with pytest.raises(InputTooLong):
            await service.embed(ask("word " * 600))
        with pytest.raises(TooManyTokens, match=r"at least \d+ tokens, at most 20"):
            await service.embed(ask(*["word " * 200] * 2000))
        with pytest.raises(PromptTooLong, match="700 characters, at most 64 are"):
            await service.embed(ask(*["b"] * 10, prompt="a b c " * 116 + "last"))


async def test_tokenising_ends_when_the_caller_leaves(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake() as (service, backend):
        tokenizer = service.runtimes["m"].loaded.tokenizer
        begun, go, chunks = threading.Event(), threading.Event(), tokenizer.chunks

        def held_chunks(*args: Any, **kwargs: Any) -> Iterator[Any]:
            for number, chunk in enumerate(chunks(*args, **kwargs)):
                assert not number, "tokenised for nobody"
                begun.set()
                go.wait(PATIENCE_SECONDS)
                yield chunk

        monkeypatch.setattr(tokenizer, "chunks", held_chunks)
        leaving = asyncio.create_task(service.embed(ask(*["word " * 200] * 200)))
        await until_set(begun)
        leaving.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        monkeypatch.undo()
        # The same threads serve others: the held chunk has ended when this is done.
        await service.embed(ask(*["word " * 200] * 200))
        assert sum(batch.rows for batch in backend.batches) == 1


async def test_what_was_cut_is_reported(fake: Fake) -> None:
    async with fake() as (service, _):
        answer = await service.embed(ask("short", "word " * 600, truncate="end"))
        (cut,) = answer.truncated
        assert (cut.index, cut.kept_tokens, cut.original_tokens) == (1, 256, 602)
        assert answer.usage.tokens == 3 + 256


async def test_token_ids_are_refused_unless_the_model_takes_them(fake: Fake, model: ModelSettings) -> None:
    import attrs

    ids = EmbedRequest("m", (np.array([101, CAT, 102], np.int32),))
    async with fake() as (service, _):
        with pytest.raises(TokenIdsNotAccepted, match="token_input: native"):
            await service.embed(ids)
        as_text = await service.embed(ask("cat"))
    async with fake(model=attrs.evolve(model, token_input="native")) as (service, _):
        np.testing.assert_array_equal((await service.embed(ids)).vectors, as_text.vectors)
        with pytest.raises(InvalidOption, match="cannot be put before token-ID input"):
            await service.embed(EmbedRequest("m", ids.inputs, prompt="query: "))


async def test_a_model_that_is_not_configured_is_an_error_never_a_substitute(fake: Fake) -> None:
    async with fake() as (service, _):
        with pytest.raises(ModelNotFound, match="there is no model 'x'; there are: m"):
            await service.embed(EmbedRequest("x", ("a",)))


async def test_a_model_on_its_way_is_503_and_a_broken_one_says_so(open_service: Any, model: Any) -> None:
    async with open_service(Settings(model=model), wait=False) as service:
        with pytest.raises(ModelLoading):
            await service.embed(ask("cat"))
        assert service.problems
    async with open_service(Settings(model=ModelSettings(name="m", path="/nowhere", backend="fake"))) as service:
        with pytest.raises(ModelFailed, match="The log of the service has the reason"):
            await service.embed(ask("cat"))
        assert "/nowhere" in service.problems["m"]


async def test_a_lazy_model_loads_on_first_use_once_for_everyone(open_service: Any, model: ModelSettings) -> None:
    import attrs

    events: list[Any] = []
    lazy = attrs.evolve(model, lazy=True)
    async with open_service(Settings(model=lazy), wait=False, events=events) as service:
        assert not service.problems
        assert service.runtimes["m"].state is ModelState.WAITING
        await asyncio.gather(*(service.embed(ask(text)) for text in ("cat", "dog")))
        states = [event.state for event in events if isinstance(event, ModelChanged)]
        assert states == [ModelState.RESOLVING, ModelState.LOADING, ModelState.READY]


async def test_a_lazy_model_that_cannot_load_leaves_readiness_alone_and_is_tried_again_later(
    open_service: Any, tmp_path: Path, minilm: Path
) -> None:
    folder = tmp_path / "later"
    lazy = ModelSettings(name="m", path=str(folder), backend="fake", lazy=True)
    async with open_service(Settings(model=lazy), wait=False) as service:
        runtime = service.runtimes["m"]
        for _ in range(2):
            with pytest.raises(ModelFailed) as failed:
                await service.embed(ask("cat"))
        assert failed.value.retry_after_seconds == 59
        assert not service.problems
        folder.symlink_to(minilm)
        runtime._since -= 61
        assert (await service.embed(ask("cat"))).usage.inputs == 1


async def test_who_waits_for_a_lazy_model_is_told_when_the_service_ends(open_service: Any, model: Any) -> None:
    import attrs

    async with open_service(Settings(model=attrs.evolve(model, lazy=True)), wait=False) as service:
        await service.runtimes["m"]._around.one_at_a_time.acquire()
        waiting = asyncio.create_task(service.embed(ask("cat")))
        await until(lambda: service.runtimes["m"].state is ModelState.LOADING)
        await service.close()
        with pytest.raises(ShuttingDown):
            await asyncio.wait_for(waiting, PATIENCE_SECONDS)


async def test_draining_refuses_new_requests_and_finishes_accepted_ones(fake: Fake) -> None:
    async with fake() as (service, backend):
        lifecycle = Lifecycle(service, QueueSettings(), Hooks())
        async with lifecycle.requests.admission():
            accepted = await held(service, backend)
            lifecycle.drain()
            with pytest.raises(ShuttingDown):
                async with lifecycle.requests.admission():
                    pass
            idle = asyncio.create_task(lifecycle.requests.idle())
            await asyncio.sleep(0.01)
            assert not idle.done()
            backend.gate.set()
            assert (await accepted).usage.inputs == 1
        await asyncio.wait_for(idle, PATIENCE_SECONDS)


async def test_closing_answers_what_still_waits_and_closes_the_backend(fake: Fake) -> None:
    async with fake() as (service, backend):
        running = await held(service, backend)
        waiting = asyncio.create_task(service.embed(ask("a cat waits")))
        await until(lambda: service.runtimes["m"].waiting[0] == 1)
        closing = asyncio.create_task(service.close())
        with pytest.raises(ShuttingDown):
            await waiting
        backend.gate.set()
        await running
        await closing
        assert backend.closed == 1


async def test_the_engine_tells_its_hooks_what_happened(open_service: Any, model: ModelSettings) -> None:
    events: list[Any] = []
    async with open_service(Settings(model=model), events=events) as service:
        events.clear()
        await service.embed(ask("cat", "dog"))
        (done,) = (event for event in events if isinstance(event, RequestAnswered))
        assert (done.model, done.usage.inputs, done.usage.tokens) == ("m", 2, 6)
        assert done.outputs == ("dense",)
        assert done.timings.forward_seconds > 0
        batches = [event for event in events if isinstance(event, BatchDone)]
        assert sum(batch.rows for batch in batches) == 2


async def test_a_listener_that_raises_is_logged_and_harms_nothing(
    minilm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Event] = []

    def broken(_: Event) -> None:
        msg = "a broken listener"
        raise RuntimeError(msg)

    model = ModelSettings(name="m", path=str(minilm), backend="fake", tune=False)
    for hooks in (Hooks(broken, heard.append), broken):
        async with Engine.open(Settings(model=model), hooks) as engine:
            assert (await engine.embed(ask("cat"))).usage.inputs == 1
        assert "a broken listener" in caplog.text
        caplog.clear()
    assert heard


def test_a_model_that_is_to_be_verified_needs_something_that_verifies(minilm: Path) -> None:
    model = ModelSettings(name="m", path=str(minilm), verify_at_start=True)
    with pytest.raises(SettingsError, match=r"verify=provider\.verify_briefly"):
        Engine(Settings(model=model), Hooks())
