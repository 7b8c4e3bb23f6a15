"""vLLM's routes that OpenAI's API does not have; its score and classify are at `provider.dialects.scores`."""

from litestar.openapi.spec import OpenAPIType, Schema

from provider.dialects.dialect import Dialect, Route
from provider.dialects.openai.api import envelope
from provider.dialects.openai.schemas import NUMBERS, REQUEST, listing, text
from provider.dialects.vllm.pooling import pool
from provider.dialects.vllm.tokens import answer_detokenize, answer_tokenize

_POOLING_PATH, _TOKENIZE_PATH, _DETOKENIZE_PATH = "/pooling", "/tokenize", "/detokenize"

_MODEL = text("A model's name or alias.")
_POOLING_REQUEST = Schema(
    type=OpenAPIType.OBJECT,
    required=["input", "model"],
    description="Further fields as those of `POST /v1/embeddings`, or with `classify` of `POST /v1/classify`.",
    properties={
        "input": (REQUEST.properties or {})["input"],
        "model": _MODEL,
        "task": text("Default: what the model gives.", enum=["embed", "token_embed", "classify"]),
    },
)
_POOLING_RESPONSE = listing(
    {
        "object": text("Always `pooling`."),
        "data": Schema(
            description="A vector, a vector for each token, or the probability of each label.",
            one_of=[NUMBERS, Schema(type=OpenAPIType.ARRAY, items=NUMBERS)],
        ),
    },
    before={
        "id": text("`pool-` and the request's id in the log."),
        "created": Schema(type=OpenAPIType.INTEGER),
    },
)

_IDS = Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.INTEGER))
_TOKENIZE_REQUEST = Schema(
    type=OpenAPIType.OBJECT,
    required=["prompt", "model"],
    properties={
        "prompt": text("A text."),
        "model": _MODEL,
        "add_special_tokens": Schema(type=OpenAPIType.BOOLEAN, description="Default: true."),
        "return_token_strs": Schema(type=OpenAPIType.BOOLEAN, description="Whether `token_strs` is wanted."),
    },
)
_TOKENIZE_RESPONSE = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "count": Schema(type=OpenAPIType.INTEGER),
        "max_model_len": Schema(type=OpenAPIType.INTEGER, description="Most tokens of one input."),
        "tokens": _IDS,
        "token_strs": Schema(
            type=[OpenAPIType.ARRAY, OpenAPIType.NULL],
            items=Schema(type=OpenAPIType.STRING),
            description="The tokens as the vocabulary has them.",
        ),
    },
)
_DETOKENIZE_REQUEST = Schema(
    type=OpenAPIType.OBJECT, required=["tokens", "model"], properties={"tokens": _IDS, "model": _MODEL}
)
_DETOKENIZE_RESPONSE = Schema(
    type=OpenAPIType.OBJECT, properties={"prompt": text("The text, special tokens included.")}
)

VLLM = Dialect(
    name="vllm",
    title="vLLM",
    description="vLLM's pooling, and its tokenizer.",
    paths=(_POOLING_PATH, _DETOKENIZE_PATH, _TOKENIZE_PATH),
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
        # Bodies with `inputs` are TEI's.
        Route(
            [_TOKENIZE_PATH],
            answer_tokenize,
            _TOKENIZE_REQUEST,
            _TOKENIZE_RESPONSE,
            {"model": "all-MiniLM-L6-v2", "prompt": "A cat."},
            told_by=["prompt", "messages"],
        ),
        Route(
            [_DETOKENIZE_PATH],
            answer_detokenize,
            _DETOKENIZE_REQUEST,
            _DETOKENIZE_RESPONSE,
            {"model": "all-MiniLM-L6-v2", "tokens": [101, 1037, 4937, 1012, 102]},
        ),
    ),
)
