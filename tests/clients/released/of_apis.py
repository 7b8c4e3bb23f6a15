"""Python clients of other APIs than OpenAI's: Cohere, Voyage, Ollama, Hugging Face, and Chroma's functions for all."""

import os
import sys
from typing import Any

Found = tuple[list[list[float]], int | None]
Results = list[tuple[int, float]]


def _cohere(client: Any, model: str, texts: list[str], **more: Any) -> Found:
    answer = client.embed(
        model=model,
        texts=texts,
        input_type="search_document",
        embedding_types=["float"],
        truncate="NONE",
        **more,
    )
    return answer.embeddings.float_, int(answer.meta.billed_units.input_tokens)


def cohere_v1(url: str, *job: Any) -> Found:
    import cohere

    return _cohere(cohere.Client(api_key="any", base_url=url), *job)


def cohere_v2(url: str, *job: Any, dimensions: int | None = None) -> Found:
    import cohere

    return _cohere(cohere.ClientV2(api_key="any", base_url=url), *job, output_dimension=dimensions)


def _cohere_ranked(client: Any, **job: Any) -> Results:
    answer = client.rerank(**job)
    assert answer.id
    assert answer.meta.billed_units.search_units == 1
    return [(each.index, each.relevance_score) for each in answer.results]


def cohere_v1_rerank(url: str, **job: Any) -> Results:
    import cohere

    return _cohere_ranked(cohere.Client(api_key="any", base_url=url), **job)


def cohere_v2_rerank(url: str, **job: Any) -> Results:
    import cohere

    return _cohere_ranked(cohere.ClientV2(api_key="any", base_url=url), **job)


def voyageai(url: str, model: str, texts: list[str], dimensions: int | None = None) -> Found:
    import voyageai

    client = voyageai.Client(base_url=url, api_key="any", max_retries=3)
    answer = client.embed(texts, model=model, truncation=False, output_dimension=dimensions)
    return answer.embeddings, answer.total_tokens


def voyageai_rerank(url: str, model: str, query: str, documents: list[str], top_n: int | None = None) -> Results:
    import voyageai

    client = voyageai.Client(base_url=url, api_key="any", max_retries=3)
    answer = client.rerank(query, documents, model=model, top_k=top_n, truncation=False)
    assert answer.total_tokens > 0
    assert all(each.document == documents[each.index] for each in answer.results)
    return [(each.index, each.relevance_score) for each in answer.results]


def ollama(url: str, model: str, texts: list[str], **more: int) -> Found:
    import ollama

    answer = ollama.Client(url).embed(model, texts, truncate=False, **more)
    return list(answer.embeddings), answer.prompt_eval_count


def langchain_ollama(url: str, model: str, texts: list[str], **more: int) -> Found:
    from langchain_ollama import OllamaEmbeddings

    client = OllamaEmbeddings(base_url=url, model=model, validate_model_on_init=True, **more)
    return client.embed_documents(texts), None


def huggingface_hub(url: str, _model: str, texts: list[str], **more: int) -> Found:
    os.environ["HF_HUB_OFFLINE"] = "0"  # it would not ask a server of one's own either
    from huggingface_hub import InferenceClient

    return InferenceClient(base_url=url).feature_extraction(texts, **more), None


def chroma_openai(url: str, model: str, texts: list[str]) -> Found:
    from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction

    return OpenAIEmbeddingFunction(model_name=model, api_base=url)(texts), None


def chroma_azure(url: str, model: str, texts: list[str]) -> Found:
    from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction

    options = {"api_type": "azure", "api_base": url, "api_version": "2024-10-21", "deployment_id": model}
    return OpenAIEmbeddingFunction(model_name=model, **options)(texts), None


def chroma_cohere(url: str, model: str, texts: list[str]) -> Found:
    os.environ["CO_API_URL"] = url
    for name in [each for each in sys.modules if each.partition(".")[0] == "cohere"]:
        del sys.modules[name]  # it looks for the URL when it is imported
    from chromadb.utils.embedding_functions import CohereEmbeddingFunction

    return CohereEmbeddingFunction(model_name=model, api_key="any")(texts), None


def chroma_jina(url: str, model: str, texts: list[str], **more: int) -> Found:
    from chromadb.utils.embedding_functions import JinaEmbeddingFunction

    function = JinaEmbeddingFunction(model_name=model, api_key="any", **more)
    function._api_url = f"{url}/embeddings"  # it has no setting for that
    return function(texts), None


def chroma_ollama(url: str, model: str, texts: list[str]) -> Found:
    from chromadb.utils.embedding_functions import OllamaEmbeddingFunction

    return OllamaEmbeddingFunction(url=url, model_name=model)(texts), None


def chroma_huggingface_server(url: str, _model: str, texts: list[str]) -> Found:
    from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer

    return HuggingFaceEmbeddingServer(url=url)(texts), None


CLIENTS = {
    "cohere-v1": cohere_v1,
    "cohere-v2": cohere_v2,
    "cohere-v1-rerank": cohere_v1_rerank,
    "cohere-v2-rerank": cohere_v2_rerank,
    "voyageai": voyageai,
    "voyageai-rerank": voyageai_rerank,
    "ollama": ollama,
    "langchain-ollama": langchain_ollama,
    "huggingface_hub": huggingface_hub,
    "chroma-openai": chroma_openai,
    "chroma-azure": chroma_azure,
    "chroma-cohere": chroma_cohere,
    "chroma-jina": chroma_jina,
    "chroma-ollama": chroma_ollama,
    "chroma-huggingface-server": chroma_huggingface_server,
}
