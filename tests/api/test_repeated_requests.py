"""A request that comes again and again: the third is answered by the response to the second."""

from typing import Any

import httpx
import pytest

from provider.domain import Caller, EmbedRequest
from provider.engine.response_cache import ResponseCache
from provider.settings import CacheSettings, ServerSettings

ORIGIN = "https://app.example"
MODEL = "org/model"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request met its response, in order."""
    met: list[bool] = []
    get = ResponseCache.get

    def watched(*given: Any, **named: Any) -> Any:
        response = get(*given, **named)
        met.append(response is not None)
        return response

    monkeypatch.setattr(ResponseCache, "get", watched)
    return met


async def ask(client: Any, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "input": "a cat"} | fields
    response: httpx.Response = await client.post("/v1/embeddings", json=body, headers={"origin": ORIGIN})
    assert response.status_code == 200
    return response


@pytest.mark.parametrize(
    "fields",
    [
        {"encoding_format": "base64"},
        {"dimensions": 5, "normalize": False},
        {"output_dtype": "int8"},
        {"input": ["a cat " * 300], "truncate": True},
    ],
)
async def test_it_is_answered_with_the_same_bytes_and_headers(
    open_app: Any, found: list[bool], fields: dict[str, Any]
) -> None:
    async with open_app(server=ServerSettings(cors_origins=[ORIGIN])) as client:
        await ask(client, **fields)
        answers = [await ask(client, **fields) for _ in range(3)]
    assert found == [False, False, True, True]
    assert len({each.content for each in answers}) == 1
    # Each has an id and durations of its own.
    own = {"x-request-id", "openai-processing-ms", "server-timing"}
    headers = [[field for field in each.headers.multi_items() if field[0] not in own] for each in answers]
    assert headers[0] == headers[1] == headers[2]
    assert len({each.headers["x-request-id"] for each in answers}) == 3


async def test_another_body_is_another_request(client: Any, found: list[bool]) -> None:
    for _ in range(3):
        await ask(client)
    other = await ask(client, dimensions=5)
    assert found == [False, False, True, False]
    assert len(other.json()["data"][0]["embedding"]) == 5


async def test_it_counts_like_any_other(client: Any, found: list[bool]) -> None:
    for _ in range(4):
        await ask(client, model="text-embedding-3-small")
    assert found[2:] == [True, True]
    metrics = (await client.get("/metrics")).text.splitlines()
    for name, value in {"inputs": 4, "tokens": 16, "cache_misses": 1}.items():
        assert f'emb_provider_{name}_total{{model="{MODEL}"}} {value}.0' in metrics
    for level, value in {"output": 1, "response": 2}.items():
        assert f'emb_provider_cache_hits_total{{level="{level}",model="{MODEL}"}} {value}.0' in metrics


@pytest.mark.parametrize(
    ("sections", "fields"),
    [
        ({"cache": CacheSettings(enabled=False)}, {}),
        ({"cache": CacheSettings(max_bytes=2_500)}, {}),  # room for the outputs only
        ({}, {"input": ["a cat", "a dog"]}),
        ({"server": ServerSettings(default_model="only")}, {"model": None}),  # which one is meant may change
        ({}, {"user": "u" * 10_000}),
    ],
)
async def test_other_responses_are_not_kept(
    open_app: Any, found: list[bool], sections: dict[str, Any], fields: dict[str, Any]
) -> None:
    async with open_app(**sections) as client:
        for _ in range(3):
            await ask(client, **fields)
    assert not any(found)


async def test_a_model_that_was_closed_answers_no_more(client: Any, found: list[bool]) -> None:
    for _ in range(3):
        await ask(client)
    await client.app.state.service.close()
    refused = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a cat"})
    assert refused.status_code == 503
    assert found == [False, False, True, False]


async def test_a_response_from_before_a_change_of_the_models_is_not_kept(client: Any) -> None:
    service = client.app.state.service
    embedded = [await service.embed(EmbedRequest(MODEL, ("a cat",))) for _ in range(2)][1]
    before = service.responses.revision
    service.reconfigure(client.app.state.settings)
    for revision, expected in ((before, None), (service.responses.revision, "response")):
        service.responses.keep(b"body", "response", embedded, revision=revision, size=8)
        assert service.responses.get(b"body") == expected


async def test_a_model_whose_responses_are_sent_is_in_use(client: Any, found: list[bool]) -> None:
    use = client.app.state.service.runtimes[MODEL].use
    for _ in range(3):
        use.last = 0.0
        await ask(client)
    assert found == [False, False, True]
    assert use.last > 0


async def test_a_response_is_for_keys_that_may_use_its_model(client: Any, found: list[bool]) -> None:
    for _ in range(3):
        body = (await ask(client)).request.content
    assert found == [False, False, True]
    get = client.app.state.service.responses.get
    assert get(body, caller=Caller("a", models=frozenset({MODEL}))) is not None
    assert get(body, caller=Caller("a", models=frozenset({"another"}))) is None
