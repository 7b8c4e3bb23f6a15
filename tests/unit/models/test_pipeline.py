"""`modules.json`, pooling and the steps after it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provider.domain import HeadStep, ModelSpec
from provider.errors import InvalidModel
from provider.models.spec import read_spec
from provider.testing.tiny import tiny_bert, tiny_decoder, tiny_roberta

Edit = Callable[..., None]


def read(folder: Path, *, length: int | None = None, prompt: str | None = None) -> tuple[ModelSpec, tuple[str, ...]]:
    return read_spec(folder, name="tiny", max_context_length=length, default_prompt=prompt)


def spec_of(folder: Path, **more: Any) -> ModelSpec:
    return read(folder, **more)[0]


def modules(folder: Path, *kinds: str, path: str | None = None) -> None:
    """Write `modules.json`; `path` is that of the last module."""
    entries = [
        {"idx": i, "name": str(i), "type": kind, "path": f"{i}_{kind.rpartition('.')[2]}"}
        for i, kind in enumerate(kinds)
    ]
    entries[0]["path"] = ""
    if path is not None:
        entries[-1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(entries))


def old(*names: str) -> list[str]:
    """Module types as they were saved for years."""
    return [f"sentence_transformers.models.{name}" for name in names]


# ------------------------------------------------------------------------------------------------------------ modules


def test_old_and_new_module_names_read_alike(folder: Path) -> None:
    before = spec_of(folder)
    modules(folder, *old("Transformer", "Pooling", "Dense", "Normalize"))
    after = spec_of(folder)
    assert (after.dense.head, after.dense.pooling, after.dense.dimension) == (
        before.dense.head,
        before.dense.pooling,
        before.dense.dimension,
    )


def test_a_normalize_in_the_middle_is_a_step_and_one_at_the_end_is_not(folder: Path) -> None:
    modules(folder, *old("Transformer", "Pooling", "Normalize", "Dense", "Normalize", "Normalize"))
    (folder / "2_Dense").rename(folder / "3_Dense")
    assert spec_of(folder).dense.head == (HeadStep("normalize"), HeadStep("dense", folder / "3_Dense", 16))


def test_dropout_does_nothing(folder: Path) -> None:
    modules(folder, *old("Transformer", "Pooling", "Dropout", "Normalize"))
    assert (spec_of(folder).dense.head, spec_of(folder).dense.dimension) == ((), 32)


@pytest.mark.parametrize(
    "kinds",
    [
        ["Transformer", "CNN", "Pooling"],
        ["Transformer", "LSTM", "Pooling"],
        ["Transformer", "WeightedLayerPooling", "Pooling"],
        ["WordEmbeddings", "Pooling"],
        ["BoW"],
        ["CLIPModel"],
        ["Transformer", "Pooling", "WordWeights"],
        ["Transformer", "Pooling", "Pooling"],
    ],
)
def test_other_modules_are_refused_by_name(kinds: list[str], folder: Path) -> None:
    modules(folder, *old(*kinds))
    last = next(kind for kind in reversed(kinds) if kind != "Pooling" or kinds.count("Pooling") > 1)
    with pytest.raises(InvalidModel, match=last):
        read(folder)


def test_code_of_the_models_own_is_refused(folder: Path) -> None:
    modules(folder, "custom_st.Transformer", *old("Pooling"))
    with pytest.raises(InvalidModel, match="custom_st"):
        read(folder)


def test_a_transformer_without_pooling_is_refused(folder: Path) -> None:
    modules(folder, *old("Transformer", "Normalize"))
    with pytest.raises(InvalidModel, match="Pooling"):
        read(folder)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc"])
def test_a_module_lies_inside_the_folder(path: str, folder: Path) -> None:
    modules(folder, *old("Transformer", "Pooling", "Dense"), path=path)
    with pytest.raises(InvalidModel, match="inside the model's own"):
        read(folder)


def test_a_late_interaction_model_with_pooling_is_refused(folder: Path, edit: Edit) -> None:
    edit("config_sentence_transformers.json", model_type="MultiVectorEncoder")
    with pytest.raises(InvalidModel, match=r"Pooling.*not supported together"):
        read(folder)


# ------------------------------------------------------------------------------------------------------------ pooling


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode": "cls"}, ("cls",)),
        ({"pooling_mode": ["mean"]}, ("mean",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_lasttoken": True}, ("lasttoken",)),
        ({"pooling_mode_cls_token": False}, ("mean",)),
        ({}, ("mean",)),
        ({"pooling_mode": "max", "pooling_mode_cls_token": True}, ("max",)),
    ],
)
def test_pooling_is_read_as_it_was_saved_by_any_release(
    config: dict[str, Any], expected: tuple[str, ...], folder: Path
) -> None:
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **config}))
    assert spec_of(folder).dense.pooling == expected


def test_several_modes_widen_the_vector_in_the_order_of_sentence_transformers(folder: Path) -> None:
    modules(folder, *old("Transformer", "Pooling"))
    config = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    spec = spec_of(folder)
    assert (spec.dense.pooling, spec.dense.dimension) == (("cls", "mean"), 64)


def test_an_unknown_mode_is_refused(edit: Edit, folder: Path) -> None:
    edit("1_Pooling/config.json", pooling_mode="median")
    with pytest.raises(InvalidModel, match=r"'median'.*lasttoken"):
        read(folder)


def test_prompts_may_be_left_out_of_pooling(edit: Edit, folder: Path) -> None:
    edit("1_Pooling/config.json", include_prompt=False)
    assert not spec_of(folder).dense.pools_prompt


def test_pooling_of_another_width_is_refused(edit: Edit, folder: Path) -> None:
    edit("1_Pooling/config.json", embedding_dimension=384)
    with pytest.raises(InvalidModel, match=r"384.*32"):
        read(folder)


def test_a_missing_pooling_configuration_is_named(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(InvalidModel, match=r"1_Pooling"):
        read(folder)


@pytest.mark.parametrize(("make", "mode"), [(tiny_bert, "mean"), (tiny_roberta, "mean"), (tiny_decoder, "mean")])
def test_a_plain_folder_is_pooled_by_the_mean_and_says_so(make: Callable[..., Path], mode: str, tmp_path: Path) -> None:
    spec, (notice,) = read(make(tmp_path, plain=True))
    assert spec.dense.pooling == (mode,)
    assert "mean" in notice
    assert "modules.json" in notice


def test_a_plain_model_made_to_continue_text_is_pooled_at_the_last_token(tmp_path: Path) -> None:
    tiny_decoder(tmp_path, plain=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen2ForCausalLM"]}))
    spec, (notice,) = read(tmp_path)
    assert spec.dense.pooling == ("lasttoken",)
    assert "lasttoken" in notice


# -------------------------------------------------------------------------------------------------------------- dense


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation_function": "torch.nn.modules.activation.GLU"}, "GLU"),
        ({"activation_function": "torch.nn.modules.activation.Threshold"}, "Threshold"),
        ({"activation_function": "transformers.activations.GELUActivation"}, "GELUActivation"),
        ({"activation_function": "torch.hub.load"}, r"torch\.hub\.load"),
        ({"module_input_name": "token_embeddings"}, "token_embeddings"),
        ({"in_features": 7}, "7.*32"),
        ({"out_features": None}, "out_features"),
    ],
)
def test_a_dense_layer_that_backends_cannot_run_is_refused(
    change: dict[str, Any], words: str, folder: Path, edit: Edit
) -> None:
    edit("2_Dense/config.json", **change)
    with pytest.raises(InvalidModel, match=words):
        read(folder)


def test_a_dense_layer_with_pickled_weights_only_is_refused(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(InvalidModel, match="pickled weights are not loaded"):
        read(folder)
