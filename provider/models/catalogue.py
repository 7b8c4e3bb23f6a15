"""The configured models by name."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Self

from attrs import frozen

from provider.errors import ModelError, ModelNotFound, SettingsError
from provider.models.resolve import local_folder
from provider.settings import ENV_PREFIX, ModelSettings

_BARE_NAMES_OF = "sentence-transformers/"
_SHOWN_CHARACTERS = 100


@frozen
class Catalogue:
    """Names, aliases and hub ids, and the model that each means. Never a substitute: an unknown name is an error."""

    _models: dict[str, ModelSettings]

    @classmethod
    def of(cls, models: Sequence[ModelSettings]) -> Self:
        """The catalogue of `models`, in their order. A hub id that another model has as its name is that model's.

        Raises:
            SettingsError: a name or alias is given twice.
        """
        found: dict[str, ModelSettings] = {}
        for model in models:
            for name in (model.served_name, *model.aliases):
                if name in found:
                    msg = (
                        f"model name {name!r} is given twice ({found[name].served_name} and {model.served_name}); "
                        "rename one or drop an alias"
                    )
                    raise SettingsError(msg)
                found[name] = model
        for model in models:
            for name in _hub_names(model):
                found.setdefault(name, model)
        return cls(found)

    def find(self, name: str) -> ModelSettings:
        """The model called `name`, spelt exactly so.

        Raises:
            ModelNotFound: there is none; the message has OpenAI's words, by which clients know it.
        """
        if name not in self._models:
            raise ModelNotFound(_not_found(name, list(self._models)), param="model")
        return self._models[name]

    def names(self) -> list[tuple[str, str]]:
        """Each name that clients may use, and the configured name of the model behind it."""
        return [(name, model.served_name) for name, model in self._models.items()]


def _hub_names(model: ModelSettings) -> Iterator[str]:
    """What the hub calls the model, where that is known; a bare name means sentence-transformers/NAME."""
    if model.path is None or model.repo is not None or _card_names(model.path, model.repository):
        yield model.repository
    if model.served_name.startswith(_BARE_NAMES_OF):
        yield model.served_name.removeprefix(_BARE_NAMES_OF)


def _card_names(path: str, repository: str) -> bool:
    """Whether the model card in a folder or package names `repository`."""
    try:
        folder, _origin = local_folder(path)
        card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except (ModelError, OSError, RuntimeError):
        return False
    return re.search(rf"(?<![\w./-]){re.escape(repository)}(?![\w.-])", card) is not None


def _not_found(name: str, known: list[str]) -> str:
    shown = name[:_SHOWN_CHARACTERS]
    message = (
        f"The model `{shown}` does not exist or you do not have access to it. "
        f"The models here are: {', '.join(known) or 'none'}."
    )
    if shown != name:
        return message
    return (
        f"{message} If your client cannot ask for one of these, the operator can add the name: "
        f"`aliases: [{json.dumps(name, ensure_ascii=False)}]` under `model` in the configuration, "
        f"or {ENV_PREFIX}MODEL_ALIASES={name}"
    )
