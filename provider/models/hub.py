"""Models from the Hugging Face hub, or a mirror of it: downloaded once, then read from the cache.

huggingface_hub is imported when it is needed: whoever runs a model from a folder never pays for it. Its own telemetry
is switched off; what the hub sees are the requests for the files.
"""

import glob
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from provider.errors import InvalidModel, ModelError, SourceUnreachable
from provider.models.cached import (
    DEFAULT_BRANCH,
    Asked,
    Snapshot,
    cache_place,
    check_complete,
    find_cached,
    listed_files,
    remember,
)
from provider.models.hub_errors import unreachable
from provider.models.selection import SelectFiles, nothing_more, select_files
from provider.models.weights import check_safetensors

Notify = Callable[[str, dict[str, object]], None]

# For connecting, and for each wait for an answer; a hub that is out of reach should not hold up the start.
_ANSWER_SECONDS = 5.0
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


@frozen
class _Listing:
    """What the hub says of a repository: the commit, and the files we want of it with their total size."""

    commit: str
    files: tuple[str, ...]
    total_bytes: int


def download(
    repository: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    cache_folder: str | Path | None = None,
    to: Path | None = None,
    select_more: SelectFiles = nothing_more,
    progress: bool = False,
    notify: Notify = lambda _phase, _detail: None,
) -> Snapshot:
    """The files of a model, from the cache if they are there and the hub has nothing newer.

    A full commit hash that is in the cache needs no network. A branch or tag is looked up at the hub; if that cannot be
    reached, a complete copy in the cache is used and a notice says so. A connection that breaks is resumed where it
    broke; after a failure, files that were complete are not fetched again.

    Args:
        repository: `OWNER/NAME`.
        revision: branch, tag or full commit hash; None for the default branch.
        offline: open no connection. HF_HUB_OFFLINE in the environment says the same.
        cache_folder: where downloads are kept; None for huggingface_hub's own (HF_HOME, HF_HUB_CACHE).
        to: also lay the files into this folder, which must not exist or be empty; it appears when it is complete.
        select_more: picks files that are wanted besides what every model needs; a copy without them is incomplete.
        progress: draw a progress bar on standard error, if that is a terminal.
        notify: told `started`, then `finished` or `failed`, with `repository`, `revision`, `bytes`, `reason`; only
            where something is really downloaded.

    Raises:
        SourceNotFound: no such repository or revision.
        AccessDenied: the hub wants a token, or another one.
        SourceUnreachable: the hub cannot be reached, and there is no complete copy here.
        InvalidModel: the repository has no safetensors weights, or a file came damaged.
        ModelError: the cache or `to` cannot be written to.
    """
    if to is not None:
        _check_free(to)
    constants = _constants()
    asked = Asked(
        repository,
        revision,
        Path(cache_folder or constants.HF_HUB_CACHE).expanduser(),
        (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/"),
        select_more,
    )
    offline = offline or _is_offline(constants)
    snapshot = _cached_or_fetched(asked, to, offline=offline, progress=progress, notify=notify)
    return snapshot if to is None or snapshot.folder == to else _copied(asked, snapshot, to)


def _constants() -> Any:  # noqa: ANN401 - a module
    # Read when huggingface_hub is imported, which somebody else may have done already: hence both.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_UPDATE_CHECK", "1")
    from huggingface_hub import constants  # noqa: PLC0415

    constants.HF_HUB_DISABLE_TELEMETRY = True
    return constants


def _is_offline(constants: Any) -> bool:  # noqa: ANN401 - a module
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in _TRUE or bool(constants.HF_HUB_OFFLINE)


def _cached_or_fetched(asked: Asked, to: Path | None, *, offline: bool, progress: bool, notify: Notify) -> Snapshot:
    cached, problem = find_cached(asked, asked.revision or DEFAULT_BRANCH)
    if offline:
        if cached is None:
            msg = f"downloads are switched off (hub.offline or HF_HUB_OFFLINE){problem}"
            raise unreachable(asked.repository, asked.cache, msg)
        return cached
    # A commit never changes. Without the list of its files, though, an interrupted download could pass for complete.
    if cached is not None and cached.revision == asked.revision and listed_files(asked, cached.revision) is not None:
        return cached
    try:
        listing = _ask(asked)
    except SourceUnreachable as exc:
        if cached is None and not problem:
            raise
        reason = exc.message.partition(", and ")[0]
        if cached is None:
            raise unreachable(asked.repository, asked.cache, f"{reason}{problem}") from exc
        notice = f"{reason}: using the copy of {asked.repository} in {asked.cache}, commit {cached.revision}"
        return evolve(cached, notices=(notice,))
    cached, _ = find_cached(asked, listing.commit, listing.files)
    if cached is None:
        return _fetch(asked, listing, to, progress=progress, notify=notify)
    remember(asked, cached)
    return cached


def _ask(asked: Asked) -> _Listing:
    """One request: which commit, which files, how large."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    try:
        info = HfApi(endpoint=asked.endpoint).model_info(
            asked.repository, revision=asked.revision, files_metadata=True, timeout=_ANSWER_SECONDS
        )
    except Exception as exc:
        raise asked.translate(exc) from exc
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
    files = select_files(asked.repository, sizes, asked.select_more)
    return _Listing(str(info.sha), files, sum(sizes[name] for name in files))


def _fetch(asked: Asked, listing: _Listing, to: Path | None, *, progress: bool, notify: Notify) -> Snapshot:
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    detail: dict[str, object] = {"repository": asked.repository, "revision": listing.commit}
    # The commit is part of the name: what is left of another one is not mixed in.
    partial = to and to.with_name(f".{to.name}.{listing.commit[:12]}.partial")
    notify("started", {**detail, "bytes": listing.total_bytes})
    try:
        try:
            snapshot_download(
                asked.repository,
                revision=listing.commit,
                endpoint=asked.endpoint,
                cache_dir=asked.cache,
                local_dir=partial,
                # A name is a pattern there.
                allow_patterns=[glob.escape(name) for name in listing.files],
                tqdm_class=_bar(is_shown=progress and sys.stderr.isatty()),
            )
        except Exception as exc:
            raise asked.translate(exc, partial) from exc
        folder = partial or cache_place(asked) / "snapshots" / listing.commit
        _check_fetched(folder)
        if to is not None and partial is not None:
            shutil.rmtree(partial / ".cache", ignore_errors=True)
            _move(partial, to)
            folder = to
    except ModelError as exc:
        notify("failed", {**detail, "reason": exc.message})
        raise
    notify("finished", {**detail, "bytes": listing.total_bytes})
    snapshot = Snapshot(folder, listing.commit, asked.repository)
    if to is None:
        remember(asked, snapshot)
    return snapshot


def _check_fetched(folder: Path) -> None:
    """A damaged file is removed: it would be taken for good the next time."""
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            check_safetensors(path)
        except InvalidModel:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
    check_complete(folder)


def _bar(*, is_shown: bool) -> Any:  # noqa: ANN401 - a class of huggingface_hub's
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415

    class Silent(tqdm):
        """No bar: the class for where nobody looks."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

    return tqdm if is_shown else Silent


def _check_free(to: Path) -> None:
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        msg = f"{to} exists and is not empty; choose another folder, or remove it first"
        raise ModelError(msg)


def _copied(asked: Asked, snapshot: Snapshot, to: Path) -> Snapshot:
    partial = to.with_name(f".{to.name}.{snapshot.revision[:12]}.partial")
    # Without a list it cannot be told what others have put into the cache.
    files = listed_files(asked, snapshot.revision)
    try:
        if files is None:
            shutil.copytree(snapshot.folder, partial, dirs_exist_ok=True)
        for name in files or ():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot.folder / name, partial / name)
    except (OSError, shutil.Error) as exc:
        raise asked.translate(exc, to) from exc
    _move(partial, to)
    return evolve(snapshot, folder=to)


def _move(partial: Path, to: Path) -> None:
    """The folder appears at once and whole."""
    try:
        partial.replace(to)
    except OSError as exc:
        msg = f"cannot write to {to} ({exc.strerror}); the files are in {partial}"
        raise ModelError(msg) from exc
