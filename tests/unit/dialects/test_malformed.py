"""A body that cannot be read is refused with its own sentence."""

import codecs
import gzip
import json
import zlib

import pytest

from provider.dialects.openai import wire
from provider.errors import InvalidRequest, MalformedJSON

DOCUMENT = '{"model": "m", "input": "é"}'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "It is empty"),
        (b" \r\n\t", "It is empty"),
        (codecs.BOM_UTF8, "It is empty"),
        (gzip.compress(DOCUMENT.encode()), "send the header Content-Encoding: gzip"),
        (zlib.compress(DOCUMENT.encode()), "send the header Content-Encoding: deflate"),
        (zlib.compress(DOCUMENT.encode(), 9), "send the header Content-Encoding: deflate"),
        (b"\x28\xb5\x2f\xfd\x20", "zstd"),
        (DOCUMENT.encode("utf-16"), "It is encoded as UTF-16"),
        (DOCUMENT.encode("utf-16-le"), "It is encoded as UTF-16"),
        (DOCUMENT.encode("utf-16-be"), "It is encoded as UTF-16"),
        (codecs.BOM_UTF16_BE + DOCUMENT.encode("utf-16-be"), "It is encoded as UTF-16"),
        (DOCUMENT.encode("utf-32"), "It is encoded as UTF-32"),
        (DOCUMENT.encode("utf-32-le"), "It is encoded as UTF-32"),
        (DOCUMENT.encode("utf-32-be"), "It is encoded as UTF-32"),
        (DOCUMENT.encode("latin-1"), r"Byte 25 \(0xe9\) is not valid UTF-8; the body may be encoded as Latin-1"),
        (b'{"input": "\xed\xa0\xbd"}', "an unpaired surrogate"),
        (DOCUMENT.encode()[:-2], "It ends too early, after 27 bytes"),
        (DOCUMENT.encode()[:-3], "It ends too early, after 26 bytes. Content-Length must count bytes"),
        (b'{"model": "m", "input": ["a"', "It ends too early"),
        (b'{"model": "m"} {"model": "n"}', "Another document follows at character 15"),
        (b'{"model": "m"}}', "Something follows the document at character 14"),
        (b'{"model": "m", "input": NaN}', "JSON has no NaN"),
        (b'{"model": "m", "x": -Infinity}', "JSON has no -Infinity"),
        (b'{"model": "m", "x": None}', "not True, False and None"),
        (b"{'model': 'm'}", "single quotes"),
        (b"{\"model\": 'm'}", "single quotes"),
        (b'{"model": "m",}', "at character 14"),
        (b'{model: "m"}', "double quotes at character 1"),
        (b'{"input": "a\nb"}', "raw line break"),
        (rb'{"input": "C:\dir"}', "begins no escape of JSON"),
        (b"model=m&input=some+text", "form data"),
        (b"input=some text", "form data"),
        (b"<!doctype html>", "HTML"),
        (b"--boundary\r\n", "multipart"),
        (b'{"x": ' + b"[" * 100_000, "nested too deeply"),
        ("{“model”: “m”}".encode(), "typographic quotes at character 1"),
        (b'{"model": "m" /* mine */}', "a comment at character 14"),
        (b'// mine\n{"model": "m"}', "a comment at character 0"),
        (codecs.BOM_UTF8 * 100_000, "two byte order marks or more"),
        (codecs.BOM_UTF8 * 2 + DOCUMENT.encode(), "two byte order marks or more"),
        (b"hello", "Expecting value at character 0"),
    ],
)
def test_what_is_wrong_is_said(body: bytes, says: str) -> None:
    with pytest.raises(MalformedJSON, match=says) as raised:
        wire.parse(body, max_inputs=4)
    assert raised.value.message.startswith("We could not parse the JSON body of your request.")


def test_a_byte_order_mark_of_utf8_is_skipped() -> None:
    assert wire.parse(codecs.BOM_UTF8 + DOCUMENT.encode(), max_inputs=4).request.inputs == ("é",)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "\ud800"}, "input"),
        ({"input": ["a", "b\udfffc"]}, "input[1]"),
        ({"input": ["a", {"text": "\ud83d"}]}, "input[1]"),
        ({"model": "\ud800", "input": "a"}, "model"),
        ({"prompt": "\ud83d ", "input": "a"}, "prompt"),
        ({"user": "\ud83d", "input": "a"}, "user"),
        ({"metadata": {"deep": ["\ud83d"]}, "input": "a"}, "metadata"),
        ({"\ud83d": 1, "input": "a"}, "body"),
    ],
)
def test_an_unpaired_surrogate_is_named_by_its_field(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest, match="not valid Unicode") as raised:
        wire.parse(json.dumps({"model": "m"} | fields).encode(), max_inputs=4)
    assert (raised.value.param, raised.value.code) == (param, "invalid_value")


def test_a_pair_of_surrogates_is_a_character() -> None:
    body = json.dumps({"model": "m", "input": "😀"}).encode()
    assert b"\\ud83d\\ude00" in body
    assert wire.parse(body, max_inputs=4).request.inputs == ("😀",)


def test_a_body_that_was_encoded_twice_is_recognised() -> None:
    with pytest.raises(InvalidRequest, match="encoded as JSON twice"):
        wire.parse(json.dumps(DOCUMENT).encode(), max_inputs=4)
    with pytest.raises(InvalidRequest, match=r"but got a string instead\.$"):
        wire.parse(b'"hello"', max_inputs=4)
