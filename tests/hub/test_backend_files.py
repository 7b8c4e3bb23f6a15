"""Files that a backend reads besides the safetensors: downloaded with the model, and only those."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hub_server import COMMIT, HubServer

from provider.backends import BackendOptions, BackendUnavailable, SelectsFiles
from provider.engine.finding import FoundModel, find_model
from provider.errors import SourceUnreachable
from provider.models.hub import download
from provider.models.selection import SelectFiles
from provider.settings import HubSettings, ModelSettings
from provider.testing import FakeBackend

REPO = "tests/tiny"
OTHER_FORMATS = {
    "gguf/model.gguf": b"the graph",
    "gguf/model.gguf.data": b"its weights",
    "gguf/model_q4.gguf": b"four bits",
    "onnx/model.onnx": b"another format",
    "../outside.gguf": b"no file of the model's folder",
}
WANTED = {"gguf/model.gguf", "gguf/model.gguf.data"}


def select_gguf(names: Sequence[str], options: BackendOptions) -> list[str]:
    """As a backend may: by dtype, and careless about names."""
    name = "model_q4.gguf" if options.dtype == "q4" else "model.gguf"
    return [each for each in names if each.startswith((f"gguf/{name}", ".."))] + ["gguf/not-there"]


class GgufBackend(FakeBackend):
    """Reads another format, too."""

    @classmethod
    def select_files(cls, names: Sequence[str], options: BackendOptions) -> list[str]:
        """See `SelectsFiles.select_files`."""
        return select_gguf(names, options)


@pytest.fixture
def reads_gguf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point `fake` names that backend."""
    monkeypatch.setattr("provider.testing.FakeBackend", GgufBackend)


@pytest.fixture
def formats(hub: HubServer) -> HubServer:
    """The tiny model, with copies in other formats."""
    hub.files |= OTHER_FORMATS
    return hub


def find(cache: Path, *, offline: bool = False, revision: str | None = None, dtype: str = "auto") -> FoundModel:
    """What the service does before it loads a model."""
    model = ModelSettings(REPO, backend="fake", dtype=dtype, revision=revision)
    hub = HubSettings(offline=offline, cache_folder=str(cache))
    return find_model(model, hub, show_progress=False, notify_download=lambda _phase, _detail: None)


@pytest.mark.usefixtures("reads_gguf")
def test_the_files_that_a_backend_selects_are_downloaded_and_no_others(formats: HubServer, cache: Path) -> None:
    """Names that it makes up, or that lie outside the folder, are none of them."""
    source = find(cache).source
    assert formats.fetched() & set(OTHER_FORMATS) == WANTED
    assert {name: (source.folder / name).read_bytes() for name in WANTED} == {n: OTHER_FORMATS[n] for n in WANTED}


@pytest.mark.usefixtures("reads_gguf")
def test_the_dtype_decides_which(formats: HubServer, cache: Path) -> None:
    """A backend is told what the configuration says."""
    find(cache, dtype="q4")
    assert formats.fetched() & set(OTHER_FORMATS) == {"gguf/model_q4.gguf"}


def test_a_backend_that_selects_none_gets_the_safetensors_alone(formats: HubServer, cache: Path) -> None:
    """The method is no part of every backend."""
    assert not issubclass(FakeBackend, SelectsFiles)
    assert issubclass(GgufBackend, SelectsFiles)
    find(cache)
    assert formats.fetched() & set(OTHER_FORMATS) == set()


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_a_copy_without_them_is_completed(
    formats: HubServer, cache: Path, revision: str | None, request: pytest.FixtureRequest
) -> None:
    """Whoever ran another backend before does not fetch the safetensors again; a pinned commit is asked for too."""
    find(cache, revision=revision)
    formats.requests.clear()
    request.getfixturevalue("reads_gguf")
    find(cache, revision=revision)
    assert formats.fetched() == WANTED
    formats.requests.clear()
    find(cache, revision=revision)
    assert formats.fetched() == set()


@pytest.mark.parametrize("revision", [None, COMMIT])
@pytest.mark.usefixtures("formats", "reads_gguf")
def test_offline_uses_a_copy_that_has_them(cache: Path, revision: str | None, request: pytest.FixtureRequest) -> None:
    """As any complete copy."""
    found = find(cache, revision=revision)
    request.getfixturevalue("no_sockets")
    assert find(cache, offline=True, revision=revision).source == found.source


@pytest.mark.usefixtures("formats")
def test_offline_a_copy_without_them_is_refused_and_what_is_missing_is_told(
    cache: Path, request: pytest.FixtureRequest
) -> None:
    """One line, which names the files."""
    find(cache)
    request.getfixturevalue("reads_gguf")
    with pytest.raises(SourceUnreachable, match=r"lacks gguf/model\.gguf, gguf/model\.gguf\.data, and ") as raised:
        find(cache, offline=True)
    assert "\n" not in raised.value.message
    assert "network and the same configuration" in raised.value.message


@pytest.mark.usefixtures("formats")
def test_an_unreachable_hub_and_a_copy_without_them_says_what_is_missing(
    cache: Path, unreachable_address: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The copy that is here would do for another backend, so it is said why it does not for this one."""
    find(cache)
    request.getfixturevalue("reads_gguf")
    monkeypatch.setenv("HF_ENDPOINT", unreachable_address)
    with pytest.raises(SourceUnreachable, match=r"cannot be reached .*, the copy in the cache lacks gguf/model\.gguf"):
        find(cache)


@pytest.mark.usefixtures("reads_gguf")
def test_a_repository_that_has_none_is_left_to_the_backend(hub: HubServer, cache: Path) -> None:
    """Nothing is missing: the backend's `load` knows what to advise. Offline it is the same."""
    found = find(cache)
    assert set(hub.files) == hub.fetched()
    assert find(cache, offline=True).source == found.source


def test_options_that_no_file_meets_cost_no_download(
    formats: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend says so before the first byte."""

    class Refusing(FakeBackend):
        @classmethod
        def select_files(cls, _names: Sequence[str], _options: BackendOptions) -> list[str]:
            msg = "no such dtype"
            raise BackendUnavailable(msg)

    monkeypatch.setattr("provider.testing.FakeBackend", Refusing)
    with pytest.raises(BackendUnavailable, match="no such dtype"):
        find(cache)
    assert formats.fetched() == set()


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_folder_to_carry_holds_those_asked_for(
    formats: HubServer, cache: Path, tmp_path: Path, is_cached: bool
) -> None:
    """Whether they come from the hub or from the cache; what other backends have put there stays there."""

    def select(dtype: str) -> SelectFiles:
        return lambda names: select_gguf(names, BackendOptions(dtype=dtype))

    for dtype in ("auto", "q4") if is_cached else ():
        download(REPO, cache_folder=cache, select_more=select(dtype))
    carried = download(REPO, cache_folder=cache, to=tmp_path / "carried", select_more=select("auto")).folder
    assert {name for name in OTHER_FORMATS if (carried / name).exists()} == WANTED
    assert {path.relative_to(carried).as_posix() for path in carried.rglob("*") if path.is_file()} == (
        set(formats.files) - set(OTHER_FORMATS) | WANTED
    )
