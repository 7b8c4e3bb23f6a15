"""Models by name."""

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
    said = raised.value.message
    assert said.startswith(f"The model `{name}` does not exist or you do not have access to it. ")
    assert all(known in said for known in ("small", "text-embedding-3-small", "owner/large"))
    assert raised.value.param == "model"


def test_names_tell_which_model_an_alias_means() -> None:
    names = Catalogue.of([SMALL, LARGE]).names()
    assert names == [("small", "small"), ("text-embedding-3-small", "small"), ("owner/large", "owner/large")]


@pytest.mark.parametrize("other", [ModelSettings(name="small"), ModelSettings(name="x", aliases=["small"])])
def test_a_name_means_one_model(other: ModelSettings) -> None:
    with pytest.raises(SettingsError, match="given twice"):
        Catalogue.of([SMALL, other])
