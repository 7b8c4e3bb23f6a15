"""What the OpenAPI document says of requests is what their parsers accept."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from provider.app import create_app
from provider.dialects.openai import wire
from provider.dialects.openai.fields import OwnFields
from provider.dialects.scores import rerank, vllm
from provider.errors import RequestError
from provider.settings import ModelSettings, Settings

REQUESTS: Mapping[str, tuple[type[msgspec.Struct], Callable[..., object], dict[str, Any]]] = {
    "/v1/embeddings": (OwnFields, wire.parse, {"model": "m", "input": "a"}),
    "/v1/rerank": (rerank.RerankFields, rerank.parse, {"model": "m", "query": "a", "documents": ["b"]}),
    "/v1/score": (vllm.ScoreFields, vllm.parse_score, {"model": "m", "text_1": "a", "text_2": "b"}),
    "/v1/classify": (vllm.ClassifyFields, vllm.parse_classify, {"model": "m", "input": "a"}),
}
VALUES: tuple[object, ...] = (
    *(None, True, False, 1, 3, -1, 2.0, 1.5, 2**31, "word", "", [], {}),
    *(["word"], [""], ["word", ""], [1, 2], [1.5], [-1], [2**31], [[1, 2]], [[1], []], [["a", "b"]], [["a"]], [None]),
    *({"text": "a"}, [{"text": "a"}], ["a", {"text": "b"}], {"text": 1}, [{"text": 1}], {"other": "a"}, [{"x": "a"}]),
    *(["word", 1], ["word", ["a", "b"]], [["a", "b", "c"]], {"text": ""}),
)
# The model knows which of these there are, and the parser does not.
OF_THE_MODEL = [("dimensions", -1)]
# An empty string is no value where a field is optional.
NOT_GIVEN: tuple[object, ...] = ("", [])


@pytest.fixture(scope="module")
def document(minilm: Path) -> Any:
    model = ModelSettings(name="org/model", path=str(minilm), backend="fake")
    return create_app(Settings(model=model)).openapi_schema.to_schema()


def is_valid(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether `value` is as `schema` says, by as much of JSON Schema as is used here."""
    branches = schema.get("oneOf") or schema.get("anyOf")
    types = schema.get("type", [])
    rules = [
        not branches or any(is_valid(value, each) for each in branches),
        "enum" not in schema or value in schema["enum"],
        "const" not in schema or value == schema["const"],
        not types or kinds(value) & {*([types] if isinstance(types, str) else types)},
    ]
    if kinds(value) & {"number"}:
        rules.append(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if isinstance(value, str):
        rules.append(len(value) >= schema.get("minLength", 0))
    if isinstance(value, list):
        rules.append(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)))
        rules += [is_valid(each, schema.get("items", {})) for each in value]
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        rules.append({*schema.get("required", ())} <= {*value})
        rules.append(schema.get("additionalProperties", True) is not False or {*value} <= {*properties})
        rules += [is_valid(each, properties.get(name, {})) for name, each in value.items()]
    return all(rules)


def kinds(value: object) -> set[str]:
    if isinstance(value, float):
        return {"number", "integer"} if value.is_integer() else {"number"}
    if type(value) is int:
        return {"number", "integer"}
    return {{bool: "boolean", str: "string", list: "array", dict: "object"}.get(type(value), "null")}


def is_accepted(parse: Callable[..., object], body: dict[str, Any]) -> bool:
    try:
        parse(msgspec.json.encode(body), max_inputs=10)
    except RequestError:
        return False
    return True


def schema_of(document: Any, path: str) -> Any:
    return document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


@pytest.mark.parametrize("path", REQUESTS)
def test_the_fields_that_are_read_are_the_fields_that_are_told(document: Any, path: str) -> None:
    fields, parse, usual = REQUESTS[path]
    schema = schema_of(document, path)
    assert {*schema["properties"]} == {*fields.__struct_fields__}
    assert is_valid(usual, schema)
    for name in schema["required"]:
        body = {key: value for key, value in usual.items() if key != name}
        assert not is_accepted(parse, body), name


@pytest.mark.parametrize("path", REQUESTS)
def test_the_values_that_are_accepted_are_the_values_that_are_told(document: Any, path: str) -> None:
    _, parse, usual = REQUESTS[path]
    schema = schema_of(document, path)
    wrong = []
    for name, each in schema["properties"].items():
        for value in (*VALUES, *enumerated(each)):
            is_left_out = value in NOT_GIVEN and name not in usual
            if is_left_out or (name, value) in OF_THE_MODEL:
                continue
            body = {**usual, name: value}
            if name == "texts" and value is not None:
                del body["documents"]
            if name == "text_1" and isinstance(value, list):
                body["text_2"] = ["b"] * max(1, len(value))
            if is_accepted(parse, body) is not is_valid(body, schema):
                wrong.append((name, value, is_valid(body, schema)))
    assert wrong == []


def enumerated(schema: Mapping[str, Any]) -> Iterator[object]:
    yield from schema.get("enum", ())
    for each in schema.get("oneOf", ()):
        yield from enumerated(each)


def test_every_path_that_takes_a_model_tells_of_404(document: Any) -> None:
    found = {}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            names = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
            if "model" in body.get("properties", ()) or names & {"model_id", "deployment"}:
                found[path] = "404" in operation["responses"]
    assert {*REQUESTS, "/v1/models/{model_id}"} <= {*found}
    assert {*found.values()} == {True}
