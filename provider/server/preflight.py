"""What can be known to be wrong before the port is opened, without loading anything."""

import asyncio
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from attrs import evolve

from provider.backends.protocol import BackendOptions, ChecksOptions
from provider.backends.registry import find_backend, find_entry_point, own_options
from provider.engine.choosing import check_auto
from provider.errors import SettingsError
from provider.http.addresses import AllowedHosts
from provider.http.cors import cors_config
from provider.keys import read_keys
from provider.models.resolve import local_folder
from provider.server.tls import Certificate
from provider.settings import ModelSettings, Settings
from provider.vector_stores import open_store

_ANY = ("auto", "auto")


def check_models(settings: Settings) -> None:
    """Look for every model's backend and, where it is local, its folder; let the backend check what is set for it.

    Raises:
        UnknownBackend: a backend is not installed.
        SourceNotFound: a folder or package is not there.
        BackendUnavailable: a device or dtype is not to be had here.
        SettingsError: there is no such device, dtype or option.
    """
    for model in settings.all_models():
        check_auto(model)
        find_entry_point(model.backend)
        if model.path is not None:
            local_folder(model.path)
    # With nothing set there is nothing to be wrong, and no need to wait for the backend's library.
    particular = [each for each in settings.all_models() if each.options or (each.device, each.dtype) != _ANY]
    if particular and settings.server.workers > 1:
        # A supervisor needs no inference library for all its life.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            process.submit(_check_options, particular).result()
    else:
        _check_options(particular)


def _check_options(models: list[ModelSettings]) -> None:
    for model in models:
        backend = find_backend(model.backend)
        options = BackendOptions(model.device, model.dtype, own=own_options(model.backend, backend, model.options))
        if isinstance(backend, ChecksOptions):
            backend.check_options(options)


def check_access(settings: Settings) -> None:
    """Look at names, origins, keys and the certificate. Not at the keys file, which may be a pipe that is read once.

    Raises:
        SettingsError: one of them is wrong.
    """
    AllowedHosts.of(settings.server, needs_key=settings.auth.needs_key)
    cors_config(settings.server)
    Certificate.of(settings.server)
    read_keys(evolve(settings.auth, keys_file=None))


def check_store(settings: Settings) -> None:
    """Open the cache's store once: what is wrong with its settings or its file is told before the port is open.

    Raises:
        SettingsError: as `open_store`.
    """
    store = open_store(settings.cache.store) if settings.cache.enabled else None
    if store is not None:
        asyncio.run(store.close())


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
