"""Copies of repositories in huggingface_hub's cache: found, checked and noted, without asking anybody.

The layout is described at https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen

from provider.errors import InvalidModel, ModelError
from provider.models.folder import read_config, tokenizer_files
from provider.models.hub_errors import hub_error
from provider.models.selection import SelectFiles, nothing_more, select_files
from provider.models.weights import check_safetensors, weight_files

DEFAULT_BRANCH = "main"


@frozen
class Snapshot:
    """A repository's files at one commit, on this machine.

    Attributes:
        folder: where they are; to be read only.
        revision: the full commit hash.
        origin: the repository.
        notices: sentences that an operator should read.
    """

    folder: Path
    revision: str
    origin: str
    notices: tuple[str, ...] = ()


@frozen
class Asked:
    """What was asked for, and where it goes.

    Attributes:
        select_more: picks the files that are wanted besides what every model needs.
    """

    repository: str
    revision: str | None
    cache: Path
    endpoint: str
    select_more: SelectFiles = nothing_more

    @property
    def host(self) -> str:
        """The hub's host and port, without the credentials that an address may hold."""
        parts = urlsplit(self.endpoint)
        return parts.netloc.rpartition("@")[2] or self.endpoint

    def translate(self, exc: Exception, folder: Path | None = None) -> ModelError:
        """`exc` in our own words; `folder` is where was written to, if not the cache."""
        return hub_error(exc, self.repository, self.revision, folder or self.cache, self.host)


def find_cached(asked: Asked, revision: str, files: Iterable[str] | None = None) -> tuple[Snapshot | None, str]:
    """The complete copy in the cache, if there is one; else what is wrong with it. Writes nothing, asks nobody."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    try:
        config = try_to_load_from_cache(asked.repository, "config.json", cache_dir=asked.cache, revision=revision)
    except (OSError, ValueError) as exc:
        raise asked.translate(exc) from exc
    if not isinstance(config, str):
        return None, ""
    folder = Path(config).parent
    wanted = files if files is not None else listed_files(asked, folder.name)
    missing = [name for name in wanted or () if not (folder / name).is_file()]
    if missing:
        return None, f", the copy in the cache lacks {', '.join(missing)}"
    try:
        check_complete(folder)
    except InvalidModel as exc:
        return None, f", the copy in the cache is incomplete: {exc.message}"
    return Snapshot(folder, folder.name, asked.repository), ""


def listed_files(asked: Asked, commit: str) -> tuple[str, ...] | None:
    """The files of a commit that we want, as listed when it was downloaded; None where no list was kept."""
    from huggingface_hub import get_cached_repo_tree  # noqa: PLC0415
    from huggingface_hub.errors import CachedRepoTreeNotFoundError  # noqa: PLC0415

    try:
        tree = get_cached_repo_tree(asked.repository, revision=commit, cache_dir=asked.cache)
    except CachedRepoTreeNotFoundError:
        return None
    return select_files(asked.repository, (each.path for each in tree), asked.select_more)


def check_complete(folder: Path) -> None:
    """See that configuration, tokenizer and whole weights are there.

    Raises:
        InvalidModel: something is missing or damaged.
    """
    read_config(folder)
    tokenizer_files(folder)
    for path in {*weight_files(folder), *folder.glob("*/model.safetensors")}:
        check_safetensors(path)


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
        if note.is_file() and note.read_text() == snapshot.revision:
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh = note.with_name(f"{note.name}.{os.getpid()}.tmp")
        fresh.write_text(snapshot.revision)
        fresh.replace(note)
    except OSError:
        return
