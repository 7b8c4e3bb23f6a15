"""What is read from a model's folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provider.domain import HeadStep, ModelSpec
from provider.errors import InvalidModel, SettingsError
from provider.models.spec import read_spec

Edit = Callable[..., None]


def read(
    folder: Path, *, length: int | None = None, prompt: str | None = None, **more: Any
) -> tuple[ModelSpec, tuple[str, ...]]:
    return read_spec(folder, name="tiny", max_context_length=length, default_prompt=prompt, **more)


def spec_of(folder: Path, **more: Any) -> ModelSpec:
    return read(folder, **more)[0]


def test_a_pipeline_is_read_whole(tiny: Path) -> None:
    spec, notices = read(tiny)
    assert (spec.name, spec.folder, spec.architecture) == ("tiny", tiny, "BertModel")
    assert (spec.hidden_size, spec.dense.dimension, spec.dense.pooling, spec.dense.pools_prompt) == (
        32,
        16,
        ("mean",),
        True,
    )
    assert (spec.max_tokens, spec.max_positions, spec.pad_id) == (64, 128, 0)
    assert spec.dense.head == (HeadStep("dense", tiny / "2_Dense", 16),)
    assert spec.prompts == {"query": "query: ", "passage": "passage: "}
    assert spec.default_prompt == ""
    assert notices == ()


def test_the_packaged_model_is_read(minilm: Path) -> None:
    spec, notices = read(minilm)
    assert (spec.dense.dimension, spec.max_tokens, spec.max_positions, spec.dense.pooling) == (384, 256, 512, ("mean",))
    assert (spec.dense.head, notices) == ((), ())


# ------------------------------------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize(("asked", "expected"), [(None, 64), (16, 16), (100, 100), (128, 128), (4096, 128)])
def test_the_explicit_length_counts_but_never_more_than_the_positions(
    asked: int | None, expected: int, folder: Path
) -> None:
    assert spec_of(folder, length=asked).max_tokens == expected


def test_a_length_that_had_to_be_lowered_is_a_notice(folder: Path) -> None:
    assert "4096" in read(folder, length=4096)[1][0]
    assert read(folder, length=128)[1] == ()


def test_without_a_length_of_its_own_a_model_takes_512_tokens(folder: Path, edit: Edit) -> None:
    edit("sentence_bert_config.json", max_seq_length=None)
    edit("tokenizer_config.json", model_max_length=10**30)
    edit("config.json", max_position_embeddings=8192)
    assert spec_of(folder).max_tokens == 512
    assert spec_of(folder, length=8192).max_tokens == 8192


def test_the_tokenizers_limit_counts_where_sentence_transformers_has_none(folder: Path, edit: Edit) -> None:
    edit("sentence_bert_config.json", max_seq_length=None)
    edit("tokenizer_config.json", model_max_length=48)
    assert spec_of(folder).max_tokens == 48


@pytest.mark.parametrize("name", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_the_file_with_the_length_may_have_an_older_name(name: str, folder: Path) -> None:
    (folder / "sentence_bert_config.json").rename(folder / f"sentence_{name}_config.json")
    assert spec_of(folder).max_tokens == 64


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": None}, 512),
        ({"model_type": "camembert", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "mpnet", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "gpt2", "max_position_embeddings": None, "n_positions": 1024}, 1024),
        ({"model_type": "t5", "max_position_embeddings": None, "n_positions": 512}, None),
        ({"model_type": "xlnet", "max_position_embeddings": -1}, None),
        ({"model_type": "big_bird", "max_position_embeddings": 4096}, 704),
        ({"model_type": "big_bird", "max_position_embeddings": 4096, "block_size": 16, "num_random_blocks": 1}, 112),
        ({"model_type": "big_bird", "max_position_embeddings": 64}, 64),
        ({"model_type": "big_bird", "max_position_embeddings": 4096, "attention_type": "original_full"}, 4096),
        ({"max_position_embeddings": None}, 128),
    ],
)
def test_positions_that_can_be_used_are_counted(
    config: dict[str, Any], expected: int | None, folder: Path, edit: Edit
) -> None:
    edit("config.json", **config)
    assert spec_of(folder).max_positions == expected


@pytest.mark.parametrize("key", ["hidden_size", "d_model", "dim", "n_embd"])
def test_the_width_has_several_names(key: str, folder: Path, edit: Edit) -> None:
    edit("config.json", hidden_size=None)
    edit("config.json", **{key: 32})
    assert spec_of(folder).hidden_size == 32


def test_a_nested_text_configuration_is_read(folder: Path, edit: Edit) -> None:
    edit("config.json", hidden_size=None, max_position_embeddings=None, pad_token_id=None)
    edit("config.json", text_config={"hidden_size": 32, "max_position_embeddings": 96, "pad_token_id": 3})
    spec = spec_of(folder, length=500)
    assert (spec.hidden_size, spec.max_positions, spec.max_tokens, spec.pad_id) == (32, 96, 96, 3)


@pytest.mark.parametrize(
    ("pad", "token", "expected"), [(7, "[MASK]", 7), (None, "[MASK]", 4), (None, None, 0), (-1, "[PAD]", 0)]
)
def test_padding_is_the_models_then_the_tokenizers(
    pad: int | None, token: str | None, expected: int, folder: Path, edit: Edit
) -> None:
    edit("config.json", pad_token_id=pad)
    edit("tokenizer_config.json", pad_token=token)
    assert spec_of(folder).pad_id == expected


# ------------------------------------------------------------------------------------------------------------- prompts


def test_the_setting_wins_over_the_models_own_default_prompt(folder: Path, edit: Edit) -> None:
    edit("config_sentence_transformers.json", default_prompt_name="query")
    assert spec_of(folder).default_prompt == "query: "
    assert spec_of(folder, prompt="passage").default_prompt == "passage: "


def test_without_modules_the_files_prompts_and_similarity_do_not_count(folder: Path, edit: Edit) -> None:
    edit("config_sentence_transformers.json", default_prompt_name="query", similarity_fn_name="dot")
    (folder / "modules.json").unlink()
    spec, notices = read(folder)
    assert (spec.prompts, spec.default_prompt, spec.dense.normalize) == ({}, "", True)
    assert any("config_sentence_transformers.json is not read" in notice for notice in notices)


def test_an_unknown_prompt_lists_those_there_are(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"default_prompt.*'title'.*passage, query|'title'.*query, passage"):
        read(folder, prompt="title")


def test_configured_prompts_win_over_those_of_the_files_and_may_be_the_default(folder: Path) -> None:
    spec = spec_of(folder, prompts={"query": "find: ", "title": "title: "}, prompt="title")
    assert spec.prompts == {"query": "find: ", "passage": "passage: ", "title": "title: "}
    assert spec.default_prompt == "title: "


@pytest.mark.parametrize(
    ("similarity", "has_normalize", "expected"),
    [
        (None, False, True),
        ("cosine", False, True),
        ("dot", False, False),
        ("dot", True, True),
        ("euclidean", False, False),
        ("manhattan", False, False),
    ],
)
def test_vectors_keep_their_length_where_the_models_similarity_depends_on_it(
    similarity: str | None, has_normalize: bool, expected: bool, folder: Path, edit: Edit
) -> None:
    edit("config_sentence_transformers.json", similarity_fn_name=similarity)
    if not has_normalize:
        entries = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps(entries[:-1]))
    spec, notices = read(folder)
    assert spec.dense.normalize is expected
    assert spec.similarity == similarity
    assert any("model.normalize" in notice for notice in notices) is not expected
    for wanted in (True, False):
        spec, notices = read(folder, normalize=wanted)
        assert (spec.dense.normalize, notices) == (wanted, ())


def test_a_default_prompt_that_the_model_lacks_is_refused(folder: Path, edit: Edit) -> None:
    edit("config_sentence_transformers.json", default_prompt_name="title")
    with pytest.raises(InvalidModel, match="title"):
        read(folder)


def test_a_model_that_asks_to_be_cut_is_a_notice(folder: Path, edit: Edit) -> None:
    edit("config_sentence_transformers.json", truncate_dim=8)
    assert spec_of(folder).dense.dimension == 16
    assert "truncate_dim" in read(folder)[1][0]


# --------------------------------------------------------------------------------------------------------------- files


def test_a_folder_that_is_no_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"config\.json"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidModel, match=name.replace(".", r"\.")):
        read(folder)


@pytest.mark.parametrize("name", ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", '"text"'])
def test_a_damaged_file_is_named(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content)
    with pytest.raises(InvalidModel, match=name):
        read(folder)


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size"])
def test_a_size_that_is_no_number_is_named(key: str, folder: Path, edit: Edit) -> None:
    edit("config.json", **{key: "many"})
    with pytest.raises(InvalidModel, match=r"in .*config\.json is 'many', expected a whole number"):
        read(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidModel, match="is truncated"):
        read(folder)


@pytest.mark.parametrize(
    "name",
    ["config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json", "2_Dense/config.json",
     "config_sentence_transformers.json", "model.safetensors", "2_Dense/model.safetensors"],
)  # fmt: skip
def test_the_fingerprint_depends_on_whatever_the_vectors_depend_on(name: str, folder: Path, tiny: Path) -> None:
    assert spec_of(folder).fingerprint == spec_of(tiny).fingerprint
    content = bytearray((folder / name).read_bytes())
    # The last byte of weights is a number; a blank behind JSON is nothing but another content.
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if name.endswith("tensors") else content + b" ")
    assert spec_of(folder).fingerprint != spec_of(tiny).fingerprint


def test_the_fingerprint_does_not_depend_on_readme_name_or_length(folder: Path, tiny: Path) -> None:
    (folder / "README.md").write_text("x")
    assert spec_of(folder, length=16, prompt="query").fingerprint == spec_of(tiny).fingerprint


# ---------------------------------------------------------------------------------------- a transformer in a sub-folder


IN_TRANSFORMER = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                  "sentence_bert_config.json")  # fmt: skip


def move_transformer(folder: Path, place: str) -> Path:
    """As sentence-transformers saved models before release 2."""
    (folder / place).mkdir(parents=True)
    for name in IN_TRANSFORMER:
        (folder / name).rename(folder / place / name)
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = place
    (folder / "modules.json").write_text(json.dumps(entries))
    return folder / place


@pytest.mark.parametrize("place", ["0_Transformer", "0_BERT", "deep/er"])
def test_a_transformer_in_a_folder_of_its_own_is_read_there(place: str, folder: Path) -> None:
    before = spec_of(folder)
    inner = move_transformer(folder, place)
    spec, notices = read(folder)
    assert (spec.folder, notices) == (inner, ())
    assert (spec.max_tokens, spec.dense.pooling, spec.prompts) == (
        before.max_tokens,
        before.dense.pooling,
        before.prompts,
    )
    assert spec.dense.head == (HeadStep("dense", folder / "2_Dense", 16),)


@pytest.mark.parametrize("name", ["0_Transformer/config.json", "0_Transformer/model.safetensors", "modules.json"])
def test_the_fingerprint_covers_a_folder_of_its_own_and_the_models_too(name: str, folder: Path) -> None:
    move_transformer(folder, "0_Transformer")
    before = spec_of(folder).fingerprint
    shutil.copytree(folder, folder.parent / "elsewhere")
    assert spec_of(folder.parent / "elsewhere").fingerprint == before
    content = bytearray((folder / name).read_bytes())
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if name.endswith("tensors") else content + b" ")
    assert spec_of(folder).fingerprint != before


# ----------------------------------------------------------------------------------------- arguments of the transformer


@pytest.mark.parametrize("key", ["config_args", "config_kwargs"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_hidden_layers": 1}, r"num_hidden_layers = 1 in config_\w+, .*config\.json"),
        ({"is_decoder": True}, "is_decoder = True"),
        ({"hidden_act": "relu", "use_cache": False}, "hidden_act = 'relu'"),
    ],
)
def test_arguments_for_the_configuration_that_change_vectors_are_refused_by_name(
    key: str, arguments: dict[str, Any], words: str, folder: Path, edit: Edit
) -> None:
    edit("sentence_bert_config.json", **{key: arguments})
    with pytest.raises(InvalidModel, match=words):
        read(folder)


@pytest.mark.parametrize("key", ["model_args", "model_kwargs"])
@pytest.mark.parametrize("arguments", [{"variant": "fp16"}, {"subfolder": "other"}, {"add_lm_head": True}])
def test_arguments_for_the_model_that_may_change_vectors_are_refused_by_name(
    key: str, arguments: dict[str, Any], folder: Path, edit: Edit
) -> None:
    edit("sentence_bert_config.json", **{key: arguments})
    with pytest.raises(InvalidModel, match=rf"{next(iter(arguments))} = .* in {key}"):
        read(folder)


@pytest.mark.parametrize(
    "arguments",
    [
        {"config_args": {"num_hidden_layers": 2, "hidden_dropout_prob": 0.3, "output_attentions": True}},
        {"config_kwargs": {"trust_remote_code": True, "revision": "main"}},
        {"model_args": {"torch_dtype": "bfloat16", "attn_implementation": "flash_attention_2", "device_map": "auto"}},
        {
            "model_kwargs": {
                "dtype": "float16",
                "add_pooling_layer": False,
                "low_cpu_mem_usage": True,
                "cache_dir": None,
            }
        },
    ],
)
def test_arguments_that_cannot_change_a_vector_are_accepted(
    arguments: dict[str, Any], folder: Path, edit: Edit
) -> None:
    edit("sentence_bert_config.json", **arguments)
    assert spec_of(folder).max_tokens == 64


def test_arguments_of_another_shape_are_named(folder: Path, edit: Edit) -> None:
    edit("sentence_bert_config.json", config_args=["num_hidden_layers"])
    with pytest.raises(InvalidModel, match=r"config_args = \['num_hidden_layers'\], expected a JSON object"):
        read(folder)


def test_code_of_the_models_own_beside_a_class_of_transformers_is_a_notice(folder: Path, edit: Edit) -> None:
    edit("config.json", auto_map={"AutoModel": "modeling_mine.MineModel"})
    assert any("modeling_mine.MineModel" in notice for notice in read(folder)[1])
