"""What the OpenAPI document says of requests is what their parsers accept."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from attrs import evolve, frozen
from json_schema import is_valid

from provider.app import create_app
from provider.dialects.cohere import wire as cohere
from provider.dialects.jina import api as jina
from provider.dialects.ollama import wire as ollama
from provider.dialects.openai import wire
from provider.dialects.openai.fields import OwnFields
from provider.dialects.scores import rerank, vllm
from provider.dialects.tei import bodies
from provider.dialects.vllm import pooling, tokens
from provider.dialects.weaviate import wire as weaviate
from provider.errors import InvalidRequest, RequestError
from provider.http.routes import ALIASES, JOB_PATHS
from provider.jobs import wire as jobs_wire
from provider.settings import JobSettings, ModelSettings, Settings

MODEL = "m"
Body = dict[str, Any]


@frozen
class Reading:
    """How a route reads a body: its fields, its parser, and a usual body.

    Attributes:
        apart: fields that are read, and said by the route itself.
        more: fields of other APIs that are documented as its own.
    """

    fields: type[msgspec.Struct]
    parse: Callable[..., object]
    usual: Body
    apart: frozenset[str] = frozenset()
    more: frozenset[str] = frozenset()


def parse_pooling(body: bytes, *, task: str | None, **limits: Any) -> object:
    asked = pooling._parse_task(body, **limits)
    if asked.task is not None and (asked.task == "classify") is not (task == "classify"):
        msg = "this body is of the other kind"
        raise InvalidRequest(msg)
    return (vllm.parse_classify if task else partial(wire.parse, reader=pooling._READER))(body, **limits)


def parse_create(body: bytes, **_: Any) -> object:
    return jobs_wire.parse_create(body, JOB_PATHS)


_OUTPUTS = frozenset({"output_types"})
_INPUTS: Body = {"inputs": ["a"]}
_SENTENCES: Body = {"inputs": {"source_sentence": "a", "sentences": ["b"]}}
_SPARSE = partial(bodies.parse_embed, outputs=("sparse",))
_EMBED, _RERANK = Reading(OwnFields, wire.parse, {"model": MODEL, "input": "a"}), rerank.RerankFields
_COHERE = Reading(cohere.CohereFields, cohere.parse, {"model": MODEL, "texts": ["a"]})
_NAME = Reading(ollama.ModelFields, ollama.parse_name, {"model": MODEL})
_DEPLOYMENT = "/openai/deployments/{deployment}"
# Where a path has several kinds of bodies, with the places of their schemas.
REQUESTS: Mapping[str, Reading] = {
    "/v1/embeddings": _EMBED,
    "/openai/v1/embeddings": _EMBED,
    _DEPLOYMENT: Reading(OwnFields, partial(wire.parse, needs_model=False), {"input": "a"}),
    "/v1/rerank": Reading(_RERANK, rerank.parse, {"model": MODEL, "query": "a", "documents": ["b"]}),
    "/v1/score": Reading(vllm.ScoreFields, vllm.parse_score, {"model": MODEL, "text_1": "a", "text_2": "b"}),
    "/v1/classify": Reading(vllm.ClassifyFields, vllm.parse_classify, {"model": MODEL, "input": "a"}),
    "/v1/multi-vector": Reading(
        OwnFields, jina._parse, _EMBED.usual, apart=_OUTPUTS, more=frozenset({"embedding_type"})
    ),
    "/pooling 0": Reading(
        OwnFields, partial(parse_pooling, task=None), _EMBED.usual, apart=_OUTPUTS, more=frozenset({"task"})
    ),
    "/pooling 1": Reading(
        vllm.ClassifyFields,
        partial(parse_pooling, task="classify"),
        _EMBED.usual | {"task": "classify"},
        more=frozenset({"task"}),
    ),
    "/v2/embed": _COHERE,
    "/v1/embed": _COHERE,
    "/embed 0": Reading(bodies.EmbedFields, bodies.parse_embed, _INPUTS),
    "/embed 1": evolve(_COHERE, apart=frozenset({"inputs"})),
    "/ 0 0": Reading(bodies.EmbedFields, bodies.parse_embed, _INPUTS),
    "/ 0 1": Reading(bodies.PredictFields, bodies.parse_predict, _INPUTS),
    "/ 1": Reading(_RERANK, partial(rerank.parse, is_tei=True), {"query": "a", "documents": ["b"]}),
    "/similarity": Reading(bodies.EmbedFields, bodies.parse_similarity, _SENTENCES, more=frozenset({"parameters"})),
    "/embed_sparse": Reading(bodies.EmbedFields, _SPARSE, _INPUTS),
    "/embed_all": Reading(bodies.EmbedFields, _SPARSE, _INPUTS),
    "/predict": Reading(bodies.PredictFields, bodies.parse_predict, _INPUTS),
    "/tokenize 0": Reading(bodies.TokenizeFields, bodies.parse_tokenize, _INPUTS),
    "/tokenize 1": Reading(tokens.TokenizeFields, tokens._parse_tokenize, {"model": MODEL, "prompt": "a"}),
    "/detokenize": Reading(tokens.DetokenizeFields, tokens._parse_detokenize, {"model": MODEL, "tokens": [1]}),
    "/decode": Reading(bodies.DecodeFields, bodies.parse_decode, {"ids": [1]}),
    "/api/embed": Reading(ollama.EmbedFields, ollama.parse, {"model": MODEL, "input": "a"}),
    "/api/embeddings": Reading(ollama.PromptFields, ollama.parse_prompt, {"model": MODEL, "prompt": "a"}),
    "/api/show": _NAME,
    "/api/pull": _NAME,
    "/vectors": Reading(weaviate.VectorFields, weaviate.parse, {"text": "a"}),
    "/v1/batches": Reading(
        jobs_wire._CreateFields, parse_create, {"input_file_id": "file-1", "endpoint": "/v1/embeddings"}
    ),
}
# Fields of which a body holds one.
ALTERNATIVES = ({"documents", "texts"}, {"texts", "inputs"}, {"text", "texts"}, {"model", "name"})
VALUES: tuple[object, ...] = (
    *(None, True, False, 1, 3, -1, 2.0, 1.5, 2**31, "word", "", [], {}),
    *(["word"], [""], ["word", ""], [1, 2], [1.5], [-1], [2**31], [[1, 2]], [[1], []], [["a", "b"]], [["a"]], [None]),
    *({"text": "a"}, [{"text": "a"}], ["a", {"text": "b"}], {"text": 1}, [{"text": 1}], {"other": "a"}, [{"x": "a"}]),
    *(["word", 1], ["word", ["a", "b"]], [["a", "b", "c"]], {"text": ""}, ["a", "b"], [["", "a"]], [["a"], ["b", "c"]]),
    *({"source_sentence": "a", "sentences": ["b"]}, {"source_sentence": "", "sentences": ["b"]}, {"sentences": ["b"]}),
    *({"source_sentence": "a", "sentences": [""]}, {"source_sentence": "a", "sentences": []}, [{"content": "a"}]),
    *({"num_ctx": 0}, {"num_ctx": 2}, {"num_ctx": "a"}, {"dimensions": -1}, {"dimensions": 0}, {"seconds": 1}),
    *({"dimensions": 2, "pooling_strategy": "cls"}, {"pooling_strategy": "nope"}, {"task_type": "query"}),
    *({"task_type": "nope"}, {"normalize": True}, {"normalize": 1}, {"truncate": "END"}, {"max_tokens": 1}),
    *([{"content": [{"text": "a"}]}], [{"content": [{"text": ""}]}], [{"content": []}], {"seconds": 3600}),
    *({"seconds": 3600, "anchor": "created_at"}, {"seconds": 3600, "anchor": "a"}, {"a": "b"}, {"a": 1}),
    *({str(i): "a" for i in range(17)}, {"a" * 65: "a"}, {"a": "a" * 513}, "24h", "0h", "1w", "90m"),
)
# The model knows which of these there are, and the parser does not.
OF_THE_MODEL: list[tuple[str, object]] = [
    ("dimensions", -1),
    ("parameters", {"dimensions": -1}),
    ("parameters", {"dimensions": 0}),
    # An empty name of a type is none, in a list too.
    ("embedding_type", [""]),
]
# An empty string is no value where a field is optional.
NOT_GIVEN: tuple[object, ...] = ("", [])


@pytest.fixture(scope="module")
def document(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = ModelSettings(name="org/model", path=str(minilm), backend="fake")
    jobs = JobSettings(folder=str(tmp_path_factory.mktemp("jobs")))
    return create_app(Settings(model=model, jobs=jobs)).openapi_schema.to_schema()


def is_accepted(parse: Callable[..., object], body: Body) -> bool:
    try:
        parse(msgspec.json.encode(body), **({"max_inputs": 10, "needs_model": True} | getattr(parse, "keywords", {})))
    except RequestError:
        return False
    return True


def schema_of(document: Any, place: str) -> Any:
    path, *branches = place.split()
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for each in branches:
        schema = schema["anyOf"][int(each)]
    return schema


def test_every_route_with_a_body_is_read_here(document: Any) -> None:
    taking = {
        path
        for path, item in document["paths"].items()
        if "application/json" in item.get("post", {}).get("requestBody", {}).get("content", {})
    }
    assert {path for path in taking if path not in ALIASES} == {place.split()[0] for place in REQUESTS}
    for place in REQUESTS:
        path = place.split()[0]
        branches = [each for each in REQUESTS if each.split()[0] == path]
        assert len(branches) == _branches(schema_of(document, path)), path


def _branches(schema: Any) -> int:
    is_split = "anyOf" in schema and "properties" not in schema
    return sum(map(_branches, schema["anyOf"])) if is_split else 1


@pytest.mark.parametrize("place", REQUESTS)
def test_the_fields_that_are_read_are_the_fields_that_are_told(document: Any, place: str) -> None:
    reading, schema = REQUESTS[place], schema_of(document, place)
    assert {*schema["properties"]} == {*reading.fields.__struct_fields__} - reading.apart | reading.more
    assert is_valid(reading.usual, schema)
    assert is_accepted(reading.parse, reading.usual)
    for name in schema.get("required", ()):
        body = {key: value for key, value in reading.usual.items() if key != name}
        assert not is_accepted(reading.parse, body), name


@pytest.mark.parametrize("place", REQUESTS)
def test_the_values_that_are_accepted_are_the_values_that_are_told(document: Any, place: str) -> None:
    reading, schema = REQUESTS[place], schema_of(document, place)
    wrong = []
    for name, each in schema["properties"].items():
        for value in (*VALUES, *enumerated(each)):
            is_left_out = value in NOT_GIVEN and name not in reading.usual
            if is_left_out or (name, value) in OF_THE_MODEL:
                continue
            body = {**reading.usual, name: value}
            for names in ALTERNATIVES:
                if name in names and value is not None:
                    body = {key: kept for key, kept in body.items() if key == name or key not in names}
            if name == "text_1" and isinstance(value, list):
                body["text_2"] = ["b"] * max(1, len(value))
            if is_accepted(reading.parse, body) is not is_valid(body, schema):
                wrong.append((name, value, is_valid(body, schema)))
    assert wrong == []


@pytest.mark.parametrize("place", REQUESTS)
def test_of_fields_that_mean_the_same_one_may_be_sent(document: Any, place: str) -> None:
    reading, schema = REQUESTS[place], schema_of(document, place)
    for names in ALTERNATIVES:
        if names <= {*schema["properties"]} - reading.apart:
            values = {"documents": ["a"], "texts": ["a"], "inputs": [{"content": [{"text": "a"}]}], "text": "a"}
            body = reading.usual | {name: values.get(name, MODEL) for name in names}
            assert is_valid(body, schema) is is_accepted(reading.parse, body), names


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
    assert {"/v1/embeddings", "/embed_all", "/v1/models/{model_id}"} <= {*found}
    assert {*found.values()} == {True}
