"""Released Python clients, each called as its users call it.

usage: clients.py CLIENT

A job comes as one JSON line on standard input: `url` (the API's base URL, or the server's for another API than
OpenAI's) and `body` (an OpenAI request: `model`, `input` and perhaps `dimensions`). Its answer is one JSON line:
`vectors`, or the `error` that the user sees.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

# No client looks for anything beyond the server.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False", "HF_HUB_OFFLINE": "1"}

Vectors = list[list[float]]


def openai_python(url: str, model: str, texts: list[str], **more: int) -> Vectors:
    import openai

    client = openai.OpenAI(base_url=url, api_key="any")
    return [each.embedding for each in client.embeddings.create(model=model, input=texts, **more).data]


def langchain(url: str, model: str, texts: list[str], **more: int) -> Vectors:
    from langchain_openai import OpenAIEmbeddings

    client = OpenAIEmbeddings(base_url=url, api_key="any", model=model, check_embedding_ctx_length=False, **more)
    return client.embed_documents(texts)


def litellm(url: str, model: str, texts: list[str], **more: int) -> Vectors:
    import litellm

    answer = litellm.embedding(
        model=f"openai/{model}", input=texts, api_base=url, api_key="any", allowed_openai_params=["dimensions"], **more
    )
    return [each["embedding"] for each in answer.data]


def haystack_text(url: str, model: str, texts: list[str], **more: int) -> Vectors:
    from haystack.components.embedders import OpenAITextEmbedder
    from haystack.utils import Secret

    embedder = OpenAITextEmbedder(api_base_url=url, api_key=Secret.from_token("any"), model=model, **more)
    return [embedder.run(text)["embedding"] for text in texts]


def haystack_documents(url: str, model: str, texts: list[str], **more: int) -> Vectors:
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder
    from haystack.utils import Secret

    embedder = OpenAIDocumentEmbedder(
        api_base_url=url,
        api_key=Secret.from_token("any"),
        model=model,
        raise_on_failure=True,
        progress_bar=False,
        **more,
    )
    return [each.embedding for each in embedder.run([Document(content=text) for text in texts])["documents"]]


def voyageai(url: str, model: str, texts: list[str], dimensions: int | None = None) -> Vectors:
    import voyageai

    client = voyageai.Client(base_url=url, api_key="any", max_retries=3)
    return client.embed(texts, model=model, truncation=False, output_dimension=dimensions).embeddings


def ollama(url: str, model: str, texts: list[str], **more: int) -> Vectors:
    import ollama

    answer = ollama.Client(url).embed(model, texts, truncate=False, **more)
    assert answer.prompt_eval_count
    return [list(each) for each in answer.embeddings]


def cohere(url: str, model: str, texts: list[str], dimensions: int | None = None) -> Vectors:
    import cohere

    answer = cohere.ClientV2(api_key="any", base_url=url).embed(
        model=model,
        texts=texts,
        input_type="search_document",
        embedding_types=["float"],
        truncate="NONE",
        output_dimension=dimensions,
    )
    assert answer.meta.billed_units.input_tokens
    return answer.embeddings.float_


CLIENTS: dict[str, Callable[..., Vectors]] = {
    "openai-python": openai_python,
    "langchain-openai": langchain,
    "litellm": litellm,
    "haystack-text": haystack_text,
    "haystack-documents": haystack_documents,
    "voyageai": voyageai,
    "ollama": ollama,
    "cohere-embed": cohere,
}


def answer(embed: Callable[..., Vectors], job: dict[str, Any]) -> dict[str, Any]:
    body = dict(job["body"])
    try:
        return {"vectors": embed(job["url"], body.pop("model"), body.pop("input"), **body)}
    except Exception as exc:  # noqa: BLE001 - whatever the user would see
        return {"error": str(exc)}


if __name__ == "__main__":
    embed = CLIENTS[sys.argv[1]]
    answers, sys.stdout = sys.stdout, sys.stderr  # what a client prints is no answer
    for line in sys.stdin:
        print(json.dumps(answer(embed, json.loads(line))), file=answers, flush=True)
