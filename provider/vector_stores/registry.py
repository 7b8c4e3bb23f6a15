"""Stores by name: the product's own, and those of installed distributions."""

from collections.abc import Mapping
from pathlib import Path

from provider.entry_points import clash, distribution, installed, read_options
from provider.errors import SettingsError
from provider.settings.cache import MEMORY, StoreSettings
from provider.vector_stores.disk import DiskStore
from provider.vector_stores.protocol import StoreOptions, VectorStore

GROUP = "provider.vector_stores"

_OWN: Mapping[str, type[VectorStore]] = {"disk": DiskStore}
# Stores of this project's other distributions.
_DISTRIBUTIONS = {"redis": "emb-provider-redis"}


def installed_stores() -> dict[str, str]:
    """Name of each store, and the distribution that it comes with; nothing is imported."""
    found = dict.fromkeys((MEMORY, *_OWN), "emb-provider")
    return found | {name: distribution(points[0]) for name, points in installed(GROUP).items()}


def find_store(name: str) -> type[VectorStore]:
    """Import the store registered as `name`.

    Raises:
        SettingsError: not exactly one distribution registers it, importing it fails, or what it names is no store.
    """
    if name in _OWN:
        return _OWN[name]
    points = installed(GROUP).get(name, ())
    if not points:
        msg = f"cache.store.name: there is no store {name!r}; installed are: {', '.join(installed_stores())}"
        if name in _DISTRIBUTIONS:
            msg += (
                f". It comes with {_DISTRIBUTIONS[name]}: pip install its wheel, or ./plugins/{name} of emb-provider's "
                "repository"
            )
        raise SettingsError(msg)
    if len(points) > 1:
        raise SettingsError(clash(f"cache.store.name: the store {name!r}", points))
    where = f"the store {name!r} ({points[0].value}, from {distribution(points[0])})"
    try:
        found = points[0].load()
    except Exception as exc:
        msg = f"cache.store.name: {where} cannot be imported: {exc!r}"
        raise SettingsError(msg) from exc
    missing = [part for part in ("Options", "open", "get_many", "set_many", "close") if not hasattr(found, part)]
    if missing:
        msg = f"cache.store.name: {where} is no store: it has no {', '.join(missing)}"
        raise SettingsError(msg)
    checked: type[VectorStore] = found
    return checked


def open_store(settings: StoreSettings) -> VectorStore | None:
    """The store that the settings name; None where they name the process's own memory.

    Raises:
        SettingsError: as `find_store`, or the settings are not what the store needs.
    """
    if settings.name == MEMORY:
        for name in ("path", "url", "max_bytes", "options"):
            if getattr(settings, name):
                msg = f"cache.store.{name}: set, but cache.store.name is {MEMORY}, which takes none; name the store"
                raise SettingsError(msg)
        return None
    kind = find_store(settings.name)
    options = StoreOptions(
        path=None if settings.path is None else Path(settings.path),
        url=settings.url,
        max_bytes=settings.max_bytes,
        ttl_seconds=settings.ttl_seconds,
        timeout_seconds=settings.timeout_ms / 1000,
        own=read_options(f"the store {settings.name!r}", kind.Options, settings.options),
    )
    return kind.open(options)
