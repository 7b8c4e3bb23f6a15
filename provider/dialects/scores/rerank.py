"""Documents in the order of their relevance to a query: one request and one answer for several clients.

Clients of Cohere (v1 and v2), Jina, Voyage, LiteLLM and vLLM read `results`, `data`, `usage` or `meta` of the same
answer. A body with `texts` is TEI's, and is answered with TEI's bare list; so is every body at TEI's root, where
Elasticsearch sends `documents`. Infinity's documents are strings, which no field of the request tells, so they have a
path of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from attrs import evolve, frozen

from provider.dialects.fields import BodyReader, ForeignField, alias_of, model_of, only, whole
from provider.dialects.phrases import FieldNames
from provider.dialects.scores.common import SHARED, cuts, missing, not_empty, text_of, texts_of, usage
from provider.dialects.truncation import Cut
from provider.domain import Scored, ScoreRequest
from provider.errors import InvalidRequest

Document = str | dict[str, Any]


class RerankFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /v1/rerank` under their own names."""

    query: str | dict[str, Any] | None = None
    documents: list[Document] | None = None
    texts: list[Document] | None = None
    model: str | None = None
    top_n: int | float | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: int | float | None = None
    truncate: bool | str | None = None
    max_tokens: int | float | None = None
    truncation_direction: str | None = None
    raw_scores: bool | None = None
    instruction: str | None = None
    user: Any = None


_ONE_CALL = "Every document is scored once, as a whole."
_ONLY_TEXT_FIELD = 'Documents are ranked by their "text": put other fields into it.'

FOREIGN: Mapping[str, ForeignField] = {
    # TEI's own: see `parse`.
    **{name: each for name, each in SHARED.items() if name != "truncation_direction"},
    "top_k": ForeignField(int | float | None, alias_of("top_n")),
    "return_text": ForeignField(bool | None, alias_of("return_documents")),
    "return_input": ForeignField(bool | None, alias_of("return_documents")),
    "rank_fields": ForeignField(list[str] | str | None, only("text", instead=_ONLY_TEXT_FIELD)),
    "return_embeddings": ForeignField(bool | None, only(False, instead="Ask POST /v1/embeddings.")),  # noqa: FBT003
    "relevant_spans": ForeignField(Any, only(instead=_ONE_CALL)),
    "max_doc_length": ForeignField(int | float | None, alias_of("max_tokens_per_doc")),
    "rewrite_query": ForeignField(bool | None, only(False, instead="The query is used as it is.")),  # noqa: FBT003
    "input": ForeignField(Any, only(instead='Send the documents as "documents".')),
    "passages": ForeignField(Any, only(instead='Send the documents as "documents".')),
}
"""Fields of other APIs. `max_chunks_per_doc` is ignored: a document that fits is one chunk, and no other passes."""

NAMES = FieldNames("documents", options={"max_document_tokens": "max_tokens_per_doc"})
TEI_NAMES = evolve(NAMES, inputs="texts")

_reader = BodyReader(RerankFields, FOREIGN)


@frozen
class RerankCall:
    """A request, and how its answer is to be written.

    Attributes:
        request: what to score; its model is empty where none was named.
        documents: as they were sent.
        top_n: how many results are wanted; None for all.
        returns_documents: whether results hold their document.
        cut: whether and where too long documents are cut.
        names: of the fields that were used.
        is_tei: whether the answer is a bare list.
    """

    request: ScoreRequest
    documents: Sequence[Document]
    top_n: int | None
    returns_documents: bool
    cut: Cut
    names: FieldNames
    is_tei: bool


def parse(body: bytes, *, max_inputs: int, needs_model: bool = True, is_tei: bool = False) -> RerankCall:
    """Read a request body.

    Raises:
        MalformedJSON: it is no JSON document.
        MissingModel: it names no model, and `needs_model`; a body with `texts` needs none.
        InvalidRequest: a field has a wrong type or value; the message says what was got and what is allowed.
    """
    fields = _reader.read(body)
    has_texts = fields.texts is not None
    is_tei = is_tei or has_texts
    # TEI's protocol has no name for the model, so that nothing is substituted for one that was forgotten.
    model = model_of(fields.model, is_needed=needs_model and not is_tei)
    if fields.query is None:
        raise missing(param="query")
    query = not_empty(text_of(fields.query, "query"), "query")
    if fields.texts is not None and fields.documents is not None:
        msg = "'texts' contradicts 'documents': the one is TEI's name for the other. Send one of them."
        raise InvalidRequest(msg, param="texts", code="invalid_value")
    param = "texts" if has_texts else "documents"
    documents = fields.texts if has_texts else fields.documents
    if documents is None:
        raise missing(param=param)
    all_of_them = "Leave it out for all documents."
    top_n = None if fields.top_n is None else whole(fields.top_n, "top_n", least=0, instead=all_of_them)
    limit = fields.max_tokens_per_doc
    cut = Cut.of(fields)
    request = ScoreRequest(
        model=model,
        texts=texts_of(documents, param, max_inputs),
        queries=(query,),
        truncate=cut.truncate,
        max_tokens=cut.max_tokens,
        max_document_tokens=None
        if limit is None
        else whole(limit, "max_tokens_per_doc", least=1, instead="Leave it out for no limit."),
        raw=bool(fields.raw_scores),
        instruction=fields.instruction or None,
    )
    # 0 is vLLM's word for all.
    names = TEI_NAMES if has_texts else NAMES
    return RerankCall(request, documents, top_n or None, bool(fields.return_documents), cut, names, is_tei)


def write(call: RerankCall, scored: Scored, *, model: str, request_id: str, is_infinity: bool = False) -> bytes:
    """The response body: the best document first; of equal scores, in the order of the request.

    Args:
        call: what was asked for.
        scored: one column of scores.
        model: what the client called the model, or the one that was chosen for it.
        request_id: the request's id in the log.
        is_infinity: whether documents are answered as strings, as Infinity does, and not as objects.
    """
    scores = scored.scores[:, 0]
    order = np.argsort(-scores, kind="stable")[: call.top_n]
    if call.is_tei:
        return orjson.dumps([_tei_result(call, int(i), scores[i]) for i in order], option=orjson.OPT_SERIALIZE_NUMPY)
    write_result = _infinity_result if is_infinity else _result
    results = orjson.dumps([write_result(call, int(i), scores[i]) for i in order], option=orjson.OPT_SERIALIZE_NUMPY)
    meta: dict[str, Any] = {
        "api_version": {"version": "2"},
        # As Cohere counts: a query with up to a hundred documents.
        "billed_units": {"search_units": -(-len(call.documents) // 100)},
        "tokens": {"input_tokens": scored.usage.tokens},
    }
    answer: dict[str, Any] = {
        "id": request_id,
        "object": "list",
        "model": model,
        "results": orjson.Fragment(results),
        "data": orjson.Fragment(results),
        "usage": usage(scored),
        "meta": meta,
    }
    if scored.truncated:
        answer["truncated"] = cuts(scored.truncated)
        meta["warnings"] = [f"{len(scored.truncated)} of {len(call.documents)} documents were cut: see `truncated`."]
    return orjson.dumps(answer)


def _result(call: RerankCall, index: int, score: np.float32) -> dict[str, Any]:
    result: dict[str, Any] = {"index": index, "relevance_score": score}
    if call.returns_documents:
        document = call.documents[index]
        result["document"] = {"text": document} if isinstance(document, str) else document
    return result


def _infinity_result(call: RerankCall, index: int, score: np.float32) -> dict[str, Any]:
    result: dict[str, Any] = {"index": index, "relevance_score": score}
    return result | ({"document": call.request.texts[index]} if call.returns_documents else {})


def _tei_result(call: RerankCall, index: int, score: np.float32) -> dict[str, Any]:
    result: dict[str, Any] = {"index": index, "score": score}
    return result | ({"text": call.request.texts[index]} if call.returns_documents else {})
