"""Runs a released Python client as its users call it.

usage: run.py MODULE CLIENT

A job comes as one JSON line on standard input: `url` (that the client is configured with) and `body`, an OpenAI request
(`model`, `input` and perhaps `dimensions`) or one to rerank (`model`, `query`, `documents` and perhaps `top_n`). The
answer is one JSON line: `vectors` and `tokens` (null where the client does not show its usage), `results` (pairs of
index and score, in the order that the client hands over), or the `error` that the user sees.
"""

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

# No client looks for anything beyond the server, or keeps what it was answered for another time.
os.environ |= {
    "ANONYMIZED_TELEMETRY": "False",
    "CO_API_KEY": "any",
    "COHERE_API_KEY": "any",
    "DSPY_CACHEDIR": tempfile.mkdtemp(),
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LLM_USER_PATH": tempfile.mkdtemp(),
    "MEM0_DIR": tempfile.mkdtemp(),
    "MEM0_TELEMETRY": "False",
    "OPENAI_API_KEY": "any",
}


def answer(call: Callable[..., Any], url: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the client hands over, by name; an embedder's is a pair."""
    try:
        if "query" in body:
            return {"results": call(url, **body)}
        vectors, tokens = call(url, body.pop("model"), body.pop("input"), **body)
        return {"vectors": [[float(number) for number in vector] for vector in vectors], "tokens": tokens}
    except Exception as exc:  # noqa: BLE001 - whatever the user would see
        return {"error": f"{type(exc).__name__}: {exc}"}


if __name__ == "__main__":
    module, client = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # what a client prints is no answer
    call = importlib.import_module(module).CLIENTS[client]
    for line in sys.stdin:
        print(json.dumps(answer(call, **json.loads(line))), file=answers, flush=True)
