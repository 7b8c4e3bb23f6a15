"""Frameworks of retrieval that bring clients of several APIs: Haystack, LangChain's Cohere and Jina, LlamaIndex."""

from typing import Any

Found = tuple[list[list[float]], int | None]
Results = list[tuple[int, float]]


def haystack_text(url: str, model: str, texts: list[str], **more: int) -> Found:
    from haystack.components.embedders import OpenAITextEmbedder
    from haystack.utils import Secret

    embedder = OpenAITextEmbedder(api_base_url=url, api_key=Secret.from_token("any"), model=model, **more)
    answers = [embedder.run(text) for text in texts]
    return [each["embedding"] for each in answers], sum(each["meta"]["usage"]["total_tokens"] for each in answers)


def haystack_documents(url: str, model: str, texts: list[str], **more: int) -> Found:
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
    answer = embedder.run([Document(content=text) for text in texts])
    return [each.embedding for each in answer["documents"]], answer["meta"]["usage"]["total_tokens"]


def langchain_cohere(url: str, model: str, texts: list[str]) -> Found:
    from langchain_cohere import CohereEmbeddings

    client = CohereEmbeddings(base_url=url, cohere_api_key="any", model=model, truncate="NONE")
    return client.embed_documents(texts), None


def _langchain_ranked(compressor: Any, query: str, documents: list[str]) -> Results:
    from langchain_core.documents import Document

    found = compressor.compress_documents(
        [Document(text, metadata={"i": i}) for i, text in enumerate(documents)], query
    )
    return [(each.metadata["i"], each.metadata["relevance_score"]) for each in found]


def langchain_cohere_rerank(
    url: str, model: str, query: str, documents: list[str], top_n: int | None = None
) -> Results:
    from langchain_cohere import CohereRerank

    client = CohereRerank(base_url=url, cohere_api_key="any", model=model, top_n=top_n or len(documents))
    return _langchain_ranked(client, query, documents)


def langchain_jina_rerank(url: str, model: str, query: str, documents: list[str], top_n: int | None = None) -> Results:
    from langchain_community.document_compressors import JinaRerank, jina_rerank

    jina_rerank.JINA_API_URL = url
    client = JinaRerank(jina_api_key="any", model=model, top_n=top_n or len(documents))
    return _langchain_ranked(client, query, documents)


def llama_index_openai(url: str, model: str, texts: list[str], **more: int) -> Found:
    from llama_index.embeddings.openai import OpenAIEmbedding

    client = OpenAIEmbedding(model_name=model, api_base=url, api_key="any", **more)
    return client.get_text_embedding_batch(texts), None


def llama_index_openai_like(url: str, model: str, texts: list[str], **more: int) -> Found:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    client = OpenAILikeEmbedding(model_name=model, api_base=url, api_key="any", **more)
    return client.get_text_embedding_batch(texts), None


def llama_index_cohere(url: str, model: str, texts: list[str]) -> Found:
    from llama_index.embeddings.cohere import CohereEmbedding

    client = CohereEmbedding(
        model_name=model, base_url=url, api_key="any", input_type="search_document", truncate="NONE"
    )
    return client.get_text_embedding_batch(texts), None


def llama_index_ollama(url: str, model: str, texts: list[str]) -> Found:
    from llama_index.embeddings.ollama import OllamaEmbedding

    return OllamaEmbedding(model_name=model, base_url=url).get_text_embedding_batch(texts), None


def llama_index_tei(url: str, model: str, texts: list[str]) -> Found:
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    client = TextEmbeddingsInference(model_name=model, base_url=url)
    return client.get_text_embedding_batch(texts), None


def _llama_index_ranked(reranker: Any, query: str, documents: list[str]) -> Results:
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(documents)]
    return [(int(each.node.node_id), each.score) for each in reranker.postprocess_nodes(nodes, QueryBundle(query))]


def llama_index_cohere_rerank(
    url: str, model: str, query: str, documents: list[str], top_n: int | None = None
) -> Results:
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    reranker = CohereRerank(base_url=url, api_key="any", model=model, top_n=top_n or len(documents))
    return _llama_index_ranked(reranker, query, documents)


def llama_index_jina_rerank(
    url: str, model: str, query: str, documents: list[str], top_n: int | None = None
) -> Results:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    reranker = JinaRerank(base_url=url, api_key="any", model=model, top_n=top_n or len(documents))
    return _llama_index_ranked(reranker, query, documents)


CLIENTS = {
    "haystack-text": haystack_text,
    "haystack-documents": haystack_documents,
    "langchain-cohere": langchain_cohere,
    "langchain-cohere-rerank": langchain_cohere_rerank,
    "langchain-jina-rerank": langchain_jina_rerank,
    "llama-index-openai": llama_index_openai,
    "llama-index-openai-like": llama_index_openai_like,
    "llama-index-cohere": llama_index_cohere,
    "llama-index-ollama": llama_index_ollama,
    "llama-index-tei": llama_index_tei,
    "llama-index-cohere-rerank": llama_index_cohere_rerank,
    "llama-index-jina-rerank": llama_index_jina_rerank,
}
