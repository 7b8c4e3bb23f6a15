"""What is read of a folder's tokenizer: arguments, limits, the files that count, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provider.domain import ModelSpec
from provider.errors import InvalidModel
from provider.models.spec import read_spec
from provider.testing.tiny import tiny_bert, tiny_qwen3

Edit = Callable[..., None]
SETTINGS = "sentence_bert_config.json"


def read(folder: Path) -> ModelSpec:
    return read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)[0]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tokenizer_args": {"vocab_file": "/etc/passwd"}}, "vocab_file = '/etc/passwd' in tokenizer_args"),
        ({"processor_kwargs": {"something": 1}}, "something = 1 in processor_kwargs"),
        ({"tokenizer_args": ["x"]}, r"tokenizer_args = \['x'\]"),
        ({"processing_kwargs": {"text": {"truncation": False}}}, "truncation = False in processing_kwargs"),
        ({"processing_kwargs": {"text": {"add_special_tokens": False}}}, "add_special_tokens = False"),
        (
            {"processing_kwargs": {"text": {"padding": "max_length"}}},
            "padding = 'max_length'.*only True or 'longest' is",
        ),
        ({"processing_kwargs": {"common": {"padding": 1}}}, "padding = 1"),
        ({"processing_kwargs": {"text": {"something": 1}}}, "something = 1 in processing_kwargs"),
        ({"processing_kwargs": {"text": 8}}, "expected JSON objects"),
        ({"processing_kwargs": {"text": {"max_length": 0}}}, " is 0, expected a whole number"),
        ({"tokenizer_name_or_path": "elsewhere"}, "tokenizer_name_or_path = 'elsewhere'"),
        ({"query_length": 32}, "query_length = 32"),
        ({"document_length": 32}, "document_length = 32"),
    ],
)
def test_an_argument_that_is_not_applied_is_refused_by_file_name_and_value(
    settings: dict[str, Any], named: str, folder: Path, edit: Edit
) -> None:
    edit(SETTINGS, **settings)
    with pytest.raises(InvalidModel, match=rf"{SETTINGS}.*{named}"):
        read(folder)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 64),
        ({"processing_kwargs": {"text": {"max_length": 8}}}, 8),
        ({"processing_kwargs": {"text": {"max_length": 8}, "common": {"max_length": 9}}}, 9),
        ({"tokenizer_args": {"model_max_length": 10}}, 10),
        ({"processor_kwargs": {"model_max_length": 11}, "processing_kwargs": {"text": {"max_length": 100}}}, 100),
        ({"tokenizer_args": {"model_max_length": 10}, "processor_kwargs": {"model_max_length": 11}}, 10),
    ],
)
def test_the_limit_is_the_one_that_sentence_transformers_cuts_at(
    settings: dict[str, Any], expected: int, folder: Path, edit: Edit
) -> None:
    edit(SETTINGS, **settings)
    assert read(folder).max_tokens == expected


def test_the_limits_former_name_counts(folder: Path, edit: Edit) -> None:
    edit(SETTINGS, max_seq_length=None)
    edit("tokenizer_config.json", model_max_length=None)
    edit("tokenizer_config.json", max_len=20)
    assert read(folder).max_tokens == 20


def test_a_tokenizer_that_cuts_the_start_is_a_notice(folder: Path, edit: Edit) -> None:
    edit("tokenizer_config.json", truncation_side="left")
    _, notices = read_spec(folder, name="tiny", max_context_length=None, default_prompt=None)
    assert "cuts the start" in notices[0]


@pytest.mark.parametrize(
    "edits",
    [
        {"added_tokens.json": {"zebra": 500}},
        {"special_tokens_map.json": {"sep_token": "zebra"}},
        {"tokenizer_config.json": {"do_lower_case": False}},
        {SETTINGS: {"do_lower_case": True}},
        {SETTINGS: {"tokenizer_args": {"strip_accents": False}}},
    ],
)
def test_a_file_that_decides_ids_is_part_of_the_fingerprint(
    edits: dict[str, dict[str, Any]], folder: Path, tiny: Path, edit: Edit
) -> None:
    for name, changes in edits.items():
        edit(name, **changes)
    changed = read(folder).fingerprint
    assert changed != read(tiny).fingerprint
    for name in edits:
        (folder / name).write_text((folder / name).read_text() + " ")
    assert read(folder).fingerprint != changed


def test_a_file_that_decides_nothing_is_no_part_of_it(folder: Path, tiny: Path, edit: Edit) -> None:
    (folder / "vocab.txt").write_text("x")
    edit("tokenizer_config.json", model_max_length=99, name_or_path="somewhere")
    edit("special_tokens_map.json", sep_token="[SEP]")
    assert read(folder).fingerprint == read(tiny).fingerprint


def test_texts_that_would_be_rendered_as_a_chat_are_refused(folder: Path, edit: Edit, tmp_path: Path) -> None:
    plain = tiny_qwen3(tmp_path / "plain", plain=True)
    (plain / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(InvalidModel, match=r"chat_template\.jinja.*add a modules\.json"):
        read(plain)
    way = {"method": "forward", "method_output_name": "last_hidden_state"}
    edit(SETTINGS, modality_config={"text": way, "message": way})
    with pytest.raises(InvalidModel, match=r"modality 'message'.*chat template"):
        read(folder)


def test_the_output_may_be_named_by_a_path_and_another_one_is_refused_by_its_name(folder: Path, edit: Edit) -> None:
    edit(SETTINGS, modality_config={"text": {"method": "forward", "method_output_name": ["last_hidden_state"]}})
    assert read(folder).max_tokens == 64
    edit(SETTINGS, modality_config={"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}})
    with pytest.raises(InvalidModel, match=r"text by .*'hidden_states', -2.*last_hidden_state"):
        read(folder)


def test_a_chat_template_beside_a_pipeline_changes_nothing(folder: Path, edit: Edit) -> None:
    edit("tokenizer_config.json", chat_template="{{ messages }}")
    assert read(folder).tokenizer.stands_alone


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "preprocessor_config.json"])
def test_a_processor_before_the_tokenizer_is_refused(name: str, folder: Path, edit: Edit) -> None:
    edit(name, processor_class="CLIPProcessor")
    with pytest.raises(InvalidModel, match=rf"{name} has processor_class = 'CLIPProcessor'"):
        read(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "processor_config.json"])
@pytest.mark.parametrize("processor", ["MyProcessor", "Processor", "AutoTokenizer"])
def test_a_processor_that_transformers_does_not_know_is_ignored_as_there(
    name: str, processor: str, folder: Path, edit: Edit
) -> None:
    edit(name, processor_class=processor)
    assert read(folder).tokenizer.stands_alone


@pytest.mark.parametrize("kind", ["ByT5Tokenizer", "CanineTokenizer"])
def test_a_tokenizer_without_vocabulary_is_refused_for_the_true_reason(kind: str, folder: Path, edit: Edit) -> None:
    (folder / "tokenizer.json").unlink()
    edit("tokenizer_config.json", tokenizer_class=kind)
    with pytest.raises(InvalidModel, match=f"{kind}, which transformers has in Python only"):
        read(folder)


def test_a_byte_order_mark_is_named(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(InvalidModel, match="byte order mark"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", "[" * 100_000, "config.json cannot be read: it is no valid JSON"),
        (SETTINGS, '{"max_seq_length": Infinity}', "is inf, expected a whole number above 0"),
        ("model.safetensors", (100_000).to_bytes(8, "little").decode("latin-1") + "[" * 100_000, "is damaged"),
    ],
)
def test_a_file_of_nonsense_is_named(name: str, content: str, words: str, folder: Path) -> None:
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(InvalidModel, match=words):
        read(folder)


def test_line_ends_of_another_system_are_read(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(json.dumps(json.loads(path.read_text()), indent=1).replace("\n", "\r\n").encode())
    assert read(folder).tokenizer.stands_alone


@pytest.mark.parametrize("rows", [300, None])
def test_padding_has_a_row(rows: int | None, tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    document = json.loads((folder / "tokenizer.json").read_text())
    last = config["vocab_size"]
    token = {"id": last, "content": "[P]", "single_word": False, "lstrip": False, "rstrip": False}
    document["added_tokens"].append({**token, "normalized": False, "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(document))
    about = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, "pad_token": "[P]"}))
    config["pad_token_id"] = None
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": rows or last}))
    assert read(folder).pad_id == (last if rows else 0)


def test_rows_are_counted_in_the_weights_where_the_configuration_is_silent(
    folder: Path, tiny: Path, edit: Edit
) -> None:
    rows = read(tiny).vocabulary_size
    edit("config.json", vocab_size=None)
    assert read(folder).vocabulary_size == rows
