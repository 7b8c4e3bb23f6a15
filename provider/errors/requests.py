"""Errors that callers can mend: facts about a request."""

from collections.abc import Sequence

from provider.errors.service import ProviderError

SHOWN_CHARACTERS = 100
"""Of a name or value that is unknown, so many are shown: it may be as long as the request."""


class RequestError(ProviderError):
    """The caller can mend this."""

    public = True


class InvalidRequest(RequestError):
    """How a request is written: a body's shape, a field's value, a command's option or a file.

    Raised by what reads requests, in its own words; the engine raises none.

    Attributes:
        param: the path of the field at fault, as the request has it (`input[3]`).
        code: refines it for programs (`invalid_type`, `invalid_value`).
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class MissingModel(InvalidRequest):
    """No model was named."""


class MalformedJSON(RequestError):
    """The body is no JSON document."""


class UnsupportedContentType(RequestError):
    """The body is declared as something other than JSON."""


class UnsupportedContentEncoding(RequestError):
    """The body is compressed in another way than is decoded."""


class BodyTooLarge(RequestError):
    """The body has more bytes than is allowed, as sent or decoded."""


class CallerTooSlow(RequestError):
    """The request did not arrive in time."""


class ModelNotFound(RequestError):
    """No configured model or alias has that name.

    Attributes:
        name: as it was asked for.
        known: all names that there are.
    """

    def __init__(self, name: str, *, known: Sequence[str]) -> None:
        super().__init__(f"there is no model {name[:SHOWN_CHARACTERS]!r}; there are: {', '.join(known) or 'none'}")
        self.name, self.known = name, tuple(known)


class PromptNotFound(ModelNotFound):
    """A name asks for a prompt that the model does not have (`name:prompt`).

    Attributes:
        model: the name without the prompt's.
        prompt: name of the prompt.
        known: all names that ask for a prompt of the model.
    """

    def __init__(self, model: str, prompt: str, *, prompts: Sequence[str]) -> None:
        super().__init__(f"{model}:{prompt}", known=[f"{model}:{each}" for each in prompts])
        known = ", ".join(self.known) or "none"
        shown = f"{prompt[:SHOWN_CHARACTERS]!r}"
        self.message = f"the model {model!r} has no prompt {shown} to be asked for by name; there are: {known}"
        self.model, self.prompt = model, prompt


class OutputNotSupported(RequestError):
    """The model does not give the output that was asked for.

    Attributes:
        output: name of the output.
        model: the model's configured name.
        task: what the model does, in a word.
        supported: names of the outputs that it gives.
    """

    def __init__(self, output: str, *, model: str, task: str, supported: Sequence[str]) -> None:
        super().__init__(
            f"the model {model!r} does not give {output}: its task is {task}, and it gives {', '.join(supported)}"
        )
        self.output, self.model, self.task, self.supported = output, model, task, tuple(supported)


class SeveralLabels(RequestError):
    """The model is a classifier: it gives a score for each of several labels, where one score is wanted.

    Attributes:
        model: the model's configured name.
        labels: what its scores stand for.
    """

    def __init__(self, model: str, *, labels: Sequence[str]) -> None:
        super().__init__(f"the model {model!r} gives {len(labels)} scores ({', '.join(labels)[:200]}), not one")
        self.model, self.labels = model, tuple(labels)


class InvalidInput(RequestError):
    """One text, or the token ids of one, cannot be embedded or scored, whatever its length.

    Attributes:
        index: its place in the request; None for the one query of all texts.
        reason: a sentence that does not name the place.
        is_query: whether it is the query of a pair.
    """

    def __init__(self, index: int | None, reason: str, *, is_query: bool = False) -> None:
        place = "query" if is_query else "input"
        super().__init__(f"{place if index is None else f'{place} {index}'}: {reason}")
        self.index, self.reason, self.is_query = index, reason, is_query

    def of_query(self, index: int | None) -> "InvalidInput":
        """The same of the query at `index`."""
        return type(self)(index, self.reason, is_query=True)

    def behind(self, inputs: int) -> "InvalidInput":
        """The same where so many further `inputs` come first."""
        index = None if self.index is None else self.index + inputs
        return type(self)(index, self.reason, is_query=self.is_query)


class TooManyCharacters(InvalidInput):
    """A text is so long, and its start of so few tokens, that it is not read to its end."""


class InputTooLong(RequestError):
    """One input has more tokens than the model takes or the request allows, and truncation was not asked for.

    Attributes:
        index: its place in the request.
        tokens: how many it has; at least so many if `is_counted` is False: long texts are not counted to their end.
        limit: how many are allowed.
        is_pair: whether the tokens are those of a text and its query.
        is_requested: whether the request itself set the limit, and the model takes more.
    """

    def __init__(
        self,
        index: int,
        *,
        tokens: int,
        limit: int,
        is_counted: bool = True,
        is_pair: bool = False,
        is_requested: bool = False,
    ) -> None:
        more = "" if is_counted else "more than "
        with_query = " with its query" if is_pair else ""
        bound = f"the request allows {limit}" if is_requested else f"the model takes {limit}"
        super().__init__(f"input {index}{with_query} has {more}{tokens} tokens, {bound}")
        self.index, self.tokens, self.limit = index, tokens, limit
        self.is_counted, self.is_pair, self.is_requested = is_counted, is_pair, is_requested

    def behind(self, inputs: int) -> "InputTooLong":
        """The same where so many further `inputs` come first."""
        return InputTooLong(
            self.index + inputs,
            tokens=self.tokens,
            limit=self.limit,
            is_counted=self.is_counted,
            is_pair=self.is_pair,
            is_requested=self.is_requested,
        )


class TooManyTokens(RequestError):
    """The request as a whole has more tokens than one request may have.

    Attributes:
        tokens: of all its inputs; at least so many if `is_counted` is False: too many are not counted to their end.
        limit: how many are allowed.
    """

    def __init__(self, tokens: int, *, limit: int, is_counted: bool = True) -> None:
        more = "" if is_counted else "at least "
        super().__init__(f"the request has {more}{tokens} tokens, at most {limit} are allowed")
        self.tokens, self.limit, self.is_counted = tokens, limit, is_counted


class TokenIdsNotAccepted(RequestError):
    """Token ids came, and it is not configured which tokenizer's they are."""

    def __init__(self) -> None:
        super().__init__(
            "token ids are not accepted, because they are tokenizer-specific; give texts, or set `token_input: native` "
            "for ids of the model's own tokenizer, `token_input: cl100k` for ids of OpenAI's"
        )


class InvalidOption(RequestError):
    """A field of an `EmbedRequest` or a `ScoreRequest` has a value that this model does not take.

    Attributes:
        option: the field's name.
        reason: a sentence that does not name the field.
    """

    def __init__(self, *, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}")
        self.option, self.reason = option, reason


class InvalidDimensions(InvalidOption):
    """The output does not have so many dimensions.

    Attributes:
        dimensions: as they were asked for.
        output: name of the output.
        least, most: what is allowed; 0 where the output has none.
    """

    def __init__(self, dimensions: int, *, output: str, least: int, most: int) -> None:
        allowed = "has none" if not most else f"has {most}" if least == most else f"has {least} to {most}"
        reason = f"{dimensions} were asked for, and this model's {output} output {allowed}."
        super().__init__(option="dimensions", reason=reason)
        self.dimensions, self.output, self.least, self.most = dimensions, output, least, most


class UnknownPrompt(InvalidOption):
    """The model has no prompt of that name.

    Attributes:
        name: as it was asked for.
        known: names of the model's prompts.
    """

    def __init__(self, name: str, *, known: Sequence[str]) -> None:
        shown = f"{name[:SHOWN_CHARACTERS]!r}"
        reason = f"{shown} is not among this model's prompts: {', '.join(known) or 'none'}."
        super().__init__(option="prompt_name", reason=reason)
        self.name, self.known = name, tuple(known)


class UnknownInputType(InvalidOption):
    """The input type is neither a role nor one of the model's prompts.

    Attributes:
        input_type: as it was asked for.
        roles: names of roles that every model knows.
        prompts: names of the model's prompts.
    """

    def __init__(self, input_type: str, *, roles: Sequence[str], prompts: Sequence[str]) -> None:
        shown = f"{input_type[:SHOWN_CHARACTERS]!r}"
        known = f"{', '.join(roles)}, and this model's prompts: {', '.join(prompts) or 'none'}"
        super().__init__(option="input_type", reason=f"{shown} is unknown; known are: {known}.")
        self.input_type, self.roles, self.prompts = input_type, tuple(roles), tuple(prompts)


class MissingInputType(InvalidOption):
    """The model embeds queries and documents differently, and it was not said which the inputs are."""

    def __init__(self) -> None:
        reason = "this model embeds queries and documents differently: say 'query' or 'document'."
        super().__init__(option="input_type", reason=reason)


class PromptTooLong(InvalidOption):
    """The prompt has more characters than one may have: it is put before every input.

    Attributes:
        characters: how many it has.
        limit: how many are allowed.
    """

    def __init__(self, characters: int, *, limit: int) -> None:
        reason = f"it has {characters} characters, at most {limit} are allowed."
        super().__init__(option="prompt", reason=reason)
        self.characters, self.limit = characters, limit
