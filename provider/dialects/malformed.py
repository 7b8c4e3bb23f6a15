"""Why a body is no JSON document that can be served: a sentence for each cause, with the way out.

Read only after decoding has failed, so that none of it costs a request that is well-formed.
"""

import json
import re
from typing import NoReturn

from provider.errors import InvalidRequest, MalformedJSON

UTF8_BOM = b"\xef\xbb\xbf"

_GZIP, _DEFLATE, _ZSTD = (
    f"It looks compressed ({name}): {advice}."
    for name, advice in (
        ("gzip", "send the header Content-Encoding: gzip"),
        ("deflate", "send the header Content-Encoding: deflate"),
        ("zstd", "send it as gzip or deflate with the header Content-Encoding, or uncompressed"),
    )
)
_UTF16, _UTF32 = (f"It is encoded as {name}. Encode it as UTF-8." for name in ("UTF-16", "UTF-32"))
_SINGLE_QUOTES = "It has single quotes, as Python prints them. JSON has double quotes: use a JSON encoder."
_TOO_EARLY = "It ends too early, after {size} bytes. Content-Length must count bytes, not characters."

# What bodies begin with that are no JSON at all; of two that fit, the first counts.
_STARTS = (
    (rb"\s*\Z", 'It is empty. Send a JSON object such as {"model": "NAME", "input": "text"}.'),
    (rb"\x1f\x8b", _GZIP),
    # `explain` gets a body without its first one.
    (UTF8_BOM, "It begins with two byte order marks or more. Send one at most."),
    (rb"x[\x01\x5e\x9c\xda]", _DEFLATE),
    (rb"\x28\xb5\x2f\xfd", _ZSTD),
    (rb"\xff\xfe\0\0|\0\0\xfe\xff", _UTF32),
    (rb"\xff\xfe|\xfe\xff", _UTF16),
    # JSON begins with ASCII, so zero bytes beside the first characters tell.
    (rb"\0\0\0[^\0]|[^\0]\0\0\0", _UTF32),
    (rb"\0[^\0]|[^\0]\0", _UTF16),
    (rb"\s*<", "It looks like HTML or XML. Send a JSON object."),
    (rb"\s*--", "It looks like multipart form data. Send a JSON object."),
    (rb"[\w.\[\]%+-]+=", "It looks like form data (name=value). Send a JSON object: curl -d '{...}'."),
    (rb"\s*[{\[]\s*'", _SINGLE_QUOTES),
)
# How the standard library's message begins, what stands where it stopped, and the sentence.
_STOPS = (
    ("Extra data", r"[{\[]", "Another document follows at character {at}. Send one object, with all texts in `input`."),
    ("Extra data", "", "Something follows the document at character {at}. Remove it."),
    ("Unterminated string", "", _TOO_EARLY),
    (
        "Invalid control character",
        "",
        "The string at character {at} has a raw line break or control character: escape it.",
    ),
    ("Invalid \\", "", "The backslash at character {at} begins no escape of JSON: write it as \\\\."),
    ("", r"\s*\Z", _TOO_EARLY),
    ("", "'", _SINGLE_QUOTES),
    (
        "",
        "[\u201c\u201d\u201e\u2018\u2019]",
        "It has typographic quotes at character {at}. JSON has plain double quotes.",
    ),
    ("", r"//|/\*|#", "It has a comment at character {at}. JSON has none."),
    ("", r"(True|False|None)\b", "JSON has true, false and null, not True, False and None (character {at})."),
    ("", "", "{message} at character {at}."),
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class _NoNumber(ValueError):
    """NaN or infinity, which the standard library would let through."""


def explain(body: bytes, cause: Exception) -> NoReturn:
    """Say what is wrong with `body`, whose decoding failed with `cause`.

    Raises:
        InvalidRequest: it is JSON, but a string in it is no Unicode; `param` is its field.
        MalformedJSON: it is no JSON.
    """
    reason = next((text for start, text in _STARTS if re.match(start, body)), None)
    msg = (
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
        "library correctly. This API expects a JSON payload, but what was sent was not valid JSON.) "
        f"{reason or _what_stops(body, cause)}"
    )
    raise MalformedJSON(msg) from cause


def is_encoded_twice(body: bytes) -> bool:
    """Whether a body that is one JSON string holds a JSON object."""
    try:
        return isinstance(json.loads(json.loads(body)), dict)
    except (ValueError, TypeError, RecursionError):
        return False


def _what_stops(body: bytes, cause: Exception) -> str:
    try:
        text = body.decode()
        document = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        return _not_utf8(body, exc)
    except RecursionError:
        return "Its arrays or objects are nested too deeply."
    except _NoNumber as exc:
        return f"JSON has no {exc}: send a number or null."
    except json.JSONDecodeError as exc:
        sentence = next(
            sentence
            for begins, there, sentence in _STOPS
            if exc.msg.startswith(begins) and re.compile(there).match(text, exc.pos)
        )
        return sentence.format(at=exc.pos, size=len(body), message=exc.msg)
    except ValueError:
        return "A number in it has too many digits."
    _refuse_surrogates(document, cause)
    return f"{cause}."


def _not_utf8(body: bytes, exc: UnicodeDecodeError) -> str:
    if exc.reason == "unexpected end of data":
        return _TOO_EARLY.format(size=len(body))
    if re.compile(rb"\xed[\xa0-\xbf]").match(body, exc.start):
        return f"Byte {exc.start} begins an unpaired surrogate, which UTF-8 has not. Replace or remove it."
    return (
        f"Byte {exc.start} (0x{body[exc.start]:02x}) is not valid UTF-8; the body may be encoded as Latin-1 or "
        "Windows-1252. Encode it as UTF-8."
    )


def _refuse_constant(name: str) -> NoReturn:
    raise _NoNumber(name)


def _refuse_surrogates(document: object, cause: Exception) -> None:
    """Name the field (`model`, `input`, `input[3]` …) of the first string with an unpaired surrogate."""
    fields = document.items() if isinstance(document, dict) else [("body", document)]
    for name, value in fields:
        parts = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, part in parts:
            if _has_surrogate([name, part]):
                param = "body" if _has_surrogate(name) else name if index is None else f"{name}[{index}]"
                msg = (
                    f"Invalid '{param}': it is not valid Unicode (an unpaired surrogate). Cut texts between "
                    "characters, or replace what cannot be encoded."
                )
                raise InvalidRequest(msg, param=param, code="invalid_value") from cause


def _has_surrogate(value: object) -> bool:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text if _SURROGATE.search(text):
                return True
            case dict() as item:
                waiting += [*item.keys(), *item.values()]
            case list() as items:
                waiting += items
    return False
