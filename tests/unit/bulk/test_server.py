"""Vectors from a server: any that speaks OpenAI's API, busy, lost or wrong."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
from stub_server import Answer, Stub, error, running_stub

from provider.bulk.embedder import Options
from provider.bulk.server import servers
from provider.errors import InvalidRequest, ServerFailed
from provider.texts.records import Record

RECORDS = [Record("a", "in.txt", 1), Record("bb", "in.txt", 2)]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_stub() as stub:
        yield stub


def opened(stub: Stub, options: Options | None = None, pauses: list[float] | None = None, **more: Any) -> Any:
    async def pause(seconds: float) -> None:
        if pauses is not None:
            pauses.append(seconds)

    notify = more.pop("notify", lambda _: None)
    return servers([stub.url], options or Options(), batch_size=64, pause=pause, notify=notify, **more)


@pytest.mark.parametrize(
    "encode", [lambda vector: vector, lambda vector: base64.b64encode(np.array(vector, "<f4").tobytes()).decode()]
)
async def test_vectors_come_in_the_order_of_the_inputs_in_either_encoding(stub: Stub, encode: Any) -> None:
    stub.encode = encode
    async with opened(stub) as embedder:
        embedded = await embedder.embed(RECORDS)
    assert embedded.vectors.tolist() == [[1, 0], [2, 1]]
    assert embedded.usage.tokens == 7
    assert (embedder.model, embedder.fingerprint, embedder.dimension) == ("first", "f", 2)


async def test_model_key_and_options_go_with_every_request(stub: Stub) -> None:
    async with opened(stub, Options(dimensions=3, truncate="end"), model="mine", api_key="secret") as embedder:
        await embedder.embed(RECORDS)
    sent = {"model": "mine", "encoding_format": "base64", "dimensions": 3, "truncate": "end"}
    assert all(sent.items() <= body.items() for body in stub.asked)
    assert set(stub.keys) == {"Bearer secret"}


async def test_a_key_goes_in_utf_8_unless_no_header_can_carry_it(stub: Stub) -> None:
    async with opened(stub, api_key="schlüssel"):
        pass
    assert {each.encode("latin-1").decode() for each in stub.keys} == {"Bearer schlüssel"}
    for wrong in ("two\nlines", "secret "):
        with pytest.raises(InvalidRequest, match="OPENAI_API_KEY") as caught:
            async with opened(stub, api_key=wrong):
                pass
        assert wrong not in str(caught.value)


async def test_a_busy_server_is_asked_again_after_the_pause_it_wants(stub: Stub) -> None:
    pauses: list[float] = []
    async with opened(stub, pauses=pauses) as embedder:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=30))
        stub.script = [
            error(429, "full", headers={"retry-after": "7"}),
            error(503, "loading", headers={"retry-after": date}),
            error(503, "gone", headers={"retry-after": "soon"}),
            (200, {}, None),
        ]
        assert len((await embedder.embed(RECORDS)).vectors) == 2
    assert pauses[0] == 7
    assert 25 < pauses[1] <= 30
    assert pauses[2:] == [2, 4]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (error(429, "full"), "answers 429: full"),
        ((200, {}, None), "does not answer .*start the server, or correct --url"),
    ],
)
async def test_a_server_is_not_asked_for_ever(stub: Stub, answer: Answer, says: str) -> None:
    pauses: list[float] = []
    async with opened(stub, pauses=pauses) as embedder:
        stub.script = [answer] * 50
        with pytest.raises(ServerFailed, match=says):
            await embedder.embed(RECORDS)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32]


async def test_a_server_that_is_not_there_is_told_soon(stub: Stub) -> None:
    stub.models = None
    pauses: list[float] = []
    with pytest.raises(ServerFailed, match="does not answer"):
        async with opened(stub, pauses=pauses):
            pass
    assert pauses == [0.5, 1]


@pytest.mark.parametrize(
    "answer",
    [
        error(429, "tomorrow", headers={"retry-after": "86400"}),
        error(503, "never", headers={"x-should-retry": "false"}),
        error(500, "broken"),
    ],
)
async def test_an_error_that_will_not_pass_ends_the_run_at_once(stub: Stub, answer: Answer) -> None:
    pauses: list[float] = []
    async with opened(stub, pauses=pauses) as embedder:
        stub.script = [answer]
        with pytest.raises(ServerFailed, match=f"answers {answer[0]}"):
            await embedder.embed(RECORDS)
    assert pauses == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (error(400, "bad letter", param="input[1]"), "^in.txt, line 2: bad letter$"),
        (
            error(400, "long", param="input[1]", code="context_length_exceeded"),
            "^in.txt, line 2: more tokens than the model takes. Shorten it, or pass --truncate end$",
        ),
    ],
)
async def test_an_input_that_the_server_refuses_is_told_by_its_place(stub: Stub, answer: Answer, says: str) -> None:
    async with opened(stub) as embedder:
        stub.script = [answer]
        with pytest.raises(InvalidRequest, match=says):
            await embedder.embed(RECORDS)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((200, {}, {"data": []}), "does not answer 1 inputs with as many vectors"),
        ((200, {}, {"data": [{"index": 0, "embedding": [float("nan")]}]}), "does not answer 1 inputs"),
        ((200, {}, ["no object"]), "does not answer 1 inputs"),
        (error(401, "no key"), "answers 401: no key Give the key with --api-key or OPENAI_API_KEY"),
        (error(404, "no model"), "answers 404: no model"),
    ],
)
async def test_a_server_that_does_not_answer_vectors_is_found_before_the_first_text(
    stub: Stub, answer: Answer, says: str
) -> None:
    stub.script = [answer]
    with pytest.raises(ServerFailed, match=says):
        async with opened(stub):
            pass


async def test_a_server_without_a_list_of_models_is_told_with_the_way_out(stub: Stub) -> None:
    stub.models = {"data": []}
    with pytest.raises(ServerFailed, match=r"lists no model .*; name one with --model"):
        async with opened(stub):
            pass


def answering(*entries: dict[str, Any]) -> Answer:
    data = [{"index": i, **each} for i, each in enumerate(entries)]
    return 200, {"x-model-fingerprint": "f"}, {"data": data, "usage": {"total_tokens": 7}}


async def test_other_outputs_are_asked_for_and_read_in_either_encoding(stub: Stub) -> None:
    options = Options(outputs=("dense", "sparse", "multi_vector"))
    stub.models = {"data": [{"id": "no", "outputs": ["dense"]}, {"id": "yes", "outputs": list(options.outputs)}]}
    sparse = {"indices": [3, 9], "values": [0.5, 0.25]}
    tokens = base64.b64encode(np.array([1, 2], "<f4").tobytes()).decode()
    entry = {"embedding": [1, 0], "sparse": sparse, "multi_vector": [tokens, tokens]}
    stub.script = [answering(entry), answering(entry, entry | {"multi_vector": [[3, 4]]})]
    async with opened(stub, options) as embedder:
        assert embedder.model == "yes"
        assert embedder.facts["outputs"] == ["dense", "sparse", "multi_vector"]
        embedded = await embedder.embed(RECORDS)
    assert stub.asked[0]["output_types"] == list(options.outputs)
    assert embedded.vectors.shape == (2, 2)
    assert embedded.sparse[1].ids.tolist() == [3, 9]
    assert embedded.sparse[1].weights.tolist() == [0.5, 0.25]
    assert [each.tolist() for each in embedded.multi_vector] == [[[1, 2], [1, 2]], [[3, 4]]]


@pytest.mark.parametrize(
    "entry",
    [
        {"embedding": [1, 0]},
        {"sparse": {"indices": [1, 2], "values": [0.5]}},
        {"sparse": {"indices": [1], "values": [float("inf")]}},
        {"sparse": [0.5]},
    ],
)
async def test_a_server_that_does_not_give_an_output_is_found(stub: Stub, entry: dict[str, Any]) -> None:
    stub.script = [answering(entry)]
    with pytest.raises(ServerFailed, match="does not answer 1 inputs with as many entries of sparse"):
        async with opened(stub, Options(outputs=("sparse",))):
            pass


async def test_a_server_without_a_model_for_the_outputs_is_told(stub: Stub) -> None:
    stub.models = {"data": [{"id": "no", "outputs": ["dense"]}]}
    with pytest.raises(ServerFailed, match=r"lists no model with sparse \(200\)"):
        async with opened(stub, Options(outputs=("sparse",))):
            pass


async def test_a_server_that_ignores_dimensions_is_found(stub: Stub) -> None:
    stub.script = [stub.right({"input": ["x"]})]
    with pytest.raises(ServerFailed, match="ignores --dimensions: its vectors have 2"):
        async with opened(stub, Options(dimensions=1)):
            pass


async def test_another_model_during_the_run_is_an_error(stub: Stub) -> None:
    async with opened(stub) as embedder:
        stub.fingerprint = "g"
        with pytest.raises(ServerFailed, match=r"changed the model during the run: fingerprint f, .* now g"):
            await embedder.embed(RECORDS)


async def test_a_foreign_server_may_ignore_options_and_that_is_said(stub: Stub) -> None:
    stub.fingerprint = ""
    said: list[str] = []
    async with opened(stub, Options(input_type="query"), notify=said.append):
        assert said == [f"{stub.url} is no emb-provider; whether it obeys --input-type is not known"]


async def test_a_text_that_is_no_unicode_is_told_by_its_place(stub: Stub) -> None:
    async with opened(stub) as embedder:
        with pytest.raises(InvalidRequest, match=r"in\.txt, line 9: it is not valid Unicode"):
            await embedder.embed([*RECORDS, Record("\ud800", "in.txt", 9)])
