"""What holds for every dialect: switched by a setting, named by lists, metrics and log, errors in its own shape."""

import json
from typing import Any

import attrs
import pytest

from provider.dialects.registry import DIALECTS, Dialects
from provider.settings import AuthSettings, DialectSettings, LogSettings, ServerSettings
from provider.telemetry.logs import configure_logging

OTHERS = [each for each in DIALECTS if each.name != "openai"]


def test_every_dialect_but_openais_has_a_switch_which_is_on() -> None:
    assert [each.name for each in attrs.fields(DialectSettings)] == sorted(each.name for each in OTHERS)
    assert Dialects.of(DialectSettings()).off == []


@pytest.mark.parametrize("dialect", OTHERS, ids=lambda dialect: dialect.name)
async def test_a_dialect_that_is_off_says_how_to_switch_it_on(open_app: Any, dialect: Any) -> None:
    async with open_app(dialects=DialectSettings(**{dialect.name: False}), wait=False) as client:
        assert dialect.name not in (await client.get("/v1/models")).json()["dialects"]
        for path in {dialect.paths[0], f"{dialect.paths[0]}/more"}:
            response = await client.post(path, json={})
            assert response.status_code == 404
            assert f"dialects: {{{dialect.name}: true}}" in response.text


async def test_lists_and_headings_name_the_dialects(client: Any) -> None:
    assert (await client.get("/v1/models")).json()["dialects"] == [each.name for each in DIALECTS]
    document = (await client.get("/openapi.json")).json()
    used = {tag for path in document["paths"].values() for each in path.values() for tag in each["tags"]}
    assert {each.title for each in OTHERS} <= used
    assert {each.title for each in OTHERS} <= {each["name"] for each in document["tags"]}


async def test_metrics_and_the_log_name_the_dialect(client: Any, capsys: Any) -> None:
    configure_logging(LogSettings(format="json"))
    await client.post("/v1/embeddings", json={"model": "org/model", "input": "a"})
    await client.post("/openai/v1/embeddings", json={"model": "nope", "input": "a"})
    await client.get("/openai/nothing")
    await client.get("/health")
    text = (await client.get("/metrics")).text
    for name, status, count in (("openai", 200, 1), ("azure", 404, 2)):
        assert f'emb_provider_dialect_requests_total{{dialect="{name}",status="{status}"}} {count}.0' in text
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    found = [each.get("dialect") for each in lines if each["event"] == "request" and each["path"] != "/metrics"]
    assert found[:3] == ["openai", "azure", "azure"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
async def test_what_no_dialect_has_read_yet_is_refused_in_the_shape_of_its_path(open_app: Any, dialect: Any) -> None:
    async with open_app(auth=AuthSettings(keys=["key"]), server=ServerSettings(max_body_bytes=1024)) as client:
        # Nothing but its body tells whose request to a shared path is.
        for route in (each for each in dialect.routes if not each.told_by):
            path = route.paths[0].replace("{deployment:path}", "m/embeddings")
            keys = set(dialect.write_error(_failure(path)))
            without = await client.post(path, json={})
            large = await client.post(path, content=b" " * 2000, headers={"authorization": "Bearer key"})
            method = await client.delete(path)
            assert [each.status_code for each in (without, large, method)] == [401, 413, 405]
            assert all(set(each.json()) == keys for each in (without, large, method))


async def test_the_dialect_of_a_shared_path_is_told_by_fields_with_a_value(client: Any) -> None:
    body = {"model": "org/model", "texts": ["a"], "inputs": None}
    content = json.dumps(body).encode()
    for each in (content, b"\xef\xbb\xbf" + content):
        response = await client.post("/embed", content=each)
        assert response.json()["texts"] == ["a"]


async def test_a_body_that_several_dialects_claim_or_none_is_that_of_the_first(open_app: Any) -> None:
    async with open_app(auth=AuthSettings(keys=["key"])) as client:
        headers = {"authorization": "Bearer key"}
        for content in ('{"inputs": "a", "texts": ["a"]}', "{}", "[]", "no JSON"):
            response = await client.post("/embed", content=content, headers=headers)
            assert (response.status_code, {*response.json()}) == (400, {"error", "error_type"})
        assert {*(await client.post("/embed", content="{}")).json()} == {"error", "error_type"}
        assert {*(await client.get("/embed", headers=headers)).json()} == {"error", "error_type"}
    async with open_app(dialects=DialectSettings(tei=False)) as client:
        assert {*(await client.post("/embed", content="{}")).json()} == {"id", "message"}


def _failure(path: str) -> Any:
    from provider.dialects.dialect import Failure

    return Failure(400, "message", "type", path=path)
