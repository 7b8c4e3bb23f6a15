"""What errors say on the command line: which line of which file is at fault, and which option of the command."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from provider.errors import (
    EmbeddingFailed,
    InputTooLong,
    InvalidInput,
    InvalidOption,
    InvalidRequest,
    ModelNotFound,
    OutputNotSupported,
    ProviderError,
    SeveralLabels,
)
from provider.texts.records import Record

# Commands have options for these fields of requests.
_OPTIONS = {
    "dimensions": "--dimensions",
    "input_type": "--input-type",
    "instruction": "--instruction",
    "max_document_tokens": "--max-tokens-per-doc",
    "prompt_name": "--prompt-name",
    "texts": "documents",
    "truncate": "--truncate",
}


def message(exc: ProviderError) -> str:
    """One line for standard error, notes included."""
    return "".join((_sentence(exc), *getattr(exc, "__notes__", ())))


def _sentence(exc: ProviderError) -> str:
    match exc:
        case InvalidOption():
            return f"{_OPTIONS.get(exc.option, exc.option)}: {exc.reason}"
        case OutputNotSupported():
            return f"{exc.message}; name another model with --model, or outputs of this one with --output-types"
        case SeveralLabels():
            return f"{exc.message}; texts are ranked by models with one"
        case ModelNotFound():
            return f"{exc.message}; name one of them with --model"
        case _:
            return exc.message


@contextmanager
def naming(records: Sequence[Record]) -> Iterator[None]:
    """Around a request to the engine: what it raises names the record at fault.

    Args:
        records: the texts in the order of the request.

    Raises:
        InvalidRequest: a text cannot be embedded or scored.
        EmbeddingFailed: the forward pass of a text failed.
    """
    try:
        yield
    except InputTooLong as exc:
        raise refused([clause(records[exc.index], exc)], any_too_long=True) from exc
    except InvalidInput as exc:
        if exc.index is None or exc.is_query:
            msg = f"the query: {exc.reason}"
            raise InvalidRequest(msg) from exc
        raise refused([clause(records[exc.index], exc)], any_too_long=False) from exc
    except EmbeddingFailed as exc:
        if exc.index is None:
            raise
        msg = f"{records[exc.index].place}: {exc.reason}"
        raise EmbeddingFailed(msg) from exc


def clause(record: Record, error: InputTooLong | InvalidInput) -> str:
    """What is wrong with one record."""
    match error:
        case InputTooLong():
            more = f"{'with the query ' if error.is_pair else ''}{'' if error.is_counted else 'more than '}"
            return f"{record.place}: {more}{error.tokens} tokens, the model takes {error.limit}"
        case InvalidInput():
            return f"{record.place}: {error.reason.rstrip('.')}"


def refused(problems: Sequence[str], *, any_too_long: bool, count: int = 1) -> InvalidRequest:
    """The error for texts that cannot be embedded: the first few of them, and how many there are."""
    start = "" if count == 1 else f"{count} texts cannot be embedded: "
    more = "; …" if count > len(problems) else ""
    pronoun = "it" if count == 1 else "long texts"
    hint = f". Shorten {pronoun}, or pass --truncate end" if any_too_long else ""
    return InvalidRequest(f"{start}{'; '.join(problems)}{more}{hint}")
