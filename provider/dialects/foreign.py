"""Fields of other APIs that mean the same on every route that runs a model; each route adds its own.

Names and values are those of Cloudflare, Fireworks, Hugging Face, Isaacus, Jina, LoRAX, Mixedbread, Nomic, Pinecone,
SGLang, Superlinked, TEI, Vertex AI, vLLM, Voyage and watsonx.
"""

from collections.abc import Mapping
from typing import Any

from provider.dialects.fields import ForeignField, Read, alias_of, only, refusal
from provider.dialects.truncation import LimitFields, token_limit, truncates, truncation_side
from provider.errors import InvalidRequest

CUT_AT_MAXIMUM = 'Send "truncate": true to cut at the model\'s maximum, or "max_tokens" to cut to fewer tokens.'
_AS_CONFIGURED = "Adapters are no part of a request: serve the merged model under a name of its own."
_WHOLE = "Every text goes through the model as a whole: split it on your side."
_Words = bool | str | None
_Whole = int | float | None


def _cuts(word: str, truncate: bool | str) -> Read:  # noqa: FBT001 - a value of the wire
    """Reads a field whose value `word` is `truncate`, where others average over parts or drop the start."""

    def read(body: LimitFields, name: str, value: str, given_as: dict[str, str]) -> None:
        if value.lower() != word:
            raise refusal(name, value, (word,), f"{CUT_AT_MAXIMUM} {_WHOLE}")
        truncates(body, name, truncate, given_as)

    return read


def _nested(_body: object, name: str, value: object, _given_as: dict[str, str]) -> None:
    """Fields inside a field, which others read and this service does not."""
    given = [key for key, each in value.items() if each not in (None, "", [])] if isinstance(value, dict) else [""]
    if given:
        named = f" ({', '.join(given)[:100]})" if given[0] else ""
        msg = f"Unsupported parameter: '{name}'. Put its fields{named} into the body itself, beside the model."
        raise InvalidRequest(msg, param=name, code="unsupported_parameter")


COMMON: Mapping[str, ForeignField] = {
    **{name: ForeignField(_Words, truncates) for name in ("truncation", "truncation_strategy")},
    **{name: ForeignField(bool | None, truncates) for name in ("auto_truncate", "autoTruncate", "truncate_inputs")},
    **{name: ForeignField(_Whole, token_limit) for name in ("truncate_prompt_tokens", "truncate_input_tokens")},
    **{name: ForeignField(_Whole, alias_of("max_tokens")) for name in ("max_length", "max_seq_length")},
    "long_text_mode": ForeignField(str | None, _cuts("truncate", True)),  # noqa: FBT003 - a value of the wire
    "overflow_strategy": ForeignField(str | None, _cuts("drop_end", "END")),
    # After the fields that ask for truncation: see `truncation_side`.
    **{name: ForeignField(str | None, truncation_side) for name in ("truncation_side", "truncation_direction")},
    **{
        name: ForeignField(Any, only(instead=CUT_AT_MAXIMUM))
        for name in ("max_query_length", "query_max_length", "passage_max_length")
    },
    **{
        name: ForeignField(Any, only(False, instead=_WHOLE))  # noqa: FBT003 - a value of the wire
        for name in ("chunking", "chunk_size", "chunk_overlap", "enable_auto_chunking", "overlap", "overlap_tokens")
    },
    "add_special_tokens": ForeignField(
        bool | None,
        only(True, instead="The model needs its special tokens."),  # noqa: FBT003
    ),
    **{
        name: ForeignField(Any, only(instead=_AS_CONFIGURED))
        for name in ("lora_id", "lora_path", "adapter_id", "adapter_source")
    },
    **{name: ForeignField(Any, _nested) for name in ("parameters", "params", "options", "extra_body")},
}
"""What changes nothing is not listed, and so ignored: `user`, `priority`, `request_id`, `cache_salt`, `padding`."""
