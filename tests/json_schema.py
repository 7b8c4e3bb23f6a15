"""Whether JSON is as its JSON Schema says."""

import re
from collections.abc import Mapping
from typing import Any


def is_valid(value: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any] | None = None) -> bool:
    """Whether `value` is as `schema` says, by as much of JSON Schema as is used here; `schemas` are referred to."""
    if "$ref" in schema:
        schema = (schemas or {})[schema["$ref"].rpartition("/")[2]]
    types = schema.get("type", [])
    rules = [
        "oneOf" not in schema or sum(is_valid(value, each, schemas) for each in schema["oneOf"]) == 1,
        "anyOf" not in schema or any(is_valid(value, each, schemas) for each in schema["anyOf"]),
        "enum" not in schema or value in schema["enum"],
        "const" not in schema or value == schema["const"],
        not types or kinds(value) & {*([types] if isinstance(types, str) else types)},
    ]
    if kinds(value) & {"number"}:
        rules.append(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if isinstance(value, str):
        rules.append(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))
        rules.append(re.search(schema.get("pattern", ""), value) is not None)
    if isinstance(value, list):
        rules.append(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)))
        first = schema.get("prefixItems", [])
        rules += [is_valid(each, of, schemas) for each, of in zip(value, first, strict=False)]
        rules += [is_valid(each, schema.get("items", {}), schemas) for each in value[len(first) :]]
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        rules.append({*schema.get("required", ())} <= {*value})
        other = schema.get("additionalProperties", True)
        rules.append(other is not False or {*value} <= {*properties})
        others = other if isinstance(other, dict) else {}
        rules += [is_valid(each, properties.get(name, others), schemas) for name, each in value.items()]
        rules.append(len(value) <= schema.get("maxProperties", len(value)))
        rules += [is_valid(name, schema.get("propertyNames", {}), schemas) for name in value]
    return all(rules)


def kinds(value: object) -> set[str]:
    if isinstance(value, float):
        return {"number", "integer"} if value.is_integer() else {"number"}
    if type(value) is int:
        return {"number", "integer"}
    return {{bool: "boolean", str: "string", list: "array", dict: "object"}.get(type(value), "null")}
