"""`GET /v1/usage`: what each key has used, as OpenAI's `/v1/organization/usage/embeddings` says it."""

import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypedDict

from litestar import Controller, Request, get

from provider.dialects.openai.operations import UsageOperation
from provider.errors import InvalidRequest
from provider.http.auth import RequireKey
from provider.http.openapi import NEEDS_KEY
from provider.http.routes import USAGE_PATHS
from provider.settings import Settings
from provider.usage.database import Group, UsageDatabase, Used

_DEFAULT_DAYS, _MOST_DAYS = 7, 31
_DAY_SECONDS = 86_400
_FIRST = datetime(1970, 1, 1, tzinfo=UTC).timestamp()
_LAST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_GROUPS: Mapping[str, Group] = {"api_key_id": "caller", "model": "model"}
_FILTERS: Mapping[str, Group] = {"api_key_ids": "caller", "models": "model"}
_KNOWN = {"start_time", "end_time", "bucket_width", "group_by", "limit", "page", *_FILTERS}


class UsageResult(TypedDict):
    """Usage of a day, of one key and model where they are grouped by; beside OpenAI's fields, ours."""

    object: Literal["organization.usage.embeddings.result"]
    input_tokens: int
    num_model_requests: int
    api_key_id: str | None
    model: str | None
    project_id: None
    user_id: None
    inputs: int
    documents: int
    cached: int
    truncated: int
    errors: int


class UsageBucket(TypedDict):
    """A day of UTC, in seconds since 1970."""

    object: Literal["bucket"]
    start_time: int
    end_time: int
    results: list[UsageResult]


class UsagePage(TypedDict):
    """Days in order."""

    object: Literal["page"]
    data: list[UsageBucket]
    has_more: bool
    next_page: str | None


class UsageController(Controller):
    """What each key has used."""

    middleware = [RequireKey]  # noqa: RUF012 - Litestar's way
    security = NEEDS_KEY
    tags = ["Service"]  # noqa: RUF012

    @get(USAGE_PATHS, operation_class=UsageOperation, opt={"is_admin": True})
    async def usage(self, request: Request[Any, Any, Any]) -> UsagePage:
        """Requests, tokens, inputs and errors by day, key and model; with keys configured, for admin keys."""
        query = _grouped(request.query_params.multi_items())
        settings: Settings = request.app.state.settings
        start_time = _number(query, "start_time", least=0)
        start = _date(int(time.time()) - (_DEFAULT_DAYS - 1) * _DAY_SECONDS if start_time is None else start_time)
        if page := query.get("page"):
            start = _page(page[-1])
        end_time = _number(query, "end_time", least=0)
        # A day that has begun is shown.
        end = _date(int(time.time()) if end_time is None else end_time - 1) + timedelta(days=1)
        days = _number(query, "limit", least=1, most=_MOST_DAYS) or _DEFAULT_DAYS
        if query.get("bucket_width", ["1d"]) != ["1d"]:
            msg = f"Invalid value for 'bucket_width': {query['bucket_width'][-1]!r}. Supported values are: '1d'."
            raise InvalidRequest(msg[:300], param="bucket_width", code="invalid_value")
        shown = [start + timedelta(days=number) for number in range(min(days, max(0, (end - start).days)))]
        by = _groups(query.get("group_by", []))
        only = {_FILTERS[name]: values for name, values in query.items() if name in _FILTERS}
        used = await asyncio.to_thread(_read, settings, shown, by, only)
        stop = start + timedelta(days=len(shown))
        return {
            "object": "page",
            "data": [_bucket(day, [each for each in used if each.day == day.isoformat()]) for day in shown],
            "has_more": stop < end,
            "next_page": stop.isoformat() if stop < end else None,
        }


def _read(
    settings: Settings, days: Sequence[date], by: Sequence[Group], only: Mapping[Group, Sequence[str]]
) -> list[Used]:
    if not days or settings.auth.usage_file is None:
        return []
    database = UsageDatabase.open_to_read(Path(settings.auth.usage_file))
    try:
        return database.read(["day", *by], since=days[0], until=days[-1] + timedelta(days=1), only=only)
    finally:
        database.close()


def _bucket(day: date, used: Sequence[Used]) -> UsageBucket:
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    return {
        "object": "bucket",
        "start_time": start,
        "end_time": start + _DAY_SECONDS,
        "results": [
            {
                "object": "organization.usage.embeddings.result",
                "input_tokens": each.counts.tokens,
                "num_model_requests": each.counts.requests,
                "api_key_id": each.caller,
                "model": each.model,
                "project_id": None,
                "user_id": None,
                "inputs": each.counts.inputs,
                "documents": each.counts.documents,
                "cached": each.counts.cached,
                "truncated": each.counts.truncated,
                "errors": each.counts.errors,
            }
            for each in used
        ],
    }


def _grouped(items: Iterable[tuple[str, Any]]) -> dict[str, list[str]]:
    """Values by name; lists come as `name`, as OpenAI's clients' `name[]`, and separated by commas."""
    query: dict[str, list[str]] = {}
    for key, value in items:
        name = key.removesuffix("[]")
        if name not in _KNOWN:
            msg = f"Unknown parameter: {name[:100]!r}. Supported are: {', '.join(sorted(_KNOWN))}."
            raise InvalidRequest(msg, param=name[:100], code="unknown_parameter")
        query.setdefault(name, []).extend(str(value).split(",") if name == "group_by" else [str(value)])
    return query


def _number(query: Mapping[str, Sequence[str]], name: str, *, least: int, most: int = int(_LAST)) -> int | None:
    if name not in query:
        return None
    text = query[name][-1]
    if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
        msg = f"Invalid value for '{name}': {text[:100]!r}. It is a whole number from {least} to {most}."
        raise InvalidRequest(msg, param=name, code="invalid_value")
    return int(text)


def _date(seconds: float) -> date:
    return datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), UTC).date()


def _page(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        msg = f"Invalid value for 'page': {text[:100]!r}. Send the `next_page` of the answer before."
        raise InvalidRequest(msg, param="page", code="invalid_value") from exc


def _groups(names: Sequence[str]) -> list[Group]:
    for name in names:
        if name not in _GROUPS:
            msg = f"Invalid value for 'group_by': {name[:100]!r}. Supported values are: {', '.join(_GROUPS)}."
            raise InvalidRequest(msg, param="group_by", code="invalid_value")
    return [_GROUPS[name] for name in names]
