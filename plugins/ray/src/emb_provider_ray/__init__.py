"""emb-provider on Ray: `build_app` for Ray Serve, `embed_dataset` for Ray Data.

Importing the package costs nothing: each name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emb_provider_ray.application import build_app
    from emb_provider_ray.data import embed_dataset

_NAMES = {"build_app": "emb_provider_ray.application", "embed_dataset": "emb_provider_ray.data"}

__all__ = ["build_app", "embed_dataset"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is exported
    if name not in _NAMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_NAMES[name]), name)
