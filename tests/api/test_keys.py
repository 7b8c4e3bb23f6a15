"""What keys allow, quotas, usage, and what is closed to callers without a key."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import attrs
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from provider.settings import AuthSettings, LogSettings, ModelSettings, ServerSettings, Settings
from provider.telemetry.logs import configure_logging

MODEL = "org/model"
INVALID = "invalid_request_error"


FIELDS: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "a"},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v1/score": {"text_1": "a", "text_2": "b"},
    "/v1/classify": {"input": "a"},
}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": "a"} | fields


def error_of(response: Any) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.fixture
def other(model: ModelSettings) -> ModelSettings:
    return attrs.evolve(model, name="other", aliases=["second"])


async def test_a_key_is_limited_to_its_models_under_all_their_names(open_app: Any, other: ModelSettings) -> None:
    auth = AuthSettings(keys=["all", f"one name=search models={MODEL}", "alias name=x models=second"])
    async with open_app(auth=auth, models=[other]) as client:

        async def listed(key: str) -> set[str]:
            data = (await client.get("/v1/models", headers=bearer(key))).json()["data"]
            return {each["root"] for each in data}

        assert await listed("all") == {MODEL, "other"}
        assert await listed("one") == {MODEL}
        assert await listed("alias") == {"other"}
        for model in ("other", "second"):
            for path, fields in FIELDS.items():
                for _ in range(3):
                    # What is cached for others is not for this key.
                    await client.post(path, headers=bearer("all"), json=fields | {"model": model})
                response = await client.post(path, headers=bearer("one"), json=fields | {"model": model})
                error = error_of(response)
                assert (response.status_code, error["type"], error["code"]) == (403, INVALID, "model_not_found")
                assert error["param"] == "model"
                assert f"does not have access to the model `{model}`. It has access to: {MODEL}." in error["message"]
            assert (await client.get(f"/v1/models/{model}", headers=bearer("one"))).status_code == 403
        for model in (MODEL, "text-embedding-3-small"):
            assert (await client.post("/v1/embeddings", headers=bearer("one"), json=body(model=model))).is_success
            assert (await client.get(f"/v1/models/{model}", headers=bearer("one"))).is_success
        unknown = await client.post("/v1/embeddings", headers=bearer("one"), json=body(model="nope"))
        assert unknown.status_code == 404
        assert "other" not in unknown.text


async def test_after_a_reload_keys_and_metrics_go_by_the_names_that_there_are_now(
    open_app: Any, model: ModelSettings, other: ModelSettings
) -> None:
    auth = AuthSettings(keys=["all", "limited name=x models=second"])
    async with open_app(auth=auth, models=[other]) as client:
        service = client.app.state.service
        moved = [attrs.evolve(other, aliases=[]), attrs.evolve(other, name="new", aliases=["second"])]
        service.reconfigure(Settings(model=model, models=moved))
        await service.runtimes["new"].start_loading()
        asked = {
            name: (await client.post("/v1/embeddings", headers=bearer("limited"), json=body(model=name))).status_code
            for name in ("second", "new", "other")
        }
        assert asked == {"second": 200, "new": 200, "other": 403}
        text = (await client.get("/metrics")).text
    assert 'emb_provider_caller_requests_total{caller="x",model="new",status="200"} 2.0' in text
    assert 'emb_provider_inputs_total{model="new"} 2.0' in text


async def test_a_request_without_a_model_means_the_only_one_that_its_key_may_use(
    open_app: Any, other: ModelSettings
) -> None:
    auth, server = AuthSettings(keys=["all", "one models=other"]), ServerSettings(default_model="only")
    async with open_app(auth=auth, models=[other], server=server) as client:
        found = await client.post("/v1/embeddings", headers=bearer("one"), json={"input": "a"})
        assert found.json()["model"] == "other"
        assert (await client.post("/v1/embeddings", headers=bearer("all"), json={"input": "a"})).status_code == 400


async def test_a_key_is_limited_to_its_tasks(open_app: Any) -> None:
    async with open_app(auth=AuthSettings(keys=["a tasks=rerank,score", "b tasks=none", "c tasks=embed"])) as client:
        for key, allowed in (("a", "rerank, score"), ("b", "no task")):
            response = await client.post("/v1/embeddings", headers=bearer(key), json=body())
            error = error_of(response)
            assert (response.status_code, error["type"], error["code"]) == (403, INVALID, "missing_scope")
            assert "Missing scopes: embed." in error["message"]
            assert f"It allows: {allowed}." in error["message"]
            assert (await client.get("/v1/models", headers=bearer(key))).is_success
        assert (await client.post("/v1/embeddings", headers=bearer("c"), json=body())).is_success


async def test_a_quota_is_told_in_openai_s_headers_and_refused_with_its_codes(open_app: Any) -> None:
    keys = ["free", "minute requests_per_minute=1000 tokens_per_minute=20", "day name=d requests_per_day=1"]
    async with open_app(auth=AuthSettings(keys=keys)) as client:
        free = await client.post("/v1/embeddings", headers=bearer("free"), json=body())
        assert not [name for name in free.headers if name.startswith("x-ratelimit")]

        # Three tokens each, cached or not; a minute may end in between, but not twice.
        for _ in range(3):
            answers = [await client.post("/v1/embeddings", headers=bearer("minute"), json=body()) for _ in range(8)]
            if answers[-1].status_code == 429:
                break
        first, last = answers[0], answers[-1]
        assert first.headers["x-ratelimit-limit-requests"] == "1000"
        assert first.headers["x-ratelimit-limit-tokens"] == "20"
        assert first.headers["x-ratelimit-reset-tokens"].endswith("s")
        error = error_of(last)
        assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
        assert 1 <= int(last.headers["retry-after"]) <= 59
        assert f"Please try again in {last.headers['retry-after']}s." in error["message"]
        assert "x-should-retry" not in last.headers
        large = await client.post("/v1/embeddings", headers=bearer("minute"), json=body(input=["a"] * 7))
        assert large.status_code == 429
        assert "Requested 21" in error_of(large)["message"] or "Please try again" in error_of(large)["message"]

        # A day may end in between, but not twice.
        for _ in range(3):
            refused = await client.post("/v1/embeddings", headers=bearer("day"), json=body())
            if refused.status_code == 429:
                break
        assert refused.status_code == 429
        error = error_of(refused)
        assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
        assert refused.headers["x-should-retry"] == "false"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        # What runs no model uses nothing.
        assert (await client.get("/v1/models", headers=bearer("day"))).is_success


async def test_a_request_above_the_quota_of_a_minute_is_not_to_be_tried_again(open_app: Any) -> None:
    async with open_app(auth=AuthSettings(keys=["key tokens_per_minute=5"])) as client:
        response = await client.post("/v1/embeddings", headers=bearer("key"), json=body(input=["a"] * 7))
        assert response.status_code == 429
        assert response.headers["x-should-retry"] == "false"
        assert error_of(response)["message"].startswith("Request too large for the key")


async def test_the_log_names_key_and_address_of_refused_requests_too_and_no_key(
    open_app: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogSettings())
    async with open_app(auth=AuthSettings(keys={"search": "secret-of-search tasks=embed"})) as client:
        await client.post("/v1/embeddings", headers=bearer("secret-of-search"), json=body())
        await client.post("/v1/rerank", headers=bearer("secret-of-search"), json={})
        await client.post("/v1/embeddings", headers=bearer("wrong-secret-of-search"), json=body())
        await client.post("/v1/embeddings", json=body())
    output = capsys.readouterr().err
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["status"], line.get("caller"), line["client"]) for line in requests] == [
        (200, "search", "127.0.0.1"),
        (403, "search", "127.0.0.1"),
        (401, None, "127.0.0.1"),
        (401, None, "127.0.0.1"),
    ]
    assert "secret" not in output


PROTECTED = {"docs": ["/docs", "/openapi.json", "/docs/openapi.json"], "metrics": ["/metrics"]}


async def test_what_is_protected_needs_a_key_and_metrics_an_admin_s(open_app: Any) -> None:
    auth = AuthSettings(keys=["user", "boss admin=yes"], protect=["docs", "metrics", "models"])
    async with open_app(auth=auth) as client:
        for what, paths in PROTECTED.items():
            for path in paths:
                statuses = [
                    (await client.get(path, headers=headers)).status_code
                    for headers in ({}, bearer("nope"), bearer("user"), bearer("boss"))
                ]
                assert statuses == [401, 401, 200 if what == "docs" else 403, 200], path
        for headers, models in (({}, []), (bearer("nope"), []), (bearer("user"), [MODEL])):
            assert (await client.get("/", headers=headers)).json()["models"] == models
            readiness = await client.get("/health/ready", headers=headers)
            assert (readiness.status_code, [*readiness.json()["models"]]) == (200, models)
            assert (await client.get("/health/live", headers=headers)).status_code == 200


async def test_metrics_count_by_key_with_bounded_labels(open_app: Any) -> None:
    async with open_app(auth=AuthSettings(keys={"search": "one", "ops": "two"})) as client:
        await client.post("/v1/embeddings", headers=bearer("one"), json=body())
        for number in range(3):
            await client.post("/v1/embeddings", headers=bearer("one"), json=body(model=f"unknown-{number}"))
            await client.post("/v1/embeddings", headers=bearer(f"nope-{number}"), json=body())
        await client.get("/v1/models", headers=bearer("two"))
        text = (await client.get("/metrics")).text
    found = {
        family.name: {tuple(each.labels.values()): each.value for each in family.samples if "created" not in each.name}
        for family in text_string_to_metric_families(text)
    }
    assert found["emb_provider_caller_requests"] == {("search", MODEL, "200"): 1, ("search", "", "404"): 3}
    assert found["emb_provider_caller_tokens"] == {("search", MODEL): 3, ("search", ""): 0}


async def test_usage_is_counted_by_key_and_read_by_admins_with_openai_s_client(open_app: Any, tmp_path: Path) -> None:
    keys = {"search": "one", "ops": "boss admin=yes"}
    auth = AuthSettings(keys=keys, usage_file=str(tmp_path / "usage"))
    async with open_app(auth=auth) as client:
        for texts in (["a", "a b"], ["a"]):
            assert (await client.post("/v1/embeddings", headers=bearer("one"), json=body(input=texts))).is_success
        await client.post("/v1/embeddings", headers=bearer("one"), json=body(model="nope"))
        await client.post("/v1/embeddings", headers=bearer("wrong"), json=body())
        await client.get("/v1/models", headers=bearer("one"))
        for headers, status in (({}, 401), (bearer("one"), 403), (bearer("boss"), 200)):
            assert (await client.get("/v1/usage", headers=headers)).status_code == status

        sdk = openai.AsyncOpenAI(
            base_url="http://testserver.local/v1", api_key="any", admin_api_key="boss", http_client=client
        )
        start = int(time.time()) - 86_400

        async def results(**query: Any) -> list[Any]:
            page = await sdk.admin.organization.usage.embeddings(start_time=start, **query)
            return [result for bucket in page.data for result in bucket.results]

        async with asyncio.timeout(120):
            while sum(each.num_model_requests for each in await results()) < 4:  # noqa: ASYNC110 - a thread writes
                await asyncio.sleep(0.05)
        by_key = {
            (each.api_key_id, each.model): each.to_dict() for each in await results(group_by=["api_key_id", "model"])
        }
        assert set(by_key) == {("search", MODEL), ("search", ""), ("", "")}
        ours = by_key["search", MODEL]
        assert {name: ours[name] for name in ("num_model_requests", "input_tokens", "inputs", "cached", "errors")} == {
            "num_model_requests": 2,
            "input_tokens": 10,
            "inputs": 3,
            "cached": 1,
            "errors": 0,
        }
        assert by_key["search", ""]["errors"] == by_key["", ""]["errors"] == 1
        assert [each.num_model_requests for each in await results(api_key_ids=["search"])] == [3]
        assert [each.num_model_requests for each in await results(models=["nope"])] == []


async def test_pages_of_usage_follow_each_other_and_wrong_queries_are_told(open_app: Any, tmp_path: Path) -> None:
    async with open_app(auth=AuthSettings(usage_file=str(tmp_path / "usage"))) as client:
        start, days = 1_767_225_600, []
        query: dict[str, Any] = {"start_time": start + 5, "end_time": start + 3 * 86_400, "limit": 2}
        while True:
            page = (await client.get("/v1/organization/usage/embeddings", params=query)).json()
            days += [(bucket["start_time"], bucket["end_time"]) for bucket in page["data"]]
            if not page["has_more"]:
                break
            query["page"] = page["next_page"]
        assert days == [(start + day * 86_400, start + (day + 1) * 86_400) for day in range(3)]
        first = (await client.get("/v1/usage", params={"start_time": 0, "limit": 1})).json()
        assert ([each["start_time"] for each in first["data"]], first["has_more"]) == ([0], True)
        for wrong in (
            {"start_time": "x"},
            {"start_time": "9" * 12},
            {"limit": "0"},
            {"limit": "32"},
            {"bucket_width": "1h"},
            {"group_by": "user_id"},
            {"page": "x"},
            {"project_ids": "x"},
        ):
            response = await client.get("/v1/usage", params=wrong)
            assert (response.status_code, error_of(response)["param"]) == (400, next(iter(wrong)))


async def test_usage_without_a_file_has_no_path(client: Any) -> None:
    assert (await client.get("/v1/usage")).status_code == 404
    assert "usage" not in (await client.get("/")).json()["endpoints"]
