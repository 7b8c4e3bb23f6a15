"""LiteLLM with each of its providers that this service speaks, its proxy, and DSPy, which is built on it."""

import json
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Found = tuple[list[list[float]], int | None]
Results = list[tuple[int, float]]


def embedder(provider: str, **fixed: Any) -> Callable[..., Found]:
    def embed(url: str, model: str, texts: list[str], **more: int) -> Found:
        import litellm

        answer = litellm.embedding(
            model=f"{provider}/{model}", input=texts, api_base=url, api_key="any", **fixed, **more
        )
        return [each["embedding"] for each in answer.data], answer.usage.total_tokens

    return embed


def reranker(provider: str) -> Callable[..., Results]:
    def rerank(url: str, model: str, documents: list[str], **more: Any) -> Results:
        import litellm

        answer = litellm.rerank(model=f"{provider}/{model}", documents=documents, api_base=url, api_key="any", **more)
        assert all(each["document"]["text"] == documents[each["index"]] for each in answer.results)
        return [(each["index"], each["relevance_score"]) for each in answer.results]

    return rerank


def dspy(url: str, model: str, texts: list[str], **more: int) -> Found:
    import dspy

    client = dspy.Embedder(
        f"openai/{model}",
        api_base=url,
        api_key="any",
        caching=False,
        allowed_openai_params=["dimensions"],
        **more,
    )
    return client(texts), None


def proxy(url: str, model: str, texts: list[str], **more: int) -> Found:
    import openai

    # One proxy for all jobs: the server behind it comes with the request.
    client = openai.OpenAI(base_url=_proxy_url(), api_key=_PROXY_KEY, max_retries=0)
    answer = client.embeddings.create(model=model, input=texts, extra_body={"api_base": url}, **more)
    return [each.embedding for each in answer.data], answer.usage.total_tokens


_PROXY_KEY = f"sk-{secrets.token_hex(32)}"
_proxies: list[str] = []


def _proxy_url() -> str:
    if _proxies:
        return _proxies[0]
    import os

    import uvicorn

    parameters = {
        "model": "openai/*",
        "api_base": "http://localhost:1/v1",
        "api_key": "any",
        "allowed_openai_params": ["dimensions"],
        "configurable_clientside_auth_params": ["api_base"],
    }
    config = Path(tempfile.mkdtemp()) / "config.yaml"
    config.write_text(json.dumps({"model_list": [{"model_name": "*", "litellm_params": parameters}]}))
    os.environ |= {"CONFIG_FILE_PATH": str(config), "LITELLM_MASTER_KEY": _PROXY_KEY}
    from litellm.proxy.proxy_server import app

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 200
    while not server.started:
        assert thread.is_alive(), "the proxy ended at its start"
        assert time.monotonic() < deadline, "the proxy does not start"
        time.sleep(0.05)
    _proxies.append(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
    return _proxies[0]


_WITH_DIMENSIONS = {"allowed_openai_params": ["dimensions"]}

CLIENTS: dict[str, Callable[..., Any]] = {
    "litellm-openai": embedder("openai", **_WITH_DIMENSIONS),
    "litellm-azure": embedder("azure", api_version="2024-10-21", **_WITH_DIMENSIONS),
    "litellm-hosted-vllm": embedder("hosted_vllm"),
    "litellm-infinity": embedder("infinity"),
    "litellm-jina-ai": embedder("jina_ai"),
    "litellm-voyage": embedder("voyage"),
    "litellm-cohere": embedder("cohere"),
    "litellm-ollama": embedder("ollama"),
    "litellm-proxy": proxy,
    "dspy": dspy,
    "litellm-cohere-rerank": reranker("cohere"),
    "litellm-jina-ai-rerank": reranker("jina_ai"),
    "litellm-hosted-vllm-rerank": reranker("hosted_vllm"),
    # Infinity answers documents as strings, where all others answer objects.
    "litellm-infinity-rerank": reranker("infinity"),
}
