"""The configured models by name."""

from collections.abc import Sequence
from typing import Self

from attrs import frozen

from provider.errors import ModelNotFound, SettingsError
from provider.settings import ModelSettings


@frozen
class Catalogue:
    """Names and aliases, and the model that each of them means. Never a substitute: an unknown name is an error."""

    _models: dict[str, ModelSettings]

    @classmethod
    def of(cls, models: Sequence[ModelSettings]) -> Self:
        """The catalogue of `models`, in their order.

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
        return cls(found)

    def find(self, name: str) -> ModelSettings:
        """The model called `name`, by its own name or an alias, spelt exactly so.

        Raises:
            ModelNotFound: there is none; the message has OpenAI's words, by which clients know it.
        """
        if name not in self._models:
            msg = (
                f"The model `{name[:100]}` does not exist or you do not have access to it. "
                f"The models here are: {', '.join(self._models) or 'none'}."
            )
            raise ModelNotFound(msg, param="model")
        return self._models[name]

    def names(self) -> list[tuple[str, str]]:
        """Each name that clients may use, and the configured name of the model behind it, in order."""
        return [(name, model.served_name) for name, model in self._models.items()]
