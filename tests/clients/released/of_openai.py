"""OpenAI's Python client in all its ages, against OpenAI's API and Azure's, and what is built on it alone."""

import asyncio
import os
from typing import Any

Found = tuple[list[list[float]], int | None]

VERSION = "2024-10-21"


def _asked(client: Any, model: str, texts: list[str], **more: int) -> Found:
    answer = client.embeddings.create(model=model, input=texts, **more)
    return [each.embedding for each in answer.data], answer.usage.total_tokens


def openai_python(url: str, *job: Any, **more: int) -> Found:
    import openai

    return _asked(openai.OpenAI(base_url=url, api_key="any"), *job, **more)


def azure(url: str, *job: Any, **more: int) -> Found:
    import openai

    return _asked(openai.AzureOpenAI(azure_endpoint=url, api_key="any", api_version=VERSION), *job, **more)


def azure_async(url: str, model: str, texts: list[str], **more: int) -> Found:
    import openai

    async def ask() -> Any:
        options = {"azure_endpoint": url, "azure_deployment": model, "api_key": "any", "api_version": VERSION}
        async with openai.AsyncAzureOpenAI(**options) as client:
            return await client.embeddings.create(model=model, input=texts, **more)

    answer = asyncio.run(ask())
    return [each.embedding for each in answer.data], answer.usage.total_tokens


def openai_0(url: str, model: str, texts: list[str], **more: int) -> Found:
    import openai

    answer = openai.Embedding.create(model=model, input=texts, api_base=url, api_key="any", **more)
    return [each["embedding"] for each in answer["data"]], answer["usage"]["total_tokens"]


def azure_0(url: str, model: str, texts: list[str], **more: int) -> Found:
    import openai

    options = {"api_type": "azure", "api_version": "2023-05-15", "api_base": url, "api_key": "any"}
    answer = openai.Embedding.create(engine=model, input=texts, **options, **more)
    return [each["embedding"] for each in answer["data"]], answer["usage"]["total_tokens"]


def langchain(url: str, model: str, texts: list[str], **more: int) -> Found:
    from langchain_openai import OpenAIEmbeddings

    client = OpenAIEmbeddings(base_url=url, api_key="any", model=model, check_embedding_ctx_length=False, **more)
    return client.embed_documents(texts), None


def langchain_azure(url: str, model: str, texts: list[str], **more: int) -> Found:
    from langchain_openai import AzureOpenAIEmbeddings

    client = AzureOpenAIEmbeddings(
        azure_endpoint=url,
        api_key="any",
        api_version=VERSION,
        model=model,
        check_embedding_ctx_length=False,
        **more,
    )
    return client.embed_documents(texts), None


def semantic_kernel(url: str, model: str, texts: list[str], **more: int) -> Found:
    from openai import AsyncOpenAI
    from semantic_kernel.connectors.ai.open_ai import OpenAIEmbeddingPromptExecutionSettings, OpenAITextEmbedding

    async def ask() -> Any:
        async with AsyncOpenAI(base_url=url, api_key="any") as client:
            service = OpenAITextEmbedding(ai_model_id=model, async_client=client)
            settings = OpenAIEmbeddingPromptExecutionSettings(**more)
            vectors = await service.generate_embeddings(texts, settings)
            return vectors, service.prompt_tokens

    return asyncio.run(ask())


def pydantic_ai(url: str, model: str, texts: list[str], **more: int) -> Found:
    from pydantic_ai import Embedder
    from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
    from pydantic_ai.providers.openai import OpenAIProvider

    embedder = Embedder(OpenAIEmbeddingModel(model, provider=OpenAIProvider(base_url=url, api_key="any")))
    result = embedder.embed_documents_sync(texts, settings=more or None)
    return result.embeddings, result.usage.input_tokens


def mem0(url: str, model: str, texts: list[str], dimensions: int | None = None) -> Found:
    from mem0.utils.factory import EmbedderFactory

    config = {"model": model, "openai_base_url": url, "api_key": "any", "embedding_dims": dimensions}
    return EmbedderFactory.create("openai", config, None).embed_batch(texts), None


def llm(url: str, model: str, texts: list[str]) -> Found:
    os.environ["OPENAI_BASE_URL"] = url
    import llm

    return list(llm.get_embedding_model(model).embed_multi(texts)), None


CLIENTS = {
    "openai-python": openai_python,
    "openai-python-azure": azure,
    "openai-python-azure-async": azure_async,
    "openai-python-0": openai_0,
    "openai-python-0-azure": azure_0,
    "langchain-openai": langchain,
    "langchain-openai-azure": langchain_azure,
    "semantic-kernel": semantic_kernel,
    "pydantic-ai": pydantic_ai,
    "mem0": mem0,
    "llm": llm,
}
