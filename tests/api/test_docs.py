"""The documentation page and the OpenAPI document."""

import re
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from litestar.types import Receive, Scope, Send

from provider.dialects.dialect import Failure
from provider.dialects.registry import Dialects
from provider.settings import AuthSettings, DialectSettings

MODEL = "org/model"


@pytest.mark.parametrize("page", ["/emb/docs", "/emb/docs/"])
async def test_the_page_works_behind_a_path_prefix_and_without_internet(client: Any, page: str) -> None:
    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"].startswith("/emb/"), "a link leaves the prefix"
        stripped = {"path": scope["path"].removeprefix("/emb"), "raw_path": scope["raw_path"].removeprefix(b"/emb")}
        await client.app({**scope, **stripped}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(proxy), base_url="http://host.local") as browser:
        html = (await browser.get(page)).text
        links = re.findall(r'(?:href|src|url)[=:] ?"([^"]+)"', html)
        files = [link for link in links if not link.startswith("data:")]
        assert len(files) == 3
        for link in files:
            assert (await browser.get(urljoin(page, link))).status_code == 200
        address = urljoin(f"http://host.local{page}", next(link for link in files if link.endswith("openapi.json")))
        document = (await browser.get(address)).json()
        assert urljoin(address, document["servers"][0]["url"]) == "http://host.local/emb/"


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/openapi.json"])
async def test_the_document_s_server_is_where_the_api_is(client: Any, path: str) -> None:
    document = (await client.get(path)).json()
    assert urljoin(f"http://h{path}", document["servers"][0]["url"]) == "http://h/"


async def test_unknown_pages_are_errors_like_any_other(client: Any) -> None:
    for asset in ("nope.js", "swagger-editor-bundle.js", "x%00", "..%2Fcore.py"):
        assert (await client.get(f"/docs-assets/{asset}")).status_code == 404
    unknown = await client.get("/docs/nope")
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "invalid_request_error")


READS_BODY = ("/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/classify")


async def test_requests_have_examples_and_every_error_its_envelope(client: Any) -> None:
    document = (await client.get("/openapi.json")).json()
    for path in READS_BODY:
        operation = document["paths"][path]["post"]
        content = operation["requestBody"]["content"]["application/json"]
        assert content["examples"]
        errors = {status for status in operation["responses"] if status != "200"}
        assert errors == {"400", "401", "403", "404", "408", "413", "429", "500", "503"}
    for path, operations in document["paths"].items():
        dialect = Dialects.of(DialectSettings()).at(path)
        for each in operations.values():
            for status, response in each["responses"].items():
                if int(status) < 400 or "problems" in str(response) or "Readiness" in str(response):
                    continue
                if path == "/.well-known/ready":
                    assert "content" not in response
                    continue
                media = response["content"]["application/json"]
                example = media["examples"]["example"]["value"]
                if dialect.name != "openai":
                    assert set(example) == set(dialect.write_error(Failure(int(status), "message", "type")))
                    continue
                schema, *others = media["schema"].get("anyOf", [media["schema"]])
                assert set(schema["properties"]["error"]["properties"]) == {"message", "type", "param", "code"}
                assert not others or path == "/v1/rerank"
                assert set(example["error"]) == {"message", "type", "param", "code"}
                assert example["detail"] == example["error"]["message"]


async def test_names_and_ids_in_paths_are_any_text(client: Any) -> None:
    document = (await client.get("/openapi.json")).json()
    found = {
        (path, each["name"]): each["schema"]
        for path, operations in document["paths"].items()
        for operation in operations.values()
        for each in operation.get("parameters", ())
        if each["in"] == "path"
    }
    assert ("/openai/deployments/{deployment}/embeddings", "deployment") in found
    assert all(each == {"type": "string"} for each in found.values()), found


async def test_models_and_health_are_typed_as_they_are_answered(client: Any) -> None:
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]

    def properties(path: str, status: str = "200") -> dict[str, Any]:
        schema = document["paths"][path]["get"]["responses"][status]["content"]["application/json"]["schema"]
        found: dict[str, Any] = schemas[schema["$ref"].rpartition("/")[2]]["properties"]
        return found

    listed = (await client.get("/v1/models")).json()
    assert set(listed) == set(properties("/v1/models"))
    assert set(listed["data"][0]) <= set(properties("/v1/models/{model_id}"))
    assert set((await client.get("/health/ready")).json()) <= set(properties("/health/ready"))
    assert properties("/health/ready", "503") == properties("/health/ready")
    assert set((await client.get("/health/live")).json()) == set(properties("/health/live"))


async def test_a_key_is_asked_for_only_where_one_is_needed(open_app: Any) -> None:
    async with open_app() as client:
        document = (await client.get("/openapi.json")).json()
        assert "security" not in str(document).lower()
    async with open_app(auth=AuthSettings(keys=["key"])) as client:
        document = (await client.get("/openapi.json")).json()
        locked = {
            path for path, item in document["paths"].items() for operation in item.values() if "security" in operation
        }
        scores = {"/v1/rerank", "/v1/score", "/v1/classify"}
        assert locked >= {"/v1/embeddings", "/v1/models", "/v1/models/{model_id}", *scores}
        assert not any(path.startswith(("/health", "/docs")) for path in locked)
        assert "security" not in document["paths"]["/"]["get"]
        assert set(document["components"]["securitySchemes"]) == {"bearer", "api-key"}
