"""Copies of repositories in huggingface_hub's cache: found, checked and noted, without asking anybody.

The layout is described at https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen

from provider.errors import InvalidModel, ModelError
from provider.models.conversion import Conversion, place_of
from provider.models.folder import names_in
from provider.models.hub_errors import hub_error
from provider.models.selection import SelectFiles, Selection, describing, nothing_more, select
from provider.models.weights import check_safetensors, pickled_only

DEFAULT_BRANCH = "main"


@frozen
class Snapshot:
    """A repository's files at one commit, on this machine.

    Attributes:
        folder: where they are; to be read only.
        revision: the full commit hash.
        origin: the repository.
        selection: which of them make the model; those that are converted already need not be there.
        notices: sentences that an operator should read.
    """

    folder: Path
    revision: str
    origin: str
    selection: Selection
    notices: tuple[str, ...] = ()


@frozen
class Asked:
    """What was asked for, and where it goes.

    Attributes:
        select_more: picks the files that are wanted besides what every model needs.
        converts: whether pickled weights may be converted.
        converted: where converted models are kept.
    """

    repository: str
    revision: str | None
    cache: Path
    endpoint: str
    select_more: SelectFiles = nothing_more
    converts: bool = False
    converted: Path | None = None

    @property
    def host(self) -> str:
        """The hub's host and port, without the credentials that an address may hold."""
        parts = urlsplit(self.endpoint)
        return parts.netloc.rpartition("@")[2] or self.endpoint

    def translate(self, exc: Exception, folder: Path | None = None) -> ModelError:
        """`exc` in our own words; `folder` is where was written to, if not the cache."""
        return hub_error(exc, self.repository, self.revision, folder or self.cache, self.host)

    def select(self, names: Iterable[str], folder: Path, commit: str) -> tuple[Selection, tuple[str, ...]]:
        """The files of a commit that make the model, and those of them that have to be in `folder`.

        Args:
            names: of all files of the commit.
            folder: where the small ones are that say what the model is.
            commit: its full hash.

        Raises:
            InvalidModel: the model cannot be served.
        """
        selection = select(self.repository, names, folder, self.select_more)
        if not selection.pickled:
            return selection, selection.files
        if self.converted is not None:
            place = place_of(self.converted, self.repository, selection, content=commit)
            if Conversion(folder, selection, place).is_done:
                return selection, tuple(name for name in selection.files if name not in selection.pickled)
        if not self.converts:
            raise pickled_only(self.repository, selection.pickled)
        return selection, selection.files


def find_cached(asked: Asked, revision: str, names: Iterable[str] | None = None) -> tuple[Snapshot | None, str]:
    """The complete copy in the cache, if there is one; else what is wrong with it. Writes nothing, asks nobody.

    Args:
        asked: what for.
        revision: branch, tag or full commit hash.
        names: of all files of that commit; None to go by the list that was kept when it was downloaded.

    Raises:
        InvalidModel: the model cannot be served, whatever is downloaded.
    """
    folder = _snapshot_folder(asked, revision)
    if folder is None:
        return None, ""
    known = names if names is not None else listed_names(asked, folder.name)
    present = tuple(known) if known is not None else names_in(folder)
    lacks = ", the copy in the cache lacks "
    if missing := _missing(folder, describing(asked.repository, present)):
        return None, f"{lacks}{missing}"
    try:
        selection, needed = asked.select(present, folder, folder.name)
    except InvalidModel as exc:
        if known is not None:
            raise
        return None, f", the copy in the cache is incomplete: {exc.message}"
    if missing := _missing(folder, needed):
        return None, f"{lacks}{missing}"
    try:
        check_whole(folder, needed)
    except InvalidModel as exc:
        return None, f", the copy in the cache is incomplete: {exc.message}"
    return Snapshot(folder, folder.name, asked.repository, selection), ""


def _snapshot_folder(asked: Asked, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    for name in ("config.json", "modules.json"):
        try:
            found = try_to_load_from_cache(asked.repository, name, cache_dir=asked.cache, revision=revision)
        except (OSError, ValueError) as exc:
            raise asked.translate(exc) from exc
        if isinstance(found, str):
            return Path(found).parent
    return None


def _missing(folder: Path, names: Iterable[str]) -> str:
    return ", ".join(name for name in names if not (folder / name).is_file())


def listed_names(asked: Asked, commit: str) -> tuple[str, ...] | None:
    """All files of a commit, as listed when it was downloaded; None where no list was kept."""
    from huggingface_hub import get_cached_repo_tree  # noqa: PLC0415
    from huggingface_hub.errors import CachedRepoTreeNotFoundError  # noqa: PLC0415

    try:
        tree = get_cached_repo_tree(asked.repository, revision=commit, cache_dir=asked.cache)
    except CachedRepoTreeNotFoundError:
        return None
    return tuple(each.path for each in tree)


def check_whole(folder: Path, names: Iterable[str]) -> None:
    """See that none of the weights among the files `names` is cut short.

    Raises:
        InvalidModel: one is.
    """
    for name in names:
        if name.endswith(".safetensors"):
            check_safetensors(folder / name)


def cache_place(asked: Asked) -> Path:
    """The repository's folder in the cache."""
    return asked.cache / f"models--{asked.repository.replace('/', '--')}"


def remember(asked: Asked, snapshot: Snapshot) -> None:
    """Note which commit a branch or tag means, for when the hub is out of reach; a read-only cache stays as it is."""
    revision = asked.revision or DEFAULT_BRANCH
    note = cache_place(asked) / "refs" / revision
    if revision == snapshot.revision:
        return
    try:
        if note.is_file() and note.read_text(encoding="ascii") == snapshot.revision:
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh = note.with_name(f"{note.name}.{os.getpid()}.tmp")
        fresh.write_text(snapshot.revision, encoding="ascii")
        fresh.replace(note)
    except OSError:
        return
