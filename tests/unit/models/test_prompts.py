"""Prompts that a model's card states."""

from pathlib import Path

import pytest

from provider.configuration import load_settings
from provider.engine.finding import read_files
from provider.errors import SettingsError
from provider.models.prompts import given_prompts, recipe_of
from provider.models.resolve import Resolved
from provider.settings import ModelSettings
from provider.testing.tiny import tiny_bert

PASSAGES = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("BAAI/bge-small-en-v1.5", {"query": PASSAGES}),
        ("baai/BGE-large-en", {"query": PASSAGES}),
        ("intfloat/e5-base-v2", {"query": "query: ", "document": "passage: "}),
        ("intfloat/multilingual-e5-large", {"query": "query: ", "document": "passage: "}),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", {"query": PASSAGES}),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", {"query": "query: "}),
        ("mixedbread-ai/mxbai-embed-large-v1", {"query": PASSAGES}),
        ("BAAI/bge-m3", {}),
        ("intfloat/multilingual-e5-large-instruct", {}),
        ("someone/bge-small-en-v1.5", {}),
        ("all-MiniLM-L6-v2", {}),
    ],
)
def test_a_recipe_is_known_by_the_hub_id(name: str, recipe: dict[str, str]) -> None:
    assert recipe_of(ModelSettings(name=name)) == recipe_of(ModelSettings(name="mine", repo=name)) == recipe


def test_a_recipe_is_configured_by_file_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "litestar.yaml"
    path.write_text("model: {name: intfloat/e5-small-v2, prompts: recipe}")
    by_file = load_settings(path, {}).settings.model
    by_environment = load_settings(
        None, {"EMB_PROVIDER_MODEL_NAME": "intfloat/e5-small-v2", "EMB_PROVIDER_MODEL_PROMPTS": "recipe"}
    ).settings.model
    assert given_prompts(by_file) == given_prompts(by_environment) == {"query": "query: ", "document": "passage: "}
    with pytest.raises(SettingsError, match=r"model\.prompts .*or recipe, got 'none'"):
        load_settings(None, {"EMB_PROVIDER_MODEL_PROMPTS": "none"})


def test_a_recipe_that_is_not_known_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"owner/mine.*set model\.repo"):
        given_prompts(ModelSettings(name="owner/mine", prompts="recipe"))


def test_the_spec_has_the_recipe_as_prompts_only_where_it_is_configured(tmp_path: Path) -> None:
    e5 = {"name": "mine", "repo": "intfloat/e5-small-v2"}
    recipe = {"query": "query: ", "document": "passage: "}
    source = Resolved(tiny_bert(tmp_path / "bare"), "folder")
    bare, _ = read_files(source, ModelSettings(**e5))
    assert (bare.prompts, bare.recipe) == ({}, recipe)
    asked, _ = read_files(source, ModelSettings(**e5, prompts="recipe"))
    assert (asked.prompts, asked.recipe) == (recipe, {})
    with_own = Resolved(tiny_bert(tmp_path / "own", prompts={"query": "q: "}), "folder")
    own, _ = read_files(with_own, ModelSettings(**e5))
    assert (own.prompts, own.recipe) == ({"query": "q: "}, {})
