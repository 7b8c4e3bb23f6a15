"""The special tokens around a text, from every post-processor of the library."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models, processors

from provider.models.tokenizer_json import special_ids

VOCABULARY = {"x": 0, "[U]": 1, "<s>": 2, "</s>": 3}


def template(single: str) -> Any:
    return processors.TemplateProcessing(single=single, pair=None, special_tokens=[("<s>", 2), ("</s>", 3)])


PROCESSORS: dict[str, tuple[Any, tuple[list[int], list[int]]]] = {
    "none": (None, ([], [])),
    "bytes": (processors.ByteLevel(trim_offsets=True), ([], [])),
    "BERT": (processors.BertProcessing(("</s>", 3), ("<s>", 2)), ([2], [3])),
    "RoBERTa": (processors.RobertaProcessing(("</s>", 3), ("<s>", 2)), ([2], [3])),
    "a template": (template("<s> $A </s>"), ([2], [3])),
    "nothing around": (template("$A"), ([], [])),
    "behind only": (template("$A </s> </s>"), ([], [3, 3])),
    "before only": (template("<s> <s> $A"), ([2, 2], [])),
    "a sequence": (processors.Sequence([processors.ByteLevel(), template("<s> $A </s>")]), ([2], [3])),
    "an empty sequence": (processors.Sequence([]), ([], [])),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_they_are_those_that_the_library_adds_to_a_text(kind: str) -> None:
    processor, (before, behind) = PROCESSORS[kind]
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[U]"))
    if processor is not None:
        tokenizer.post_processor = processor
    assert tokenizer.encode("x").ids == [*before, 0, *behind]
    found = special_ids(json.loads(tokenizer.to_str())["post_processor"])
    assert found == (tuple(before), tuple(behind))


@pytest.mark.parametrize(
    "processor", [template("$A <s> $A"), processors.Sequence([template("<s> $A"), template("$A </s>")])]
)
def test_special_tokens_elsewhere_are_refused(processor: Any) -> None:
    with pytest.raises(ValueError, match="special tokens"):
        special_ids(json.loads(processor.__getstate__()))


@pytest.mark.parametrize("single", ["$A:0 </s>:0 <s>:2", "<s>:0 $A:1"])
def test_types_of_tokens_are_refused(single: str) -> None:
    with pytest.raises(ValueError, match="a type other than 0"):
        special_ids(json.loads(template(single).__getstate__()))
