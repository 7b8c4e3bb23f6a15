"""Prompts: those of a model's files, of the configuration, and of its card."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provider.errors import InvalidModel, SettingsError
from provider.models.kinds import ABOUT_FILE
from provider.settings import ModelSettings

_PASSAGES = {"query": "Represent this sentence for searching relevant passages: "}
_E5 = {"query": "query: ", "document": "passage: "}
# By hub id: prompts that the card states, and the files of some or all revisions do not.
_RECIPES: Mapping[str, Mapping[str, str]] = {
    r"BAAI/bge-(small|base|large)-en(-v1\.5)?": _PASSAGES,
    r"BAAI/bge-(small|base|large)-zh(-v1\.5)?": {"query": "为这个句子生成表示以用于检索相关文章："},  # noqa: RUF001
    r"intfloat/e5-(small|base|large)(-v2)?": _E5,
    r"intfloat/multilingual-e5-(small|base|large)": _E5,
    r"Snowflake/snowflake-arctic-embed-(xs|s|m|m-long|m-v1\.5|l)": _PASSAGES,
    r"Snowflake/snowflake-arctic-embed-(m|l)-v2\.0": {"query": "query: "},
    r"mixedbread-ai/mxbai-embed-large-v1": _PASSAGES,
}


def recipe_of(settings: ModelSettings) -> Mapping[str, str]:
    """Name to text of the prompts that the model's card states; empty where its hub id has none."""
    found = (
        recipe for pattern, recipe in _RECIPES.items() if re.fullmatch(pattern, settings.repository, re.IGNORECASE)
    )
    return next(found, {})


def given_prompts(settings: ModelSettings) -> Mapping[str, str]:
    """Name to text of the prompts that the configuration gives.

    Raises:
        SettingsError: it asks for a recipe, and there is none for the model.
    """
    if not isinstance(settings.prompts, str):
        return settings.prompts
    recipe = recipe_of(settings)
    if not recipe:
        msg = (
            f"model.prompts is 'recipe', but no prompts are known of the card of {settings.repository}; write them as "
            "a mapping of names to texts, or set model.repo to the hub id that the model has"
        )
        raise SettingsError(msg)
    return recipe


def read_prompts(
    folder: Path, about: dict[str, Any], given: Mapping[str, str], wanted: str | None
) -> tuple[dict[str, str], str]:
    """The model's prompts, and the text of the one for requests that choose none."""
    found = about.get("prompts") or {}
    if not isinstance(found, dict) or not all(isinstance(text, str | None) for text in found.values()):
        msg = f"prompts in {folder / ABOUT_FILE} are {found!r}, expected names with texts; restore the file"
        raise InvalidModel(msg)
    prompts = {str(name): text or "" for name, text in found.items()} | dict(given)
    if wanted is not None:
        if wanted not in prompts:
            msg = (
                f"model.default_prompt is {wanted!r}, but this model's prompts are: "
                f"{', '.join(sorted(prompts)) or 'none'}; name one of them, add it to model.prompts, or leave the "
                "setting out"
            )
            raise SettingsError(msg)
        return prompts, prompts[wanted]
    name = about.get("default_prompt_name")
    # sentence-transformers gives every model an empty `query` and `document`.
    known = {"query": "", "document": "", **prompts}
    if name is not None and name not in known:
        msg = (
            f"default_prompt_name in {folder / ABOUT_FILE} is {name!r}, but its prompts are "
            f"{', '.join(sorted(prompts)) or 'none'}; mend the file"
        )
        raise InvalidModel(msg)
    return prompts, known[name] if name is not None else ""
