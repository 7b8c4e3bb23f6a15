"""LangChain's OpenAI client as it is, which sends ids of OpenAI's tokenizer."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from processes import ROOT, ServerProcess, clean_environment, running

from provider.engine.cl100k import tokens

NAME = "text-embedding-3-small"
# Where tiktoken keeps the vocabulary that it downloads.
VOCABULARY = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
TEXTS = [
    "A cat sits on the mat.",
    "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{CAT FACE}\N{EMOJI MODIFIER FITZPATRICK TYPE-5}",
    "猫がマットの上に座っている。고양이",
    "one\ttwo\n\n  three\r\n",
    "the text <|endoftext|> is no token",
]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    environment = clean_environment(EMB_PROVIDER_MODEL_ALIASES=NAME)
    with running(["--config", str(ROOT / "litestar.yaml")], env=environment) as started:
        started.wait_until_ready()
        yield started


@pytest.fixture(scope="module", autouse=True)
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("tiktoken")
    lines = [b"%s %d\n" % (base64.b64encode(tokens()[each]), each) for each in range(100256)]
    (folder / hashlib.sha1(VOCABULARY.encode()).hexdigest()).write_bytes(b"".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        yield


@pytest.fixture
def embeddings(server: ServerProcess) -> Iterator[OpenAIEmbeddings]:
    with httpx.Client() as connections:  # its own is never closed
        yield OpenAIEmbeddings(base_url=f"{server.url}/v1", api_key="any", model=NAME, http_client=connections)


def test_by_default_its_vectors_are_those_of_the_texts(server: ServerProcess, embeddings: OpenAIEmbeddings) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        of_texts = [each.embedding for each in client.embeddings.create(model=NAME, input=TEXTS).data]
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), of_texts, atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[1]), of_texts[1], atol=1e-6)


def test_pieces_of_a_long_text_that_fit_the_model_are_averaged_and_others_are_an_error(
    embeddings: OpenAIEmbeddings,
) -> None:
    text = "The cat sits on the mat. " * 300
    with pytest.raises(openai.BadRequestError, match="maximum context length is 256 tokens"):
        embeddings.embed_documents([text])
    embeddings.embedding_ctx_length = 128
    assert abs(np.linalg.norm(embeddings.embed_documents([text])) - 1) < 1e-5
