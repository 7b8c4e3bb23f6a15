"""Which prompt goes before the inputs of a request."""

from collections.abc import Mapping

from attrs import evolve

from provider.domain import EmbedRequest, ModelSpec, ScoreTask
from provider.errors import InvalidOption, MissingInputType, PromptNotFound, UnknownInputType, UnknownPrompt

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

    A model without prompts ignores `input_type` (see `notice_of`): many clients always send it. With prompts, an input
    type that means nothing to it is an error, because ignoring it would silently answer other vectors than were asked
    for.

    Raises:
        UnknownPrompt: the model has no prompt of that name.
        UnknownInputType: the input type means nothing to it.
    """
    if request.prompt is not None:
        return request.prompt
    if request.prompt_name is not None:
        if request.prompt_name not in spec.prompts:
            raise UnknownPrompt(request.prompt_name, known=sorted(spec.prompts))
        return spec.prompts[request.prompt_name]
    if request.input_type is not None and not _is_ignored(request, spec):
        return _for_input_type(request.input_type, spec)
    return spec.default_prompt


IGNORED = (
    "a request had an input_type, which has no effect: the model's files name no prompts. If its card asks for some "
    "(such as 'query: '), set model.prompts, or to recipe where GET /v1/models shows one"
)
"""What to tell an operator of a model that ignores `input_type`."""


def notice_of(request: EmbedRequest, spec: ModelSpec, name: str) -> str | None:
    """What an operator should know of a request to a model called `name`; None: nothing.

    Its input type has no effect, or it chose none of the model's prompts.
    """
    if request.input_type is not None:
        return IGNORED if _is_ignored(request, spec) else None
    is_silent = request.prompt is None and request.prompt_name is None and isinstance(request.inputs[0], str)
    has_prompts = bool(spec.prompts or spec.recipe) and any(_prompts(spec).values())
    return _lacking(name, spec) if is_silent and has_prompts and not spec.default_prompt else None


def _is_ignored(request: EmbedRequest, spec: ModelSpec) -> bool:
    """Whether the request's `input_type` has no effect, because the model has no prompts and one way for all inputs."""
    return request.input_type is not None and not tells_roles_apart(spec)


def tells_roles_apart(spec: ModelSpec) -> bool:
    """Whether `input_type` changes what the model reads."""
    return any(spec.prompts.values()) or spec.queries is not None or spec.tokenizer.queries is not None


def _prompts(spec: ModelSpec) -> Mapping[str, str]:
    """Those that a name may ask for."""
    return spec.prompts if any(spec.prompts.values()) else {**spec.prompts, **spec.recipe}


def _lacking(name: str, spec: ModelSpec) -> str:
    prompts = ", ".join(prompt for prompt, text in sorted(_prompts(spec).items()) if text)
    if spec.recipe:
        return (
            f"the model's card asks for prompts ({prompts}), which its files do not have, and a request chose none. "
            f"Clients ask for a model such as {name}:query; model.prompts: recipe takes them from the card"
        )
    return (
        f"a request chose none of the model's prompts ({prompts}), so that none was put before its texts. Clients send "
        f"input_type or prompt_name, or ask for a model such as {name}:query; "
        "model.default_prompt chooses one for all others"
    )


def _names(spec: ModelSpec) -> tuple[str, ...]:
    """What may stand behind the model's name: its prompts, and the two roles where they differ."""
    if spec.find(ScoreTask) is not None:
        return ()
    has_roles = bool(spec.recipe) or tells_roles_apart(spec)
    return tuple(sorted({*_prompts(spec), *(_PROMPT_NAMES if has_roles else ())}))


def check_named(model: str, prompt: str, spec: ModelSpec) -> None:
    """See that `prompt` may stand behind the name of `model`.

    Raises:
        PromptNotFound: it may not.
    """
    known = _names(spec)
    if prompt not in known and (role_of(prompt) not in known or prompt.lower() not in _ROLES):
        raise PromptNotFound(model, prompt, prompts=known)


def with_named(request: EmbedRequest, prompt: str, spec: ModelSpec) -> EmbedRequest:
    """`request` with what the name behind its model's asks for, as if by `input_type`.

    Raises:
        PromptNotFound: the model has no such prompt.
        InvalidOption: the request's own fields ask for another.
    """
    check_named(request.model, prompt, spec)
    others = {
        "prompt": request.prompt is not None,
        "prompt_name": request.prompt_name not in {None, prompt},
        "input_type": request.input_type is not None and role_of(request.input_type) != role_of(prompt),
    }
    for option, contradicts in others.items():
        if contradicts:
            reason = f"it contradicts the model's name, which asks for {prompt!r}. Send one of them."
            raise InvalidOption(option=option, reason=reason)
    if spec.recipe:
        return evolve(request, prompt=_for_input_type(prompt, evolve(spec, prompts=_prompts(spec))), input_type=None)
    return evolve(request, input_type=prompt)


def are_queries(request: EmbedRequest, spec: ModelSpec) -> bool:
    """Whether the inputs go through the modules of queries, where a model has others for these.

    As in sentence-transformers, `input_type` decides that, and neither `prompt` nor `prompt_name` does.

    Raises:
        MissingInputType: it is not said whether they are queries or documents, and the model has no default.
    """
    if spec.tokenizer.queries is not None:
        return _ROLES.get((request.input_type or "").lower()) == "query"
    if spec.queries is None:
        return False
    role = _ROLES.get((request.input_type or "").lower(), spec.default_role)
    if role is None:
        # An input type that means nothing is the nearer cause.
        prompt_for(request, spec)
        raise MissingInputType
    return role == "query"


def _for_input_type(input_type: str, spec: ModelSpec) -> str:
    if input_type in spec.prompts:
        return spec.prompts[input_type]
    role = _ROLES.get(input_type.lower())
    if role is None:
        raise UnknownInputType(input_type, roles=list(_ROLES), prompts=sorted(spec.prompts))
    for name in _PROMPT_NAMES[role]:
        if name in spec.prompts:
            return spec.prompts[name]
    # A model with a prompt for queries only wants documents bare.
    return ""
