"""What errors say on the command line."""

import pytest

from provider import errors
from provider.bulk.phrases import message, naming
from provider.texts.records import Record

RECORDS = [Record("a", "in.txt", 1), Record("b", "in.txt", 7)]


@pytest.mark.parametrize(
    ("exc", "says"),
    [
        (
            errors.InputTooLong(1, tokens=9, limit=8),
            r"^in\.txt, line 7: 9 tokens, the model takes 8\. .*--truncate end$",
        ),
        (errors.InputTooLong(1, tokens=9, limit=8, is_pair=True), "line 7: with the query 9 tokens"),
        (errors.InvalidInput(1, "it is odd."), r"^in\.txt, line 7: it is odd$"),
        (errors.InvalidInput(None, "it is odd.", is_query=True), r"^the query: it is odd\.$"),
        (errors.NonFiniteVector("it broke.", index=1), r"^in\.txt, line 7: it broke\.$"),
        (errors.EmbeddingFailed("it broke."), r"^it broke\.$"),
    ],
)
def test_the_line_at_fault_is_named(exc: errors.ProviderError, says: str) -> None:
    with pytest.raises(errors.ProviderError, match=says), naming(RECORDS):
        raise exc


@pytest.mark.parametrize(
    ("exc", "says"),
    [
        (errors.InvalidDimensions(9, output="dense", least=1, most=8), "--dimensions: 9 were asked for"),
        (errors.InvalidOption(option="max_document_tokens", reason="no."), "--max-tokens-per-doc: no."),
        (errors.UnknownInputType("x", roles=["query"], prompts=[]), "--input-type: 'x' is unknown"),
        (errors.SeveralLabels("m", labels=["a", "b"]), "texts are ranked by models with one"),
        (errors.OutputNotSupported("dense", model="m", task="rerank", supported=["scores"]), "with --model"),
    ],
)
def test_options_have_the_names_of_the_command(exc: errors.ProviderError, says: str) -> None:
    assert says in message(exc)


def test_notes_follow_the_message() -> None:
    exc = errors.ServerFailed("it is gone")
    exc.add_note(". 3 of 4 texts are done")
    assert message(exc) == "it is gone. 3 of 4 texts are done"
