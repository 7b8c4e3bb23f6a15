"""vLLM's routes that OpenAI's API does not have; its score and classify are at `provider.dialects.scores`."""

from litestar.openapi.spec import OpenAPIType, Schema

from provider.dialects.dialect import Dialect, Route
from provider.dialects.openai.api import envelope
from provider.dialects.openai.schemas import REQUEST, TRUNCATED, USAGE, text
from provider.dialects.vllm.pooling import pool

_POOLING_PATH = "/pooling"

_POOLING_REQUEST = Schema(
    type=OpenAPIType.OBJECT,
    required=["input", "model"],
    description="Further fields as those of `POST /v1/embeddings`, or with `classify` of `POST /v1/classify`.",
    properties={
        "input": (REQUEST.properties or {})["input"],
        "model": text("A model's name or alias."),
        "task": text("Default: what the model gives.", enum=["embed", "token_embed", "classify"]),
    },
)
_NUMBERS = Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.NUMBER))
_POOLING_RESPONSE = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "id": text("`pool-` and the request's id in the log."),
        "object": text("Always `list`."),
        "created": Schema(type=OpenAPIType.INTEGER),
        "model": text("The model as the request named it."),
        "data": Schema(
            type=OpenAPIType.ARRAY,
            items=Schema(
                type=OpenAPIType.OBJECT,
                properties={
                    "index": Schema(type=OpenAPIType.INTEGER),
                    "object": text("Always `pooling`."),
                    "data": Schema(
                        description="A vector, a vector for each token, or the probability of each label.",
                        one_of=[_NUMBERS, Schema(type=OpenAPIType.ARRAY, items=_NUMBERS)],
                    ),
                },
            ),
        ),
        "usage": USAGE,
        "truncated": TRUNCATED,
    },
)

VLLM = Dialect(
    name="vllm",
    title="vLLM",
    description="vLLM's pooling.",
    paths=(_POOLING_PATH,),
    write_error=envelope,
    routes=(
        Route(
            [_POOLING_PATH],
            pool,
            _POOLING_REQUEST,
            _POOLING_RESPONSE,
            {"model": "all-MiniLM-L6-v2", "input": ["A cat."], "task": "embed"},
            tasks=["embed", "classify"],
        ),
    ),
)
