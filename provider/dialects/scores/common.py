"""What the requests for scores have in common: fields of other APIs, texts, and reports of what was cut."""

from collections.abc import Mapping, Sequence
from typing import Any

from provider.dialects.fields import SHOWN_CHARACTERS, ForeignField, alias_of, only
from provider.dialects.foreign import COMMON, CUT_AT_MAXIMUM
from provider.domain import Scored, Truncated
from provider.errors import InvalidRequest

_TEXT_ONLY = "Only text is scored."
_AS_FILES_SAY = 'Scores are activated as the model\'s files say; send "raw_scores": true for logits.'
_AS_INSTRUCTION = 'The model\'s own template is used; send "instruction" to models whose template has a place for one.'
_ACTIVATIONS = (
    "activation",
    "activation_fn",
    "softmax",
    "apply_softmax",
    "sigmoid",
    "function_to_apply",
    "normalize",
)
_PROMPTS = (
    "prompt",
    "prompt_name",
    "prompt_template",
    "query_template",
    "doc_template",
    "document_template",
    "chat_template",
    "chat_template_kwargs",
)

_Text, _Flag = str | None, bool | None

SHARED: Mapping[str, ForeignField] = {
    **COMMON,
    # vLLM's, in this and in former versions.
    "use_activation": ForeignField(_Flag, alias_of("raw_scores", turned=lambda value: not value)),
    **{name: ForeignField(Any, only(instead=_AS_FILES_SAY)) for name in _ACTIVATIONS},
    "max_tokens_per_query": ForeignField(Any, only(instead=CUT_AT_MAXIMUM)),
    **{
        name: ForeignField(_Text, only("float", "float32", "none", instead="Scores are float32 numbers."))
        for name in ("dtype", "output_dtype", "quantization")
    },
    "instruct": ForeignField(_Text, alias_of("instruction")),
    **{name: ForeignField(Any, only(instead=_AS_INSTRUCTION)) for name in _PROMPTS},
    **{
        name: ForeignField(Any, only(instead="Every score is answered: choose on your side."))
        for name in ("threshold", "score_threshold", "min_score")
    },
    **{
        name: ForeignField(Any, only(instead="All of the model's layers are used."))
        for name in ("cutoff_layers", "compress_layers", "compress_ratio")
    },
    **{name: ForeignField(Any, only(instead=_TEXT_ONLY)) for name in ("messages", "images", "image", "audio", "video")},
}
"""Fields of other APIs that every request for scores reads or refuses."""


def text_of(given: str | Mapping[str, Any], param: str) -> str:
    """The text of a string, or of an object with `text` (Cohere's, Jina's) that holds nothing to be looked at.

    Raises:
        InvalidRequest: it has none, or an image beside it.
    """
    if isinstance(given, str):
        return given
    text = given.get("text")
    other = [key for key in ("image", "images", "content", "video", "audio") if given.get(key) not in (None, "", [])]
    if not isinstance(text, str) or other:
        keys = ", ".join(other or sorted(given))[:SHOWN_CHARACTERS] or "nothing"
        msg = (
            f"Invalid type for '{param}': expected a string, but got an object with {keys} instead. "
            f'Of objects, {{"text": "…"}} is read. {_TEXT_ONLY}'
        )
        raise InvalidRequest(msg, param=param, code="invalid_type")
    return text


def texts_of(given: Sequence[str | Mapping[str, Any]], param: str, most: int) -> tuple[str, ...]:
    """The texts of a list; an empty text is one like any other.

    Raises:
        InvalidRequest: the list is empty or longer than `most`, or an entry has no text.
    """
    if not given:
        msg = f"Invalid '{param}': the array is empty. Send at least one string."
        raise InvalidRequest(msg, param=param, code="invalid_value")
    if len(given) > most:
        msg = f"Invalid '{param}': array length must be {most} or less. Got {len(given)}."
        raise InvalidRequest(msg, param=param, code="array_above_max_length")
    return tuple(text_of(each, f"{param}[{i}]") for i, each in enumerate(given))


def not_empty(text: str, param: str) -> str:
    """`text`.

    Raises:
        InvalidRequest: it is empty.
    """
    if not text:
        msg = f"Invalid '{param}': it cannot be an empty string."
        raise InvalidRequest(msg, param=param, code="invalid_value")
    return text


def missing(*, param: str) -> InvalidRequest:
    """The error for a field that must be there."""
    msg = f"Missing required parameter: '{param}'."
    return InvalidRequest(msg, param=param, code="missing_required_parameter")


def usage(scored: Scored) -> dict[str, int]:
    """As OpenAI has it."""
    return {"prompt_tokens": scored.usage.tokens, "total_tokens": scored.usage.tokens}


def cuts(truncated: Sequence[Truncated]) -> list[dict[str, int | None]]:
    """What was cut, as answers list it."""
    return [
        {"index": each.index, "kept_tokens": each.kept_tokens, "original_tokens": each.original_tokens}
        for each in truncated
    ]
