"""Ids of OpenAI's tokenizer, back to text."""

import base64
import hashlib
import lzma
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import ROOT

from provider.domain import EmbedRequest
from provider.engine.cl100k import decode, tokens
from provider.errors import InvalidInput, TokenIdsNotAccepted, TooManyTokens
from provider.settings import LimitSettings, ModelSettings, Settings

HELLO_WORLD = np.array([15339, 1917], np.int32)


PACKING = runpy.run_path(str(ROOT / "scripts" / "pack-cl100k"))


def test_the_vocabulary_is_the_published_one() -> None:
    lines = [b"%s %d\n" % (base64.b64encode(tokens()[each]), each) for each in range(100256)]
    assert hashlib.sha256(b"".join(lines)).hexdigest() == PACKING["SHA256"]


def test_packing_keeps_the_tokens_in_their_order() -> None:
    assert lzma.decompress(PACKING["pack"](b"aGk= 0\nIQ== 1\n")) == b"\x02hi\x01!"


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([15339, 1917], "hello world"),
        ([9468, 239], "\N{REPLACEMENT CHARACTER}"),  # the first three bytes of four
        ([100257], "<|endoftext|>"),
        ([], ""),
    ],
)
def test_ids_become_the_text_that_they_stand_for(ids: list[int], text: str) -> None:
    assert decode([np.array(ids, np.int32)]) == (text,)


@pytest.mark.parametrize("outside", [-1, 100256, 100261, 2**31 - 1])
def test_an_id_that_is_none_is_an_error_that_names_the_input(outside: int) -> None:
    with pytest.raises(InvalidInput, match=rf"input 1: token id {outside} is outside .*cl100k_base") as raised:
        decode([HELLO_WORLD, np.array([15339, outside], np.int32)])
    assert raised.value.index == 1


@pytest.fixture
def settings(minilm: Path) -> Callable[..., Settings]:
    """Of one model on the fake backend."""

    def made(limits: LimitSettings | None = None, **model: Any) -> Settings:
        single = ModelSettings(name="m", path=str(minilm), backend="fake", lanes=1, **model)
        return Settings(model=single, limits=limits or LimitSettings())

    return made


@pytest.mark.parametrize(
    ("setting", "name", "is_decoded"),
    [
        ("cl100k", "m", True),
        ("auto", "m", False),
        ("auto", "text-embedding-3-small", True),
        ("auto", "text-embedding-3-large", True),
        ("auto", "text-embedding-ada-002", True),
        ("auto", "mine", False),
        ("reject", "text-embedding-3-small", False),
    ],
)
async def test_ids_are_decoded_where_they_are_known_to_be_openais(
    open_service: Any, settings: Callable[..., Settings], setting: str, name: str, is_decoded: bool
) -> None:
    aliases = ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002", "mine"]
    ids = EmbedRequest(name, (HELLO_WORLD,), prompt="query: ")
    async with open_service(settings(aliases=aliases, token_input=setting)) as service:
        if is_decoded:
            text = await service.embed(EmbedRequest("m", ("hello world",), prompt="query: "))
            embedded = await service.embed(ids)
            np.testing.assert_array_equal(embedded.vectors, text.vectors)
            assert embedded.usage.tokens == text.usage.tokens
        else:
            with pytest.raises(TokenIdsNotAccepted, match="token_input: cl100k"):
                await service.embed(ids)


async def test_too_many_ids_are_refused_before_they_are_decoded(
    open_service: Any, settings: Callable[..., Settings]
) -> None:
    # A token of many blanks, of which the model's tokenizer would leave nothing.
    blanks = max(tokens(), key=lambda each: len(tokens()[each]))
    ids = EmbedRequest("m", (np.full(60, blanks, np.int32), np.full(41, blanks, np.int32)))
    limits = LimitSettings(max_request_tokens=100)
    async with open_service(settings(limits, token_input="cl100k")) as service:
        with pytest.raises(TooManyTokens, match="the request has 101 tokens, at most 100 are allowed"):
            await service.embed(ids)
