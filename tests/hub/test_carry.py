"""Downloads into a folder that is carried to another machine (`emb-provider download --to`)."""

from pathlib import Path

import pytest
from hub_server import COMMIT, HubServer

from provider.errors import InvalidModel, ModelError
from provider.models.hub import download

REPO = "tests/tiny"


def test_a_folder_to_carry_away_holds_the_model_and_nothing_else(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    """No links, nothing of huggingface_hub's, and the cache stays empty."""
    to = tmp_path / "carry" / "tiny"
    to.parent.mkdir()
    snapshot = download(REPO, cache_folder=cache, to=to)
    assert snapshot.folder == to
    found = {path.relative_to(to).as_posix(): path for path in to.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == hub.files
    assert not any(path.is_symlink() for path in found.values())
    assert list(to.parent.iterdir()) == [to]


@pytest.mark.usefixtures("no_sockets")
def test_a_folder_to_carry_away_is_copied_from_the_cache_when_offline(
    cache: Path, model_folder: Path, tmp_path: Path
) -> None:
    """Plain files, not links into the cache."""
    place = cache / "models--tests--tiny"
    blobs = place / "blobs"
    blobs.mkdir(parents=True)
    for path in (each for each in model_folder.rglob("*") if each.is_file()):
        name = path.relative_to(model_folder)
        blob, link = blobs / name.as_posix().replace("/", "-"), place / "snapshots" / COMMIT / name
        blob.write_bytes(path.read_bytes())
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    to = tmp_path / "carried"
    assert download(REPO, revision=COMMIT, offline=True, cache_folder=cache, to=to).folder == to
    assert not any(path.is_symlink() for path in to.rglob("*"))
    assert (to / "model.safetensors").read_bytes() == (model_folder / "model.safetensors").read_bytes()


def test_a_failed_download_leaves_no_folder_that_looks_complete(hub: HubServer, cache: Path, tmp_path: Path) -> None:
    """The folder appears with its last file, or not at all; the next try completes it."""
    to = tmp_path / "tiny"
    hub.short.add("model.safetensors")
    with pytest.raises(InvalidModel):
        download(REPO, cache_folder=cache, to=to)
    assert not to.exists()
    hub.short.clear()
    assert download(REPO, cache_folder=cache, to=to).folder == to
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_a_folder_that_holds_something_is_left_alone(hub: HubServer, tmp_path: Path, cache: Path) -> None:
    """Before anything is asked for."""
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ModelError, match="is not empty"):
        download(REPO, cache_folder=cache, to=tmp_path)
    assert hub.requests == []
