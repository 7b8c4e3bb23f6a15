"""vLLM's routes that OpenAI's API does not have; its score and classify are at `provider.dialects.scores`."""

from dataclasses import replace

from litestar.openapi.spec import OpenAPIType, Schema

from provider.dialects.dialect import Dialect, Route
from provider.dialects.openai.api import envelope
from provider.dialects.openai.schemas import (
    ID,
    INPUT,
    MODEL,
    NUMBERS,
    OPTIONS,
    list_of,
    listing,
    object_of,
    optional,
    request_of,
    text,
)
from provider.dialects.scores.operations import CLASSIFY_REQUEST
from provider.dialects.vllm.pooling import pool
from provider.dialects.vllm.tokens import answer_detokenize, answer_tokenize

_POOLING_PATH, _TOKENIZE_PATH, _DETOKENIZE_PATH = "/pooling", "/tokenize", "/detokenize"

_TASK = "Default: what the model gives."
_POOLING_REQUEST = Schema(
    description="As `POST /v1/embeddings`, or with `classify` as `POST /v1/classify`.",
    any_of=[
        request_of(
            ["input", "model"],
            {
                "input": INPUT,
                "model": MODEL,
                "task": text(_TASK, enum=["embed", "token_embed"]),
                **{name: each for name, each in OPTIONS.items() if name != "output_types"},
            },
        ),
        replace(
            CLASSIFY_REQUEST,
            properties={**(CLASSIFY_REQUEST.properties or {}), "task": optional(text(_TASK, enum=["classify"]))},
        ),
    ],
)
_POOLING_RESPONSE = listing(
    {
        "object": text("Always `pooling`."),
        "data": Schema(
            description="A vector, a vector for each token, or the probability of each label.",
            any_of=[NUMBERS, list_of(NUMBERS), text("A vector in base64.", content_encoding="base64")],
        ),
    },
    before={
        "id": text("`pool-` and the request's id in the log."),
        "created": Schema(type=OpenAPIType.INTEGER),
    },
)

_IDS = list_of(ID)
_TOKENIZE_REQUEST = request_of(
    ["prompt", "model"],
    {
        "prompt": text("A text."),
        "model": MODEL,
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
_DETOKENIZE_REQUEST = request_of(["tokens", "model"], {"tokens": _IDS, "model": MODEL})
_DETOKENIZE_RESPONSE = object_of(["prompt"], prompt=text("The text, special tokens included."))

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
