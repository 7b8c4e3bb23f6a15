"""OpenAI's API, which is always on: it answers at every path that no other dialect has."""

from typing import Any

from provider.dialects.dialect import Dialect, Failure, Route
from provider.dialects.openai.embeddings import EmbeddingsController
from provider.dialects.openai.models import ModelsController
from provider.dialects.scores.controller import ScoresController, answer_rerank
from provider.dialects.scores.operations import RERANK_ANSWER, RERANK_EXAMPLE, RERANK_REQUEST
from provider.http.routes import COHERE_PATHS, RERANK_PATHS


def envelope(failure: Failure) -> dict[str, Any]:
    """OpenAI's error body, all four keys present, and `detail`: the one key that Voyage's and Jina's clients read.

    On the paths that Cohere's clients use, with the one key that some of them read: `message`.
    """
    message = failure.message
    error = {"message": message, "type": failure.type, "param": failure.param, "code": failure.code}
    body = {"error": error, "detail": message}
    return body | ({"message": message} if failure.path in COHERE_PATHS else {})


OPENAI = Dialect(
    name="openai",
    title="OpenAI",
    description="",
    paths=(),
    write_error=envelope,
    routes=(
        Route(
            RERANK_PATHS, answer_rerank, RERANK_REQUEST, RERANK_ANSWER, RERANK_EXAMPLE, tag="Scores", tasks=["rerank"]
        ),
    ),
    handlers=(EmbeddingsController, ScoresController, ModelsController),
)
