"""From a model's settings to a folder on this machine."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from provider.errors import SourceNotFound
from provider.models.hub import download
from provider.models.selection import SelectFiles, nothing_more
from provider.settings import HubSettings, ModelSettings

PACKAGE = "package:"

Notify = Callable[[str, dict[str, object]], None]


@frozen
class Resolved:
    """Where a model's files are.

    Attributes:
        folder: on this machine.
        origin: `folder`, `package` or `hub`.
        revision: the commit, for models from the hub.
        notices: sentences that an operator should read.
    """

    folder: Path
    origin: str
    revision: str | None = None
    notices: tuple[str, ...] = ()


def resolve(
    model: ModelSettings,
    hub: HubSettings,
    *,
    select_more: SelectFiles = nothing_more,
    progress: bool = False,
    notify: Notify = lambda _phase, _detail: None,
) -> Resolved:
    """Find the model's folder; a model from the hub is downloaded if it is not here yet.

    Args:
        model: which.
        hub: where downloads come from and go to.
        select_more: picks the files of a repository that are wanted besides what every model needs.
        progress: whether a download draws a progress bar on standard error.
        notify: told that a download `started`, `finished` or `failed`, with details.

    Raises:
        ModelError: there is no such folder, package or repository, or the hub cannot be reached.
    """
    if model.path is None:
        snapshot = download(
            model.repository,
            revision=model.revision,
            offline=hub.offline,
            cache_folder=hub.cache_folder,
            select_more=select_more,
            progress=progress,
            notify=notify,
        )
        return Resolved(snapshot.folder, "hub", snapshot.revision, snapshot.notices)
    if model.path.startswith(PACKAGE):
        return Resolved(_in_package(model.path.removeprefix(PACKAGE)), "package")
    folder = Path(model.path).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        msg = f"the model folder {folder} {what} (model.path, EMB_PROVIDER_MODEL_PATH or --model)"
        raise SourceNotFound(msg)
    return Resolved(folder, "folder")


def _in_package(path: str) -> Path:
    """The folder inside an installed package; the package is found, not imported."""
    package, _, rest = path.partition("/")
    if not package:
        msg = f"{PACKAGE}{path} names no package; write {PACKAGE}NAME/FOLDER"
        raise SourceNotFound(msg)
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        msg = (
            f"the package {package!r} of {PACKAGE}{path} is not installed in this environment; "
            f"install the distribution that holds it (pip install {package.replace('_', '-')}), or name a folder"
        )
        raise SourceNotFound(msg)
    for location in found.submodule_search_locations:
        if (folder := Path(location) / rest).is_dir():
            return folder
    msg = f"the package {package!r} is installed but has no folder {rest!r} ({PACKAGE}{path})"
    raise SourceNotFound(msg)
