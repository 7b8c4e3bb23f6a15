"""What the environment says of the hub: its address, and whether it may be asked. huggingface_hub has the names."""

import os
from typing import Any
from urllib.parse import urlsplit

from provider.errors import SettingsError

DEFAULT_ENDPOINT = "https://huggingface.co"
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


def forget_empty_variables() -> None:
    """Make empty variables of huggingface_hub's count as unset, as ours do; it takes them for folders and addresses."""
    for name, value in list(os.environ.items()):
        if not value.strip() and (name == "XDG_CACHE_HOME" or name.startswith(("HF_", "HUGGINGFACE_"))):
            del os.environ[name]


def endpoint_of(given: str) -> str:
    """The hub's address, without a slash at the end."""
    address = given.strip().rstrip("/")
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        shown = given.rpartition("@")[2]
        msg = (
            f"HF_ENDPOINT is {shown!r}, expected the address of a hub, such as {DEFAULT_ENDPOINT}; correct or unset it"
        )
        raise SettingsError(msg)
    return address


def hub_constants() -> Any:  # noqa: ANN401 - a module
    """huggingface_hub's `constants`, with its own telemetry switched off."""
    forget_empty_variables()
    # Read when huggingface_hub is imported, which somebody else may have done already: hence both.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_UPDATE_CHECK", "1")
    from huggingface_hub import constants  # noqa: PLC0415

    constants.HF_HUB_DISABLE_TELEMETRY = True
    return constants


def is_offline(constants: Any) -> bool:  # noqa: ANN401 - a module
    """Whether the environment says that no connection may be opened."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in _TRUE or bool(constants.HF_HUB_OFFLINE)
