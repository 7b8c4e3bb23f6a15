"""What can be known to be wrong before the port is opened, without loading anything."""

from provider.backends.registry import find_entry_point
from provider.models.resolve import resolve
from provider.settings import Settings


def check_models(settings: Settings) -> None:
    """Look for every model's backend and, where it is local, its folder.

    Raises:
        UnknownBackend: a backend is not installed.
        SourceNotFound: a folder or package is not there.
    """
    for model in settings.all_models():
        find_entry_point(model.backend)
        if model.path is not None:
            resolve(model, settings.hub)
