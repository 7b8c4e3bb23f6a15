"""Models from the Hugging Face hub, or a mirror of it: downloaded once, then read from the cache.

huggingface_hub is imported when it is needed: whoever runs a model from a folder never pays for it. Its own telemetry
is switched off; what the hub sees are the requests for the files.
"""

import glob
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from provider.errors import InvalidModel, ModelError, SourceUnreachable
from provider.models.cached import (
    DEFAULT_BRANCH,
    Asked,
    Snapshot,
    cache_place,
    check_whole,
    find_cached,
    listed_names,
    remember,
)
from provider.models.folder import check_free
from provider.models.hub_errors import unreachable
from provider.models.hub_variables import DEFAULT_ENDPOINT, endpoint_of, hub_constants, is_offline
from provider.models.selection import SelectFiles, describing, nothing_more

Notify = Callable[[str, dict[str, object]], None]

# For connecting, and for each wait for an answer; a hub that is out of reach should not hold up the start.
_ANSWER_SECONDS = 5.0


@frozen
class _Listing:
    """What the hub says of a repository: the commit, and its files' names with their sizes in bytes."""

    commit: str
    sizes: dict[str, int]


def download(
    repository: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    cache_folder: str | Path | None = None,
    to: Path | None = None,
    select_more: SelectFiles = nothing_more,
    converts: bool = False,
    converted: Path | None = None,
    progress: bool = False,
    notify: Notify = lambda _phase, _detail: None,
) -> Snapshot:
    """The files of a model, from the cache if they are there and the hub has nothing newer.

    A full commit hash that is in the cache needs no network. A branch or tag is looked up at the hub; if that cannot be
    reached, a complete copy in the cache is used and a notice says so. A connection that breaks is resumed where it
    broke; after a failure, files that were complete are not fetched again. The small files that say what the model is
    come first: what cannot be served is refused before its weights are downloaded.

    Args:
        repository: `OWNER/NAME`.
        revision: branch, tag or full commit hash; None for the default branch.
        offline: open no connection. HF_HUB_OFFLINE in the environment says the same.
        cache_folder: where downloads are kept; None for huggingface_hub's own (HF_HOME, HF_HUB_CACHE).
        to: also lay the files into this folder, which must not exist or be empty; it appears when it is complete.
        select_more: picks files that are wanted besides what every model needs; a copy without them is incomplete.
        converts: whether weights that are pickled only may be downloaded, to be converted.
        converted: where converted models are kept; pickled weights that were converted are not downloaded.
        progress: draw a progress bar on standard error, if that is a terminal.
        notify: told `started`, then `finished` or `failed`, with `repository`, `revision`, `bytes`, `reason`; only
            where something is really downloaded. Between them it is told `progress` from several threads, with
            `bytes` that have come and `total`.

    Raises:
        SourceNotFound: no such repository or revision.
        AccessDenied: the hub wants a token, or another one.
        SourceUnreachable: the hub cannot be reached, and there is no complete copy here.
        InvalidModel: the model cannot be served, or a file came damaged.
        ModelError: the cache or `to` cannot be written to.
        SettingsError: HF_ENDPOINT is no address.
    """
    if to is not None:
        check_free(to)
    constants = hub_constants()
    asked = Asked(
        repository,
        revision,
        Path(cache_folder or constants.HF_HUB_CACHE).expanduser(),
        endpoint_of(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT or DEFAULT_ENDPOINT),
        select_more,
        converts,
        # A folder to carry away has to be complete by itself.
        converted if to is None else None,
    )
    offline = offline or is_offline(constants)
    snapshot = _cached_or_fetched(asked, to, offline=offline, progress=progress, notify=notify)
    return snapshot if to is None or snapshot.folder == to else _copied(asked, snapshot, to)


def _cached_or_fetched(asked: Asked, to: Path | None, *, offline: bool, progress: bool, notify: Notify) -> Snapshot:
    try:
        cached, problem = find_cached(asked, asked.revision or DEFAULT_BRANCH)
    except InvalidModel:
        if offline:
            raise
        # Of the commit that is here; the hub may have another one.
        cached, problem = None, ""
    if offline:
        if cached is None:
            msg = f"downloads are switched off (hub.offline or HF_HUB_OFFLINE){problem}"
            raise unreachable(asked.repository, asked.cache, msg)
        return cached
    # A commit never changes. Without the list of its files, though, an interrupted download could pass for complete.
    if cached is not None and cached.revision == asked.revision and listed_names(asked, cached.revision) is not None:
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
    cached, _ = find_cached(asked, listing.commit, listing.sizes)
    if cached is None:
        return _fetch(asked, listing, to, is_shown=progress and sys.stderr.isatty(), notify=notify)
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
    return _Listing(str(info.sha), {each.rfilename: each.size or 0 for each in info.siblings or []})


def _fetch(asked: Asked, listing: _Listing, to: Path | None, *, is_shown: bool, notify: Notify) -> Snapshot:
    commit = listing.commit
    # The commit is part of the name: what is left of another one is not mixed in.
    partial = to and to.with_name(f".{to.name}.{commit[:12]}.partial")
    folder = partial or cache_place(asked) / "snapshots" / commit
    # Options that no file could meet are refused first.
    asked.select_more(sorted(listing.sizes))
    small = describing(asked.repository, listing.sizes)
    _download_files(asked, commit, small, partial, _bar())
    try:
        selection, needed = asked.select(listing.sizes, folder, commit)
    except InvalidModel:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    detail: dict[str, object] = {"repository": asked.repository, "revision": commit}
    size = {"bytes": sum(listing.sizes[name] for name in needed)}
    missing = sum(listing.sizes[name] for name in needed if not (folder / name).exists())
    notify("started", {**detail, **size})

    def tell(come: int) -> None:
        notify("progress", {"bytes": min(come, missing), "total": missing})

    try:
        _download_files(asked, commit, needed, partial, _bar(tell, is_shown=is_shown))
        _check_fetched(folder, needed)
        if to is not None and partial is not None:
            shutil.rmtree(partial / ".cache", ignore_errors=True)
            _move(partial, to)
            folder = to
    except ModelError as exc:
        notify("failed", {**detail, "reason": exc.message})
        raise
    notify("finished", {**detail, **size})
    snapshot = Snapshot(folder, commit, asked.repository, selection)
    if to is None:
        remember(asked, snapshot)
    return snapshot


def _download_files(asked: Asked, commit: str, names: Iterable[str], to: Path | None, bar: Any) -> None:  # noqa: ANN401
    """Those of the files that are not here yet, into the cache or the folder `to`."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        snapshot_download(
            asked.repository,
            revision=commit,
            endpoint=asked.endpoint,
            cache_dir=asked.cache,
            local_dir=to,
            # A name is a pattern there.
            allow_patterns=[glob.escape(name) for name in names],
            tqdm_class=bar,
        )
    except Exception as exc:
        raise asked.translate(exc, to) from exc


def _check_fetched(folder: Path, names: Iterable[str]) -> None:
    """A damaged file is removed: it would be taken for good the next time."""
    for name in names:
        try:
            check_whole(folder, [name])
        except InvalidModel:
            (folder / name).resolve().unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)
            raise


def _bar(tell: Callable[[int], None] = lambda _come: None, *, is_shown: bool = False) -> Any:  # noqa: ANN401
    """A class for huggingface_hub's bars of one download; `tell` hears how many bytes have come, drawn or not."""
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415

    class Bar(tqdm):
        come = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            self._come = 0 if kwargs.get("unit") == "B" else None
            super().__init__(*args, **(kwargs if is_shown else {**kwargs, "disable": True}))  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            if self._come is not None:
                # One bar counts what is received, another what is written.
                self._come += int(n or 0)
                Bar.come = max(Bar.come, self._come)
                tell(Bar.come)

    return Bar


def _copied(asked: Asked, snapshot: Snapshot, to: Path) -> Snapshot:
    partial = to.with_name(f".{to.name}.{snapshot.revision[:12]}.partial")
    try:
        for name in snapshot.selection.files:
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
