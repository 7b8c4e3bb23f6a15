"""Which prompt goes before the inputs of a request."""

from provider.domain import EmbedRequest, ModelSpec
from provider.errors import InvalidRequest

# The same two roles, as Cohere, Gemini, Jina, NVIDIA and Voyage call them, and the names of models' prompts for them.
_ROLES = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "retrieval_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "retrieval.passage": "document",
    "retrieval_document": "document",
}
_PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}


def role_of(input_type: str) -> str:
    """`query` or `document` by whatever name; another input type is itself."""
    return _ROLES.get(input_type.lower(), input_type)


def prompt_for(request: EmbedRequest, spec: ModelSpec) -> str:
    """The text to put before the inputs: `prompt`, else that of `prompt_name`, of `input_type`, or the model's default.

    A model without prompts ignores `input_type` (see `is_ignored`): many clients always send it. With prompts, an input
    type that means nothing to it is an error, because ignoring it would silently answer other vectors than were asked
    for.

    Raises:
        InvalidRequest: the model has no prompt of that name or for that input type.
    """
    if request.prompt is not None:
        return request.prompt
    if request.prompt_name is not None:
        if request.prompt_name not in spec.prompts:
            msg = f"Invalid value: {request.prompt_name[:100]!r}. This model's prompts are: {_listed(spec)}."
            raise InvalidRequest(msg, param="prompt_name", code="invalid_value")
        return spec.prompts[request.prompt_name]
    if request.input_type is not None and any(spec.prompts.values()):
        return _for_input_type(request.input_type, spec)
    return spec.default_prompt


IGNORED = (
    "a request had an input_type, which has no effect: the model's files name no prompts. If its card asks for some "
    "(such as 'query: '), set model.prompts"
)
"""What to tell an operator of a model that ignores `input_type`."""


def is_ignored(request: EmbedRequest, spec: ModelSpec) -> bool:
    """Whether the request's `input_type` has no effect, because the model has no prompts."""
    return request.input_type is not None and not any(spec.prompts.values())


def _for_input_type(input_type: str, spec: ModelSpec) -> str:
    if input_type in spec.prompts:
        return spec.prompts[input_type]
    role = _ROLES.get(input_type.lower())
    if role is None:
        msg = (
            f"Invalid value: {input_type[:100]!r}. Supported values are: {', '.join(_ROLES)}, "
            f"and this model's prompts: {_listed(spec)}."
        )
        raise InvalidRequest(msg, param="input_type", code="invalid_value")
    for name in _PROMPT_NAMES[role]:
        if name in spec.prompts:
            return spec.prompts[name]
    # A model with a prompt for queries only wants documents bare.
    return ""


def _listed(spec: ModelSpec) -> str:
    return ", ".join(sorted(spec.prompts)) or "none"
