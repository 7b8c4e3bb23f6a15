"""Lines of output and error files."""

from typing import NamedTuple

import msgspec

from provider.jobs.calls import Answer

_encode = msgspec.json.encode


class Result(NamedTuple):
    """What became of a request.

    Attributes:
        is_answer: whether it belongs into the output file.
        line: JSON, with its end.
        tokens: as in its usage.
    """

    is_answer: bool
    line: bytes
    tokens: int = 0


def request_id(job_id: str, number: int) -> str:
    """Of the request in that line of a job."""
    return f"batch_req_{job_id.partition('_')[2]}_{number}"


def answered(name: str, custom_id: str, answer: Answer) -> Result:
    """Of a request that was run, whether with an answer or an error."""
    response = b'{"status_code":%d,"request_id":%b,"body":%b}' % (answer.status, _encode(name), answer.content)
    return Result(answer.status < 400, _line(name, custom_id, response, b"null"), answer.tokens)


def given_up(name: str, custom_id: str, code: str, message: str) -> Result:
    """Of a request that was not run."""
    return Result(False, _line(name, custom_id, b"null", _encode({"code": code, "message": message})))  # noqa: FBT003


def _line(name: str, custom_id: str, response: bytes, error: bytes) -> bytes:
    return b'{"id":%b,"custom_id":%b,"response":%b,"error":%b}\n' % (
        _encode(name),
        _encode(custom_id),
        response,
        error,
    )
