"""Fields of other embedding APIs that would change the answer: each is read as one of ours, or refused.

Names and values are those of Bedrock, Cohere, DashScope, DeepInfra, Fireworks, FlagEmbedding, Gemini, Jina, llama.cpp,
Mixedbread, Nomic, NVIDIA NIM, sentence-transformers, Superlinked, TEI, vLLM and Voyage.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from provider.dialects.fields import (
    BodyReader,
    ForeignField,
    Read,
    alias_of,
    contradiction,
    only,
    refusal,
)
from provider.dialects.foreign import COMMON
from provider.domain import DENSE, MULTI_VECTOR, SCORES, SPARSE
from provider.errors import InvalidRequest
from provider.tasks.quantisation import ElementType

_YES, _NO = True, False


class OwnFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /v1/embeddings` under their own names. Most bodies hold nothing else, and decode fastest."""

    # msgspec takes no union of several array types; `wire` refuses the mixtures that this one lets through.
    input: str | dict[str, Any] | list[str | int | list[int] | dict[str, Any]] | None = None
    model: str | None = None
    encoding_format: str | None = None
    dimensions: int | float | None = None
    truncate: bool | str | None = None
    max_tokens: int | float | None = None
    input_type: str | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    normalize: bool | None = None
    output_types: str | list[str] | None = None
    output_dtype: str | None = None
    user: Any = None


_ELEMENT_TYPES: dict[str, ElementType] = {
    "": "float32",
    "none": "float32",
    "float": "float32",
    "float32": "float32",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
}
# As Superlinked and ColBERT's users spell it.
_OUTPUTS = {"multivector": MULTI_VECTOR, "multi-vector": MULTI_VECTOR, "colbert": MULTI_VECTOR}


def element_type(value: str | None, param: str = "output_dtype") -> ElementType:
    """What a value of `output_dtype`, or of the field `param`, means.

    Raises:
        InvalidRequest: it is none that is served.
    """
    found = _ELEMENT_TYPES.get((value or "").lower())
    if found is None:
        served = ("float", "int8", "uint8", "binary", "ubinary")
        raise refusal(param, value, served, "Convert float vectors on your side for others.")
    return found


def output_types(value: str | list[str] | None) -> tuple[str, ...]:
    """The outputs that `output_types` names, each once; dense vectors where nothing was said.

    Raises:
        InvalidRequest: scores are among them, which are answered elsewhere.
    """
    names = [value] if isinstance(value, str) else value
    if not names or names == [""]:
        return (DENSE,)
    found = tuple(dict.fromkeys(_OUTPUTS.get(name.lower(), name.lower()) for name in names))
    if SCORES in found:
        msg = "Invalid value for 'output_types': 'scores'. Scores are at POST /v1/rerank, /v1/score and /v1/classify."
        raise InvalidRequest(msg, param="output_types", code="invalid_value")
    return found


def _element_type(body: OwnFields, name: str, value: str | list[str], given_as: dict[str, str]) -> None:
    """As Jina, Cohere and NIM have it: what the numbers are, or `base64`, which says how they are written as well."""
    kinds = [value] if isinstance(value, str) else value
    if len(kinds) > 1:
        msg = f"Invalid value for '{name}': {len(kinds)} types. Send one of them; an answer holds one."
        raise InvalidRequest(msg, param=name, code="invalid_value")
    if kinds[0].lower() == "base64":
        alias_of("encoding_format")(body, name, "base64", given_as)
    else:
        _dtype(body, name, kinds[0], given_as)


def _dtype(body: OwnFields, name: str, value: str, given_as: dict[str, str]) -> None:
    element_type(value, name)
    alias_of("output_dtype", same=element_type)(body, name, value, given_as)


def _wants(output: str) -> Read:
    """As FlagEmbedding has it: a switch for each output."""

    def read(body: OwnFields, name: str, value: object, given_as: dict[str, str]) -> None:
        present = output_types(body.output_types)
        if body.output_types and "output_types" not in given_as:
            if (output in present) is not value:
                raise contradiction(name, value, "output_types", body.output_types)
            return
        kept = [each for each in present if each != output]
        body.output_types = [*kept, output] if value else kept
        given_as["output_types"] = name
        if not body.output_types:
            msg = f"Invalid value for '{name}': {str(value).lower()}. Nothing is left to answer; ask for an output."
            raise InvalidRequest(msg, param=name, code="invalid_value")

    return read


_AS_PROMPT = 'Send the whole text that goes before each input, as the model\'s card has it, as "prompt".'
_ONLY_INPUT = "Texts are read from `input` only: a string or a list of strings."

_DIMENSIONS = (
    "output_dimension",
    "output_dimensionality",
    "outputDimensionality",
    "dimension",
    "dimensionality",
    "truncate_dim",
    "matryoshka_dim",
)
_INSTRUCTIONS = (
    "instruction",
    "instruct",
    "custom_instruction",
    "query_instruction",
    "embed_instruction",
    "task_description",
    "prompt_template",
    "query_template",
    "doc_template",
)

_Text = str | None
_Texts = str | list[str] | None
_Flag = bool | None
_Whole = int | float | None

FOREIGN: Mapping[str, ForeignField] = {
    **COMMON,
    **{name: ForeignField(_Whole, alias_of("dimensions")) for name in _DIMENSIONS},
    **{name: ForeignField(_Text, alias_of("input_type")) for name in ("task", "task_type", "taskType", "text_type")},
    "is_query": ForeignField(_Flag, alias_of("input_type", turned=lambda value: "query" if value else "document")),
    "prefix": ForeignField(_Text, alias_of("prompt")),
    "normalized": ForeignField(_Flag, alias_of("normalize")),
    "normalize_embeddings": ForeignField(_Flag, alias_of("normalize")),
    # vLLM's name for it: an embedding's activation is its normalisation.
    "use_activation": ForeignField(_Flag, alias_of("normalize")),
    # llama.cpp's: 2 is the Euclidean length.
    "embd_normalize": ForeignField(int | None, only(2, instead='For vectors as they are, send "normalize": false.')),
    "embedding_type": ForeignField(_Texts, _element_type),
    "embedding_types": ForeignField(_Texts, _element_type),
    "embeddingTypes": ForeignField(_Texts, _element_type),
    **{name: ForeignField(_Text, _dtype) for name in ("embed_dtype", "precision", "dtype", "quantization")},
    "endianness": ForeignField(_Text, only("little", "native", instead="base64 is little-endian.")),
    # DashScope's `dense&sparse`.
    "output_type": ForeignField(
        _Text, alias_of("output_types", turned=lambda value: value.split("&"), same=output_types)
    ),
    "output_value": ForeignField(
        _Text, only("sentence_embedding", instead='For the vectors of tokens, send "output_types": ["multi_vector"].')
    ),
    "return_sparse": ForeignField(_Flag, _wants(SPARSE)),
    "return_multivector": ForeignField(_Flag, _wants(MULTI_VECTOR)),
    "return_colbert_vecs": ForeignField(_Flag, _wants(MULTI_VECTOR)),
    # After those that add an output.
    "return_dense": ForeignField(_Flag, _wants(DENSE)),
    "late_chunking": ForeignField(
        _Flag, only(_NO, instead="Every input is embedded by itself: put the context into the text.")
    ),
    "return_logits": ForeignField(Any, only(_NO, instead="Send texts to POST /v1/classify.")),
    "pooling": ForeignField(Any, only(instead="The model's files decide its pooling; `GET /v1/models` shows it.")),
    **{name: ForeignField(Any, only(instead=_AS_PROMPT)) for name in _INSTRUCTIONS},
    "title": ForeignField(_Text, only(instead='Put it into the text, as the model\'s card says, or into "prompt".')),
    "max_active_dims": ForeignField(Any, only(instead="Keep the largest weights on your side.")),
    "pruning_ratio": ForeignField(Any, only(instead="Keep the largest weights on your side.")),
    "muvera": ForeignField(Any, only(instead="Encode the multi-vectors on your side.")),
    "modality": ForeignField(_Texts, only("text", instead="Only text is embedded.")),
    "messages": ForeignField(Any, only(instead=_ONLY_INPUT)),
    "inputs": ForeignField(Any, only(instead=_ONLY_INPUT)),
    "texts": ForeignField(Any, only(instead=_ONLY_INPUT)),
    "content": ForeignField(Any, only(instead=_ONLY_INPUT)),
    **{
        name: ForeignField(Any, only(instead=f"Only text is embedded. {_ONLY_INPUT}"))
        for name in ("images", "image", "audio", "video")
    },
}

READER = BodyReader(OwnFields, FOREIGN)
