"""Released Python clients that rerank, each called as its users call it.

usage: rerankers.py CLIENT

A job comes as one JSON line on standard input: `url` (the server's, without a path) and `body` (`model`, `query`,
`documents` and perhaps `top_n`). Its answer is one JSON line: `results` (pairs of index and score, in the order that
the client hands over), or the `error` that the user sees.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

# No client looks for anything beyond the server.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "COHERE_API_KEY": "any"}

Results = list[tuple[int, float]]


def _cohere(client: Any, model: str, query: str, documents: list[str], **more: int) -> Results:
    answer = client.rerank(model=model, query=query, documents=documents, **more)
    assert answer.id
    assert answer.meta.billed_units.search_units == 1
    return [(each.index, each.relevance_score) for each in answer.results]


def cohere_v1(url: str, *job: Any, **more: int) -> Results:
    import cohere

    return _cohere(cohere.Client(api_key="any", base_url=url), *job, **more)


def cohere_v2(url: str, *job: Any, **more: int) -> Results:
    import cohere

    return _cohere(cohere.ClientV2(api_key="any", base_url=url), *job, **more)


def voyageai(url: str, model: str, query: str, documents: list[str], top_n: int | None = None) -> Results:
    import voyageai

    client = voyageai.Client(base_url=f"{url}/v1", api_key="any", max_retries=3)
    answer = client.rerank(query, documents, model=model, top_k=top_n, truncation=False)
    assert answer.total_tokens > 0
    assert all(each.document == documents[each.index] for each in answer.results)
    return [(each.index, each.relevance_score) for each in answer.results]


def litellm(provider: str, path: str = "") -> Callable[..., Results]:
    def rerank(url: str, model: str, query: str, documents: list[str], **more: int) -> Results:
        import litellm

        answer = litellm.rerank(
            model=f"{provider}/{model}",
            query=query,
            documents=documents,
            api_base=f"{url}{path}",
            api_key="any",
            **more,
        )
        assert all(each["document"]["text"] == documents[each["index"]] for each in answer.results)
        return [(each["index"], each["relevance_score"]) for each in answer.results]

    return rerank


def _langchain(compressor: Any, query: str, documents: list[str]) -> Results:
    from langchain_core.documents import Document

    found = compressor.compress_documents(
        [Document(text, metadata={"i": i}) for i, text in enumerate(documents)], query
    )
    return [(each.metadata["i"], each.metadata["relevance_score"]) for each in found]


def langchain_cohere(url: str, model: str, query: str, documents: list[str], top_n: int | None = None) -> Results:
    from langchain_cohere import CohereRerank

    return _langchain(
        CohereRerank(base_url=url, cohere_api_key="any", model=model, top_n=top_n or len(documents)), query, documents
    )


def langchain_jina(url: str, model: str, query: str, documents: list[str], top_n: int | None = None) -> Results:
    from langchain_community.document_compressors import JinaRerank, jina_rerank

    jina_rerank.JINA_API_URL = f"{url}/v1/rerank"
    return _langchain(JinaRerank(jina_api_key="any", model=model, top_n=top_n or len(documents)), query, documents)


def _llama_index(reranker: Any, query: str, documents: list[str]) -> Results:
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(documents)]
    return [(int(each.node.node_id), each.score) for each in reranker.postprocess_nodes(nodes, QueryBundle(query))]


def llama_index_cohere(url: str, model: str, query: str, documents: list[str], top_n: int | None = None) -> Results:
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    reranker = CohereRerank(base_url=url, api_key="any", model=model, top_n=top_n or len(documents))
    return _llama_index(reranker, query, documents)


def llama_index_jina(url: str, model: str, query: str, documents: list[str], top_n: int | None = None) -> Results:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    reranker = JinaRerank(base_url=f"{url}/v1", api_key="any", model=model, top_n=top_n or len(documents))
    return _llama_index(reranker, query, documents)


CLIENTS: dict[str, Callable[..., Results]] = {
    "cohere-v1": cohere_v1,
    "cohere-v2": cohere_v2,
    "voyageai-rerank": voyageai,
    "litellm-cohere": litellm("cohere"),
    "litellm-jina": litellm("jina_ai"),
    "litellm-vllm": litellm("hosted_vllm"),
    # Infinity answers documents as strings, where all others answer objects.
    "litellm-infinity": litellm("infinity", "/infinity"),
    "langchain-cohere": langchain_cohere,
    "langchain-jina": langchain_jina,
    "llama-index-cohere": llama_index_cohere,
    "llama-index-jina": llama_index_jina,
}


def answer(rerank: Callable[..., Results], job: dict[str, Any]) -> dict[str, Any]:
    body = dict(job["body"])
    try:
        return {"results": rerank(job["url"], body.pop("model"), body.pop("query"), body.pop("documents"), **body)}
    except Exception as exc:  # noqa: BLE001 - whatever the user would see
        return {"error": f"{type(exc).__name__}: {exc}"}


if __name__ == "__main__":
    rerank = CLIENTS[sys.argv[1]]
    answers, sys.stdout = sys.stdout, sys.stderr  # what a client prints is no answer
    for line in sys.stdin:
        print(json.dumps(answer(rerank, json.loads(line))), file=answers, flush=True)
