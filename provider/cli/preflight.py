"""What can be known to be wrong before the port is opened, without loading anything."""

from provider.backends.registry import find_entry_point
from provider.errors import SettingsError
from provider.models.resolve import local_folder
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
            local_folder(model.path)


def check_workers(settings: Settings, *, cores: int) -> None:
    """Several workers must not have more threads of forward passes than there are cores.

    A single process may: whoever sets that has measured it. Workers multiply it.

    Raises:
        SettingsError: they would.
    """
    workers = settings.server.workers
    if workers == 1:
        return
    if workers > cores:
        msg = (
            f"server.workers: got {workers}, but this process may use {cores} cores, and each worker needs one; "
            f"set it to at most {cores}, or allow this process more cores"
        )
        raise SettingsError(msg)
    for model in settings.all_models():
        lanes, threads = model.lanes or 1, model.threads_per_lane or 1
        if lanes * threads * workers > cores:
            msg = (
                f"model {model.served_name!r}: lanes ({lanes}) x threads_per_lane ({threads}) x server.workers "
                f"({workers}) is {lanes * threads * workers}, but this process may use {cores} cores; "
                "lower one of them, or leave lanes and threads_per_lane out"
            )
            raise SettingsError(msg)
