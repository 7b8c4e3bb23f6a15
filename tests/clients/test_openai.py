"""OpenAI's own client against the service as shipped."""

from collections.abc import Iterator

import numpy as np
import openai
import pytest
from processes import ServerProcess

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def client(shipped: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shipped.url}/v1", api_key="dummy", max_retries=0) as opened:
        yield opened


def test_one_text_and_many_texts(client: openai.OpenAI) -> None:
    one = client.embeddings.create(model=MODEL, input="A cat sits on the mat.")
    many = client.embeddings.create(model=MODEL, input=["A dog.", "A cat sits on the mat."])
    assert (one.object, one.model, one.usage.prompt_tokens, one.usage.total_tokens) == ("list", MODEL, 9, 9)
    assert [each.index for each in many.data] == [0, 1]
    assert len(one.data[0].embedding) == 384
    np.testing.assert_allclose(many.data[1].embedding, one.data[0].embedding, atol=1e-6)
    assert abs(np.linalg.norm(one.data[0].embedding) - 1) < 1e-5


def test_base64_and_float_hold_the_same_vector(client: openai.OpenAI) -> None:
    by_default = client.embeddings.create(model=MODEL, input="hello")
    as_float = client.embeddings.create(model=MODEL, input="hello", encoding_format="float")
    as_base64 = client.embeddings.create(model=MODEL, input="hello", encoding_format="base64")
    assert isinstance(as_base64.data[0].embedding, str)
    np.testing.assert_array_equal(
        np.array(by_default.data[0].embedding, np.float32), np.array(as_float.data[0].embedding, np.float32)
    )


def test_fewer_dimensions_at_length_one(client: openai.OpenAI) -> None:
    full = np.array(client.embeddings.create(model=MODEL, input="hello", dimensions=384).data[0].embedding)
    cut = np.array(client.embeddings.create(model=MODEL, input="hello", dimensions=64).data[0].embedding)
    np.testing.assert_allclose(cut, full[:64] / np.linalg.norm(full[:64]), atol=1e-6)


def test_errors_arrive_as_the_exception_that_the_client_has_for_them(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="nope", input="hello")
    assert (unknown.value.code, unknown.value.type, unknown.value.param) == (
        "model_not_found",
        "invalid_request_error",
        "model",
    )
    assert unknown.value.request_id
    with pytest.raises(openai.BadRequestError) as too_long:
        client.embeddings.create(model=MODEL, input=["fine", "word " * 1000])
    assert (too_long.value.code, too_long.value.param) == ("context_length_exceeded", "input[1]")
    assert "maximum context length is 256 tokens, however input 1 has 1002 tokens" in str(too_long.value)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model=MODEL, input=[[9906, 1917]])
    with pytest.raises(openai.BadRequestError, match="less than or equal to 384"):
        client.embeddings.create(model=MODEL, input="hello", dimensions=1536)
    with pytest.raises(openai.APIStatusError) as too_large:
        client.embeddings.create(model=MODEL, input="x" * (17 * 1024 * 1024))
    assert too_large.value.status_code == 413
    assert client.embeddings.create(model=MODEL, input="still here").data


def test_truncation_is_asked_for_and_reported(client: openai.OpenAI) -> None:
    raw = client.embeddings.with_raw_response.create(
        model=MODEL, input=["fine", "word " * 1000], extra_body={"truncate": "END"}
    )
    assert raw.headers["x-truncated-inputs"] == "1"
    assert raw.parse().usage.total_tokens == 3 + 256


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    listed, by_hub_id = client.models.list().data
    assert (listed.id, listed.object, listed.owned_by) == (MODEL, "model", "emb-provider")
    assert by_hub_id.id == f"sentence-transformers/{MODEL}"
    assert client.models.retrieve(MODEL).id == MODEL
    assert listed.model_extra is not None
    assert (listed.model_extra["dimensions"], listed.model_extra["max_model_len"]) == (384, 256)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/nope")


def test_the_request_id_is_on_answers_and_can_be_given(client: openai.OpenAI) -> None:
    assert client.embeddings.create(model=MODEL, input="hello")._request_id
    given = client.embeddings.create(model=MODEL, input="hello", extra_headers={"x-request-id": "my-trace-7"})
    assert given._request_id == "my-trace-7"


async def test_the_asynchronous_client_with_many_requests_at_once(shipped: ServerProcess) -> None:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{shipped.url}/v1", api_key="dummy") as client:
        texts = [f"sentence number {i}" for i in range(64)]
        answers = await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in texts))
        together = await client.embeddings.create(model=MODEL, input=texts)
    alone = np.array([answer.data[0].embedding for answer in answers])
    mixed = np.array([each.embedding for each in together.data])
    assert (alone * mixed).sum(axis=1).min() > 0.99999
