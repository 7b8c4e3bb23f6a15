"""Ids of OpenAI's tokenizer cl100k_base, as LangChain sends them, back to the text that they were made of."""

import lzma
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from provider.domain import Ids
from provider.errors import InvalidInput

OPENAI_MODELS = frozenset({"text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"})
"""OpenAI's models that have this tokenizer."""

# Clients send them only when told to, and the text is what they were told to send.
_SPECIAL = {
    100257: b"<|endoftext|>",
    100258: b"<|fim_prefix|>",
    100259: b"<|fim_middle|>",
    100260: b"<|fim_suffix|>",
    100276: b"<|endofprompt|>",
}


@cache
def tokens() -> Mapping[int, bytes]:
    """All tokens by id, 10 MB; the first call takes some 0.1 s."""
    packed = lzma.decompress((files("provider.engine") / "data" / "cl100k.xz").read_bytes())
    found, start = [], 0
    while start < len(packed):
        end = start + 1 + packed[start]
        found.append(packed[start + 1 : end])
        start = end
    return dict(enumerate(found)) | _SPECIAL


def decode(inputs: Sequence[Ids]) -> tuple[str, ...]:
    """The text of each input. A character of which ids have only a part becomes U+FFFD, as tiktoken decodes it.

    Raises:
        InvalidInput: an id is not one of the tokenizer's.
    """
    known = tokens()
    return tuple(_text(index, ids.tolist(), known) for index, ids in enumerate(inputs))


def _text(index: int, ids: Sequence[int], known: Mapping[int, bytes]) -> str:
    try:
        return b"".join([known[each] for each in ids]).decode("utf-8", "replace")
    except KeyError as exc:
        reason = (
            f"token id {exc.args[0]} is outside OpenAI's vocabulary cl100k_base (0 to 100255, and special ones). Send "
            "ids of that tokenizer, or strings."
        )
        raise InvalidInput(index, reason) from exc
