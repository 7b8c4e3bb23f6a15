"""Which model a command is about: one of the configuration, or one that is named on the command line."""

from pathlib import Path

import attrs

from provider.app import read_configuration
from provider.cli.options import model_flags
from provider.errors import ModelNotFound
from provider.models.catalogue import Catalogue
from provider.settings import ModelSettings, Settings


def chosen_model(
    config: Path | None, model: str | None, backend: str | None, device: str | None, dtype: str | None
) -> Settings:
    """The settings, with the chosen model as the only one.

    Args:
        config: the configuration file, as on the command line.
        model: a configured name or alias, another name, or a folder; None for the default model.
        backend: wins over the model's own, and so do the next two.
        device: as in the settings.
        dtype: as in the settings.

    Raises:
        SettingsError: naming the setting at fault.
    """
    configured = read_configuration(config, model_flags(None, backend, device, dtype)).settings
    chosen: ModelSettings = configured.model
    if model is not None:
        try:
            chosen = Catalogue.of(configured.all_models()).find(model)
            chosen = attrs.evolve(
                chosen,
                backend=backend or chosen.backend,
                device=device or chosen.device,
                dtype=dtype or chosen.dtype,
            )
        except ModelNotFound:
            chosen = read_configuration(config, model_flags(model, backend, device, dtype)).settings.model
    return attrs.evolve(configured, model=chosen, models=[])
