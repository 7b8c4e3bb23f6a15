"""Downloads from a hub on the loopback interface."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import COMMIT, HubServer
from waiting import PATIENCE_SECONDS

from provider.errors import AccessDenied, InvalidModel, ModelError, SettingsError, SourceNotFound, SourceUnreachable
from provider.models.hub import download

REPO = "tests/tiny"
Told = list[tuple[str, dict[str, object]]]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file in a folder, with size and time."""
    return {str(each): (each.lstat().st_size, each.lstat().st_mtime_ns) for each in folder.rglob("*")}


def test_a_download_brings_every_file_and_says_when_it_starts_and_ends(
    hub: HubServer, cache: Path, model_folder: Path
) -> None:
    """The snapshot equals the repository, and its commit is known."""
    told: Told = []
    snapshot = download(REPO, cache_folder=cache, notify=lambda phase, detail: told.append((phase, detail)))
    assert (snapshot.revision, snapshot.origin, snapshot.notices) == (COMMIT, REPO, ())
    for name, content in hub.files.items():
        assert (snapshot.folder / name).read_bytes() == content
    size = sum(map(len, hub.files.values()))
    detail = {"repository": REPO, "revision": COMMIT, "bytes": size}
    assert [each for each in told if each[0] != "progress"] == [("started", detail), ("finished", detail)]
    assert (model_folder / "config.json").exists()


def test_a_download_says_how_many_bytes_have_come(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever more, up to the size of what was missing: the small files come first."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    told: Told = []
    download(REPO, cache_folder=cache, notify=lambda phase, detail: told.append((phase, detail)))
    progress = [detail for phase, detail in told if phase == "progress"]
    come = [int(str(each["bytes"])) for each in progress]
    assert len(set(come)) > 2
    assert come == sorted(come)
    assert {each["total"] for each in progress} == {come[-1]}
    assert len(hub.files["model.safetensors"]) <= come[-1] < sum(map(len, hub.files.values()))


def test_a_second_call_downloads_nothing(hub: HubServer, cache: Path) -> None:
    """A branch is looked up in one request, and nobody is told of a download."""
    first = download(REPO, cache_folder=cache)
    hub.requests.clear()
    told: Told = []
    again = download(REPO, cache_folder=cache, notify=lambda phase, detail: told.append((phase, detail)))
    assert again == first
    assert [each.path for each in hub.requests] == [f"/api/models/{REPO}"]
    assert told == []


def test_a_connection_that_breaks_is_resumed_where_it_broke(
    hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second request asks for the rest only."""
    # huggingface_hub writes in pieces of 10 MiB and loses the last, unfinished one: make them fit the tiny model.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    hub.drop["model.safetensors"] = 1000
    snapshot = download(REPO, cache_folder=cache)
    assert (snapshot.folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    place = f"/{REPO}/resolve/{COMMIT}/model.safetensors"
    gets = [each for each in hub.requests if (each.method, each.path) == ("GET", place)]
    assert [each.headers.get("range") for each in gets] == [None, "bytes=1000-"]


def test_a_pinned_commit_in_the_cache_needs_no_network(hub: HubServer, cache: Path) -> None:
    """Neither a request nor a written file."""
    download(REPO, revision=COMMIT, cache_folder=cache)
    hub.requests.clear()
    before = tree(cache)
    assert download(REPO, revision=COMMIT, cache_folder=cache).revision == COMMIT
    assert hub.requests == []
    assert tree(cache) == before


@pytest.mark.parametrize("as_setting", [True, False])
@pytest.mark.usefixtures("hub")
def test_offline_uses_the_cache_and_opens_no_connection(
    as_setting: bool,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Said by the setting or by HF_HUB_OFFLINE; nothing is written, so that the cache may be read-only."""
    first = download(REPO, cache_folder=cache)
    before = tree(cache)
    request.getfixturevalue("no_sockets")
    if not as_setting:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download(REPO, offline=as_setting, cache_folder=cache) == first
    assert tree(cache) == before


@pytest.mark.usefixtures("no_sockets")
def test_offline_without_a_copy_names_the_ways_out(cache: Path) -> None:
    """A folder, a package, or a download elsewhere."""
    with pytest.raises(SourceUnreachable) as raised:
        download(REPO, offline=True, cache_folder=cache)
    for way in ("EMB_PROVIDER_MODEL_PATH", "package:NAME/FOLDER", f"emb-provider download {REPO} --to FOLDER"):
        assert way in raised.value.message
    assert not cache.exists()


def test_offline_refuses_an_incomplete_copy(hub: HubServer, cache: Path) -> None:
    """Half a model would give other vectors: the pooling configuration is missed as much as the weights."""
    snapshot = download(REPO, cache_folder=cache)
    (snapshot.folder / "modules.json").unlink()
    with pytest.raises(SourceUnreachable, match=r"lacks modules\.json"):
        download(REPO, offline=True, cache_folder=cache)
    assert download(REPO, cache_folder=cache).folder == snapshot.folder
    assert (snapshot.folder / "modules.json").read_bytes() == hub.files["modules.json"]


def test_an_unreachable_hub_with_a_copy_is_a_notice(
    hub: HubServer, cache: Path, unreachable_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy that the branch meant last is used."""
    first = download(REPO, cache_folder=cache)
    monkeypatch.setenv("HF_ENDPOINT", unreachable_address)
    again = download(REPO, cache_folder=cache)
    assert again.folder == first.folder
    (notice,) = again.notices
    assert "cannot be reached" in notice
    assert COMMIT in notice
    assert hub.address not in notice


def test_an_unreachable_hub_without_a_copy_names_the_ways_out_and_no_credentials(
    cache: Path, unreachable_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and a password in HF_ENDPOINT is not in it."""
    monkeypatch.setenv("HF_ENDPOINT", unreachable_address.replace("//", "//user:secret@"))
    with pytest.raises(SourceUnreachable) as raised:
        download(REPO, cache_folder=cache)
    for way in ("EMB_PROVIDER_MODEL_PATH", "package:NAME/FOLDER", f"emb-provider download {REPO} --to FOLDER"):
        assert way in raised.value.message
    assert "secret" not in raised.value.message
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (401, "RepoNotFound", AccessDenied, "HF_TOKEN"),
        (401, None, AccessDenied, "HF_TOKEN"),
        (403, None, AccessDenied, "HF_TOKEN"),
        (403, "GatedRepo", AccessDenied, "gated"),
        (404, "RepoNotFound", SourceNotFound, "no repository"),
        (429, None, SourceUnreachable, "429 .*try again later"),
        (500, None, SourceUnreachable, "500 .*try again later"),
        (503, None, SourceUnreachable, "503"),
    ],
)
def test_what_the_hub_refuses_is_said_in_our_words(
    status: int, code: str | None, error: type[ModelError], words: str, *, hub: HubServer, cache: Path
) -> None:
    """Each refusal has its class, and a message that says what to do."""
    hub.deny, hub.deny_code = status, code
    with pytest.raises(error, match=words) as raised:
        download(REPO, cache_folder=cache)
    assert REPO in raised.value.message
    assert "\n" not in raised.value.message
    assert not cache.exists()


def test_a_gated_repository_whose_list_is_public_is_told_before_anything_is_fetched(
    hub: HubServer, cache: Path
) -> None:
    """The hub lists its files to everybody and denies their content."""
    hub.deny, hub.deny_code, hub.deny_files = 403, "GatedRepo", True
    told: Told = []
    with pytest.raises(AccessDenied, match=r"tests/tiny is gated: accept its conditions on .*, then set HF_TOKEN"):
        download(REPO, cache_folder=cache, notify=lambda phase, detail: told.append((phase, detail)))
    assert told == []


def test_a_refusal_is_not_covered_up_by_the_cache(hub: HubServer, cache: Path) -> None:
    """Only an unreachable hub makes do with the copy."""
    download(REPO, cache_folder=cache)
    hub.deny, hub.deny_code = 404, "RepoNotFound"
    with pytest.raises(SourceNotFound):
        download(REPO, cache_folder=cache)


@pytest.mark.usefixtures("hub")
def test_an_unknown_revision_is_named(cache: Path) -> None:
    """It is the setting that is wrong, not the repository."""
    with pytest.raises(SourceNotFound, match=r"no revision 'v9'.*model\.revision"):
        download(REPO, revision="v9", cache_folder=cache)


@pytest.mark.usefixtures("hub")
def test_a_name_that_cannot_be_a_repository_is_refused(cache: Path) -> None:
    """Without asking anybody."""
    with pytest.raises(SourceNotFound, match="no name of a repository"):
        download("a/b/c", cache_folder=cache)


def test_a_truncated_file_is_an_error_and_is_not_kept(hub: HubServer, cache: Path) -> None:
    """Trying again fetches it again."""
    hub.short.add("model.safetensors")
    told: Told = []
    with pytest.raises(InvalidModel, match=r"is truncated: \d+ bytes, expected \d+; download it again"):
        download(REPO, cache_folder=cache, notify=lambda phase, detail: told.append((phase, detail)))
    assert [phase for phase, _ in told if phase != "progress"] == ["started", "failed"]
    assert "truncated" in str(told[-1][1]["reason"])
    hub.short.clear()
    snapshot = download(REPO, cache_folder=cache)
    assert (snapshot.folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


@pytest.mark.parametrize("pickled", ["", "2_Dense/"])
def test_pickled_weights_are_refused_before_they_are_downloaded(pickled: str, hub: HubServer, cache: Path) -> None:
    """Whether they are the transformer's or a dense layer's. What says what the model is comes before."""
    hub.files[f"{pickled}pytorch_model.bin"] = hub.files.pop(f"{pickled}model.safetensors")
    with pytest.raises(InvalidModel, match=r"pickled .*emb-provider convert tests/tiny.*model\.convert_weights"):
        download(REPO, cache_folder=cache)
    assert {name for name in hub.fetched() if not name.endswith(".json")} == set()
    assert "tokenizer.json" not in hub.fetched()


def test_what_cannot_be_served_is_refused_before_its_weights_are_downloaded(
    hub: HubServer, cache: Path, tmp_path: Path
) -> None:
    """By its small files, under the repository's name; nothing of a folder to carry is left."""
    hub.files["modules.json"] = b'[{"type": "sentence_transformers.models.CLIPModel", "path": ""}]'
    told: Told = []
    for to in (None, tmp_path / "out" / "tiny"):
        with pytest.raises(InvalidModel, match=r"^tests/tiny is a model for images"):
            download(REPO, cache_folder=cache, to=to, notify=lambda phase, detail: told.append((phase, detail)))
    assert told == []
    assert {name for name in hub.fetched() if not name.endswith(".json")} == set()
    assert "tokenizer.json" not in hub.fetched()
    assert not any((tmp_path / "out").glob("*"))
    hub.requests.clear()
    with pytest.raises(InvalidModel, match=r"^tests/tiny is a model for images"):
        download(REPO, revision=COMMIT, cache_folder=cache, offline=True)
    assert hub.requests == []


def test_a_repository_without_a_tokenizer_is_refused_before_its_weights_are_downloaded(
    hub: HubServer, cache: Path
) -> None:
    del hub.files["tokenizer.json"]
    with pytest.raises(InvalidModel, match=r"^tests/tiny has no tokenizer"):
        download(REPO, cache_folder=cache)
    assert {name for name in hub.fetched() if not name.endswith(".json")} == set()


def test_a_commit_that_mends_the_model_is_asked_for(hub: HubServer, cache: Path) -> None:
    """What the commit in the cache was refused for does not hold for the next one."""
    mended = hub.files["modules.json"]
    hub.files["modules.json"] = b'[{"type": "sentence_transformers.models.CLIPModel", "path": ""}]'
    with pytest.raises(InvalidModel, match="model for images"):
        download(REPO, cache_folder=cache)
    hub.files["modules.json"], hub.commit = mended, "f" * 40
    assert download(REPO, cache_folder=cache).revision == "f" * 40


def test_the_files_are_listed_once_and_each_is_asked_for_once(hub: HubServer, cache: Path) -> None:
    """That the small ones come first costs no request."""
    download(REPO, cache_folder=cache)
    api = [each.path for each in hub.requests if each.path.startswith("/api/")]
    assert api == [f"/api/models/{REPO}", f"/api/models/{REPO}/tree/{COMMIT}"]
    gets = [each.path for each in hub.requests if each.method == "GET" and "/resolve/" in each.path]
    assert len(gets) == len(set(gets)) == len(hub.files)


def test_empty_variables_count_as_unset(tmp_path: Path) -> None:
    """As `HF_ENDPOINT=` means in compose files; huggingface_hub takes it for the address."""
    code = (
        "from provider.models.hub_variables import hub_constants; c = hub_constants();"
        "print(c.ENDPOINT, c.HF_HUB_CACHE, c.HF_TOKEN_PATH)"
    )
    names = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH", "XDG_CACHE_HOME")
    env = os.environ | dict.fromkeys(names, "") | {"HOME": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=env, text=True, capture_output=True, check=True, timeout=PATIENCE_SECONDS
    )
    home = tmp_path / ".cache" / "huggingface"
    assert said.stdout.split() == ["https://huggingface.co", str(home / "hub"), str(home / "token")]


@pytest.mark.parametrize("value", ["huggingface.co", "ftp://hub", "https://", "http://[::1", "http://h:x", "//h/x"])
@pytest.mark.usefixtures("no_sockets")
def test_an_address_that_is_none_is_an_error_that_names_the_variable(
    value: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anybody is asked, and without the credentials in it."""
    monkeypatch.setenv("HF_ENDPOINT", value.replace("//h", "//user:secret@h"))
    with pytest.raises(SettingsError, match=r"HF_ENDPOINT is '.*', expected the address of a hub") as raised:
        download(REPO, cache_folder=cache)
    assert "secret" not in raised.value.message


@pytest.mark.parametrize("token", ["hf_secret\x00", "hf_secret\u2026", "hf_secret\nX: y"])
def test_a_token_that_cannot_be_sent_is_not_shown(
    token: str, hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP libraries quote the header that they refuse."""
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: token)
    with pytest.raises(AccessDenied, match="HF_TOKEN holds characters that no token has") as raised:
        download(REPO, cache_folder=cache)
    assert "secret" not in raised.value.message


def test_only_what_the_model_needs_is_downloaded(hub: HubServer, cache: Path) -> None:
    """Other formats, documents and code stay where they are."""
    wanted = set(hub.files)
    others = (
        "pytorch_model.bin",
        "onnx/model.onnx",
        "onnx/config.json",
        "README.md",
        "modeling_x.py",
        "model.onnx_data",
    )
    hub.files |= dict.fromkeys((*others, "checkpoint-5/model.safetensors", "tf_model.h5"), b"x" * 10)
    download(REPO, cache_folder=cache)
    assert hub.fetched() == wanted


def test_a_cache_that_cannot_be_written_is_named_with_the_settings_that_move_it(hub: HubServer, tmp_path: Path) -> None:
    """A file in place of a folder stops root as well."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot write to .*/file/cache.*hub\.cache_folder.*HF_HOME") as raised:
        download(REPO, cache_folder=tmp_path / "file" / "cache")
    assert type(raised.value) is ModelError
    assert hub.fetched() == set()


@pytest.mark.parametrize("token", [None, "hf_secret"])
def test_a_token_is_sent_only_if_there_is_one(
    token: str | None, hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_TOKEN goes with every request, and nothing goes without it."""
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    download(REPO, cache_folder=cache)
    assert {each.headers.get("authorization") for each in hub.requests} == {token and f"Bearer {token}"}


def test_only_the_repository_is_asked_for(hub: HubServer, cache: Path) -> None:
    """No telemetry, no update checks, nothing of this machine in the user agent."""
    download(REPO, cache_folder=cache)
    assert {each.path for each in hub.requests if REPO not in each.path} == set()
    assert not any("torch" in each.headers["user-agent"] for each in hub.requests)


def test_nothing_is_drawn_without_a_terminal(hub: HubServer, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Logs stay readable."""
    download(REPO, cache_folder=cache, progress=True)
    assert capfd.readouterr() == ("", "")
    assert hub.fetched()
