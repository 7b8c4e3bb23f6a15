"""The configured models by name."""

import re
from collections.abc import Iterator, Sequence
from typing import Self

from attrs import frozen

from provider.configuration import by_name
from provider.domain import Caller
from provider.errors import ModelError, ModelForbidden, ModelNotFound
from provider.models.resolve import local_folder
from provider.settings import ModelSettings

_BARE_NAMES_OF = "sentence-transformers/"


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
        found = by_name(models)
        for model in models:
            for name in _hub_names(model):
                found.setdefault(name, model)
        return cls(found)

    def find(self, name: str) -> ModelSettings:
        """The model called `name`, spelt exactly so.

        Raises:
            ModelNotFound: there is none.
        """
        if name not in self._models:
            raise ModelNotFound(name, known=list(self._models))
        return self._models[name]

    def find_for(self, caller: Caller, name: str) -> ModelSettings:
        """The model called `name`, for a caller who may not use all.

        Raises:
            ModelNotFound: there is none; the models known are those that the caller may use.
            ModelForbidden: the caller may not use it.
        """
        if name not in self._models:
            known = [each for each, model in self._models.items() if caller.may_use(model.served_name)]
            raise ModelNotFound(name, known=known)
        model = self._models[name]
        if not caller.may_use(model.served_name):
            raise ModelForbidden(name, caller=caller.name, allowed=sorted(caller.models or ()))
        return model

    def split(self, name: str) -> tuple[str, str | None]:
        """The model's name, and that of one of its prompts behind a colon (`name:query`): for clients without fields.

        A configured name may have colons itself. The prompt is None where none is named, or the model is unknown.
        """
        if name not in self._models:
            for colon in range(len(name) - 1, 0, -1):
                if name[colon] == ":" and name[:colon] in self._models:
                    return name[:colon], name[colon + 1 :]
        return name, None

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
