"""From a model's settings to a folder on this machine."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from provider.errors import InvalidModel, SourceNotFound
from provider.models.conversion import Conversion, content_digest, convert, place_of, store_folder
from provider.models.folder import names_in
from provider.models.hub import download
from provider.models.hub_variables import forget_empty_variables
from provider.models.selection import SelectFiles, Selection, nothing_more, select
from provider.models.weights import pickled_only
from provider.settings import HubSettings, ModelSettings

PACKAGE = "package:"

Notify = Callable[[str, dict[str, object]], None]


@frozen
class Source:
    """A model's own files, as they were found.

    Attributes:
        folder: on this machine.
        origin: `folder`, `package` or `hub`.
        name: the repository, or the folder's name.
        selection: which of the files make the model.
        revision: the commit, for models from the hub.
        notices: sentences that an operator should read.
    """

    folder: Path
    origin: str
    name: str
    selection: Selection
    revision: str | None = None
    notices: tuple[str, ...] = ()

    def conversion(self, store: Path) -> Conversion:
        """What to convert, and the place for it in `store`. For a folder, reads all its files."""
        content = self.revision or content_digest(self.folder, self.selection)
        return Conversion(self.folder, self.selection, place_of(store, self.name, self.selection, content=content))


@frozen
class Resolved:
    """Where the files are that a model is loaded from.

    Attributes:
        folder: on this machine; of the converted model, where weights had to be converted.
        origin: `folder`, `package` or `hub`.
        own: the files in it that the backend reads instead of, or beside, the safetensors.
        revision: the commit, for models from the hub.
        notices: sentences that an operator should read.
    """

    folder: Path
    origin: str
    own: tuple[str, ...] = ()
    revision: str | None = None
    notices: tuple[str, ...] = ()


def resolve(
    model: ModelSettings,
    hub: HubSettings,
    *,
    select_more: SelectFiles = nothing_more,
    converts: bool = True,
    progress: bool = False,
    notify: Notify = lambda _phase, _detail: None,
) -> Resolved:
    """Find the model's folder; what is not here yet is downloaded, and pickled weights are converted if they may be.

    Args:
        model: which.
        hub: where downloads come from and go to.
        select_more: picks the files of a repository that are wanted besides what every model needs.
        converts: whether weights are converted now, where the settings allow it.
        progress: whether a download draws a progress bar on standard error.
        notify: told that a download `started`, `finished` or `failed`, with details.

    Raises:
        ModelError: there is no such folder, package or repository, it holds no model that could be loaded, the hub
            cannot be reached, or weights cannot be converted.
    """
    source = find_source(model, hub, select_more=select_more, progress=progress, notify=notify)
    folder = source.folder
    if source.selection.pickled:
        conversion = source.conversion(store_folder(hub))
        given = model.path or source.name
        if not model.convert_weights and not conversion.is_done:
            raise pickled_only(given, source.selection.pickled)
        if not converts and not conversion.is_done:
            msg = f"{given} is not converted yet; the next start does so, or `emb-provider convert {given}` now"
            raise InvalidModel(msg)
        folder = convert(conversion)
    return Resolved(folder, source.origin, source.selection.own, source.revision, source.notices)


def find_source(
    model: ModelSettings,
    hub: HubSettings,
    *,
    select_more: SelectFiles = nothing_more,
    progress: bool = False,
    notify: Notify = lambda _phase, _detail: None,
) -> Source:
    """Find or download the model's own files, as `resolve` does, and convert nothing."""
    forget_empty_variables()
    if model.path is not None:
        folder, origin = local_folder(model.path)
        selection = select(str(folder), names_in(folder), folder, select_more)
        return Source(folder, origin, folder.resolve().name, _whole(model, selection))
    snapshot = download(
        model.repository,
        revision=model.revision,
        offline=hub.offline,
        cache_folder=hub.cache_folder,
        select_more=select_more,
        converts=model.convert_weights,
        converted=store_folder(hub),
        progress=progress,
        notify=notify,
    )
    selection = _whole(model, snapshot.selection)
    return Source(snapshot.folder, "hub", model.repository, selection, snapshot.revision, snapshot.notices)


def _whole(model: ModelSettings, selection: Selection) -> Selection:
    """With pickled heads beside safetensors, where pickles may be converted."""
    return selection.with_heads() if model.convert_weights else selection


def local_folder(path: str) -> tuple[Path, str]:
    """The folder that `model.path` means, and whether it is a `folder` or in a `package`.

    Raises:
        SourceNotFound: there is no such folder or package.
    """
    if path.startswith(PACKAGE):
        return _in_package(path.removeprefix(PACKAGE)), "package"
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        msg = f"the model folder {folder} {what} (model.path, EMB_PROVIDER_MODEL_PATH or --model)"
        raise SourceNotFound(msg)
    return folder, "folder"


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
