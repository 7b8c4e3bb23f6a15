"""The settings of commands that run one model themselves, for nobody but the caller."""

from pathlib import Path

import attrs

from provider.app import read_configuration
from provider.cli.options import model_flags
from provider.errors import ModelNotFound
from provider.models.catalogue import Catalogue
from provider.settings import LimitSettings, LogSettings, ModelSettings, QueueSettings, Settings

_NO_LIMIT = 2**40


def chosen_model(
    config: Path | None, model: str | None, backend: str | None, device: str | None, dtype: str | None
) -> Settings:
    """One model, no limits on requests: nobody else is waiting here.

    Args:
        config: the configuration file, if one was named.
        model: a configured name or alias, else as `--model` has it; None for the default model.
        backend: instead of the configured one.
        device: instead of the configured one.
        dtype: instead of the configured one.

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
    return attrs.evolve(
        configured,
        model=chosen,
        models=[],
        limits=LimitSettings(max_inputs=_NO_LIMIT, max_request_tokens=_NO_LIMIT),
        queue=QueueSettings(max_tokens=_NO_LIMIT),
        # The terminal belongs to what the command writes.
        log=LogSettings(level="WARNING", format=configured.log.format),
    )
