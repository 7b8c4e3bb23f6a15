"""emb-provider: a self-hosted inference server for search, and its engine as a library.

Importing the package costs nothing: each name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provider.bulk.library import embed_file
    from provider.bulk.progress import RunSummary
    from provider.domain import Embedded, EmbedRequest, Scored, ScoreRequest, SparseVector
    from provider.engine.engine import Engine
    from provider.engine.sync import SyncEngine
    from provider.errors import ProviderError
    from provider.settings import CacheSettings, ModelSettings, QueueSettings, Settings
    from provider.verification import verify_briefly

__version__ = "0.1.0"

_NAMES = {
    "CacheSettings": "provider.settings",
    "EmbedRequest": "provider.domain",
    "Embedded": "provider.domain",
    "Engine": "provider.engine.engine",
    "ModelSettings": "provider.settings",
    "ProviderError": "provider.errors",
    "QueueSettings": "provider.settings",
    "RunSummary": "provider.bulk.progress",
    "ScoreRequest": "provider.domain",
    "Scored": "provider.domain",
    "Settings": "provider.settings",
    "SparseVector": "provider.domain",
    "SyncEngine": "provider.engine.sync",
    "embed_file": "provider.bulk.library",
    "verify_briefly": "provider.verification",
}

__all__ = [
    "CacheSettings",
    "EmbedRequest",
    "Embedded",
    "Engine",
    "ModelSettings",
    "ProviderError",
    "QueueSettings",
    "RunSummary",
    "ScoreRequest",
    "Scored",
    "Settings",
    "SparseVector",
    "SyncEngine",
    "__version__",
    "embed_file",
    "verify_briefly",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is exported
    if name not in _NAMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
