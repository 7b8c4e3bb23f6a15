"""All released clients that are run, by how many use them: how each is told of the server, and what it cannot do."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from client_environments import (
    AGENTS,
    CHROMA,
    COHERE,
    FRAMEWORKS,
    HERE,
    JDK,
    NEWEST,
    NODE,
    OPENAI_0,
    OPENAI_1,
    PROXY,
    PYDANTIC_AI,
    SEMANTIC_KERNEL,
    V1,
    Client,
)

OPENAI, LITELLM, APIS, FRAMEWORK = "of_openai", "of_litellm", "of_apis", "of_frameworks"
# What a client has no means for, by the names of checks.
NO_USAGE, NO_DIMENSIONS, NO_MODEL = "usage", "dimensions", "unknown model"
# Those of clients that show no error.
BLIND = ("429", "503")

# What many have in common: an API of its own, one request only, texts that are cut, an order instead of vectors.
_own, _once = partial(Client, has_own_api=True), partial(Client, retries=())
_cutting = partial(_once, has_own_api=True, cuts=True)
_ranker, _once_ranker = partial(Client, reranks=True), partial(_once, reranks=True)
_litellm = partial(_once, package="litellm", environment=NEWEST, program=LITELLM, setting="api_base")
_litellm_ranker = partial(_litellm, reranks=True)

CLIENTS = (
    Client("openai-python", "openai", NEWEST, OPENAI, "base_url", V1),
    Client("openai-python", "openai", OPENAI_1, OPENAI, "base_url", V1),
    _once("openai-python-0", "openai", OPENAI_0, OPENAI, "api_base", V1, lacks=["503"]),
    Client("openai-python-azure", "openai", NEWEST, OPENAI, "azure_endpoint", HERE),
    Client("openai-python-azure-async", "openai", OPENAI_1, OPENAI, "azure_endpoint", HERE),
    _once("openai-python-0-azure", "openai", OPENAI_0, OPENAI, "api_base", HERE, lacks=["503"]),
    Client("openai-node", "openai", NODE, "", "baseURL", V1),
    Client("openai-node-4", "openai-4", NODE, "", "baseURL", V1),
    Client("openai-node-azure", "openai", NODE, "", "endpoint", HERE),
    Client("openai-node-4-azure", "openai-4", NODE, "", "endpoint", HERE),
    Client("langchain-openai", "langchain-openai", NEWEST, OPENAI, "base_url", V1, splits=2500, lacks=[NO_USAGE]),
    Client("langchain-openai-azure", "langchain-openai", NEWEST, OPENAI, "azure_endpoint", HERE, lacks=[NO_USAGE]),
    Client("langchain-openai-js", "@langchain/openai", NODE, "", "configuration.baseURL", V1, lacks=[NO_USAGE]),
    _cutting("langchain-ollama", "langchain-ollama", NEWEST, APIS, "base_url", HERE, lacks=[NO_USAGE, NO_MODEL]),
    _own(
        *("langchain-cohere", "langchain-cohere", FRAMEWORKS, FRAMEWORK, "base_url", HERE),
        lacks=[NO_USAGE, NO_DIMENSIONS],
    ),
    Client(
        *("llama-index-openai", "llama-index-embeddings-openai", FRAMEWORKS, FRAMEWORK, "api_base", V1),
        splits=2500,
        lacks=[NO_USAGE],
    ),
    Client(
        *("llama-index-openai-like", "llama-index-embeddings-openai-like", FRAMEWORKS, FRAMEWORK, "api_base", V1),
        splits=2500,
        lacks=[NO_USAGE],
    ),
    _own(
        *("llama-index-cohere", "llama-index-embeddings-cohere", FRAMEWORKS, FRAMEWORK, "base_url", HERE),
        model="embed-english-v3.0",
        lacks=[NO_USAGE, NO_DIMENSIONS, NO_MODEL],
    ),
    _cutting(
        *("llama-index-ollama", "llama-index-embeddings-ollama", FRAMEWORKS, FRAMEWORK, "base_url", HERE),
        lacks=[NO_USAGE, NO_DIMENSIONS],
    ),
    Client(
        "llama-index-tei",
        "llama-index-embeddings-text-embeddings-inference",
        *(FRAMEWORKS, FRAMEWORK, "base_url", HERE),
        cuts=True,
        lacks=[NO_USAGE, NO_DIMENSIONS, NO_MODEL, *BLIND],
    ),
    Client("haystack-text", "haystack-ai", NEWEST, FRAMEWORK, "api_base_url", V1),
    Client("haystack-documents", "haystack-ai", NEWEST, FRAMEWORK, "api_base_url", V1, splits=2500),
    _litellm("litellm-openai", url=V1, retries=(429, 503)),
    _litellm("litellm-azure", url=HERE, retries=(429, 503)),
    _litellm("litellm-hosted-vllm", url=V1),
    _litellm("litellm-infinity", url=V1),
    _litellm("litellm-jina-ai", url=V1),
    _litellm("litellm-voyage", url=V1),
    _litellm("litellm-cohere", url=f"{HERE}/v2/embed", has_own_api=True, cuts=True),
    _litellm("litellm-ollama", url=HERE, has_own_api=True, cuts=True),
    Client("litellm-proxy", "litellm", PROXY, LITELLM, "api_base", V1),
    Client("ai-sdk-openai", "@ai-sdk/openai", NODE, "", "baseURL", V1, splits=10_000),
    Client("ai-sdk-openai-compatible", "@ai-sdk/openai-compatible", NODE, "", "baseURL", V1, splits=2500),
    Client("ai-sdk-azure", "@ai-sdk/azure", NODE, "", "baseURL", f"{HERE}/openai/v1", splits=2500),
    Client("ai-sdk-azure-deployments", "@ai-sdk/azure", NODE, "", "baseURL", f"{HERE}/openai", splits=2500),
    _own("ai-sdk-cohere", "@ai-sdk/cohere", NODE, "", "baseURL", f"{HERE}/v2", lacks=[NO_DIMENSIONS]),
    Client("chroma-openai", "chromadb", CHROMA, APIS, "api_base", V1, lacks=[NO_USAGE, NO_DIMENSIONS]),
    Client("chroma-azure", "chromadb", CHROMA, APIS, "api_base", HERE, lacks=[NO_USAGE, NO_DIMENSIONS]),
    _own("chroma-cohere", "chromadb", CHROMA, APIS, "CO_API_URL", HERE, cuts=True, lacks=[NO_USAGE, NO_DIMENSIONS]),
    _once("chroma-jina", "chromadb", CHROMA, APIS, "_api_url", V1, lacks=[NO_USAGE]),
    _cutting("chroma-ollama", "chromadb", CHROMA, APIS, "url", HERE, lacks=[NO_USAGE, NO_DIMENSIONS]),
    _once(
        *("chroma-huggingface-server", "chromadb", CHROMA, APIS, "url", f"{HERE}/embed"),
        has_own_api=True,
        lacks=["too long", NO_USAGE, NO_DIMENSIONS, NO_MODEL, *BLIND],
    ),
    _own("cohere-v1", "cohere", COHERE, APIS, "base_url", HERE, splits=2500, lacks=[NO_DIMENSIONS]),
    _own("cohere-v2", "cohere", COHERE, APIS, "base_url", HERE),
    _own("cohere-js-v1", "cohere-ai", NODE, "", "environment", HERE, lacks=[NO_DIMENSIONS]),
    _own("cohere-js-v2", "cohere-ai", NODE, "", "environment", HERE),
    _once("ollama", "ollama", NEWEST, APIS, "host", HERE, has_own_api=True),
    _once("ollama-js", "ollama", NODE, "", "host", HERE, has_own_api=True),
    Client("voyageai", "voyageai", NEWEST, APIS, "base_url", V1),
    Client("voyageai-js", "voyageai", NODE, "", "environment", V1),
    _once(
        *("huggingface_hub", "huggingface_hub", NEWEST, APIS, "base_url", HERE),
        has_own_api=True,
        lacks=[NO_USAGE, NO_MODEL],
    ),
    _own(
        *("huggingface-js", "@huggingface/inference", NODE, "", "endpointUrl", HERE),
        retries=(503,),
        lacks=[NO_USAGE, NO_MODEL],
    ),
    Client("semantic-kernel", "semantic-kernel", SEMANTIC_KERNEL, OPENAI, "async_client", V1),
    Client("pydantic-ai", "pydantic-ai-slim", PYDANTIC_AI, OPENAI, "base_url", V1),
    Client("mem0", "mem0ai", AGENTS, OPENAI, "openai_base_url", V1, lacks=[NO_USAGE]),
    Client("dspy", "dspy", AGENTS, LITELLM, "api_base", V1, lacks=[NO_USAGE]),
    Client(
        *("llm", "llm", PYDANTIC_AI, OPENAI, "OPENAI_BASE_URL", V1),
        model="text-embedding-3-small",
        lacks=[NO_USAGE, NO_DIMENSIONS, NO_MODEL],
    ),
    _once("java.net.http", "", JDK, "", "URI", f"{V1}/embeddings"),
    _ranker("cohere-v1-rerank", "cohere", COHERE, APIS, "base_url", HERE),
    _ranker("cohere-v2-rerank", "cohere", COHERE, APIS, "base_url", HERE),
    _ranker("cohere-js-v1-rerank", "cohere-ai", NODE, "", "environment", HERE),
    _ranker("cohere-js-v2-rerank", "cohere-ai", NODE, "", "environment", HERE),
    _ranker("ai-sdk-cohere-rerank", "@ai-sdk/cohere", NODE, "", "baseURL", f"{HERE}/v2"),
    _ranker("voyageai-rerank", "voyageai", NEWEST, APIS, "base_url", V1),
    _litellm_ranker("litellm-cohere-rerank", url=HERE),
    _litellm_ranker("litellm-jina-ai-rerank", url=HERE),
    _litellm_ranker("litellm-hosted-vllm-rerank", url=HERE),
    _litellm_ranker("litellm-infinity-rerank", url=f"{HERE}/infinity"),
    _ranker("langchain-cohere-rerank", "langchain-cohere", FRAMEWORKS, FRAMEWORK, "base_url", HERE),
    _once_ranker(
        *("langchain-jina-rerank", "langchain-community", FRAMEWORKS, FRAMEWORK, "JINA_API_URL", f"{V1}/rerank")
    ),
    _ranker(
        *("llama-index-cohere-rerank", "llama-index-postprocessor-cohere-rerank"),
        *(FRAMEWORKS, FRAMEWORK, "base_url", HERE),
    ),
    _once_ranker(
        *("llama-index-jina-rerank", "llama-index-postprocessor-jinaai-rerank"),
        *(FRAMEWORKS, FRAMEWORK, "base_url", V1),
    ),
)


def install(clients: Iterable[Client]) -> None:
    """What the clients need, at once; returns soon where it is there."""
    environments = {client.environment for client in clients}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda environment: environment.install(), environments))
