"""Backends are found by entry point, listed without importing, and refused with a line that says what to do."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen

from provider.backends import find_backend, installed_backends, own_options
from provider.errors import BackendUnavailable, SettingsError, UnknownBackend
from provider.testing import FakeBackend

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one entry point where Python finds it."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(distribution: str, entry_point: str) -> None:
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[provider.backends]\n{entry_point}\n")

    return put


def test_names_are_listed_without_importing_anything(install: Install) -> None:
    install("broken", "broken = no.such.module:Backend")
    assert {"torch", "example", "broken"} <= set(installed_backends())
    assert "no" not in sys.modules


def test_an_unknown_name_says_what_is_installed() -> None:
    with pytest.raises(UnknownBackend, match=r"'warp' is not installed; installed are: example, .*torch"):
        find_backend("warp")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("trch", "Did you mean torch?"),
        ("GPU", "Did you mean torch?"),
        ("torch_compile", "Did you mean torch-compile?"),
        ("onxx", "Did you mean onnx? It comes with emb-provider-onnx: pip install its wheel, or ./plugins/onnx"),
        ("onnxruntime", "Did you mean onnx? It comes with emb-provider-onnx: pip install its wheel, or ./plugins/onnx"),
        ("openvino", "It comes with emb-provider-openvino: pip install its wheel, or ./plugins/openvino"),
        ("warp", "an entry point 'warp' in the group 'provider.backends'"),
    ],
)
def test_a_name_that_is_near_to_one_is_told_with_how_to_install_it(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {name: points for name, points in installed_backends().items() if name.startswith("torch")}
    monkeypatch.setattr("provider.backends.registry.installed_backends", lambda: ours)
    with pytest.raises(UnknownBackend) as raised:
        find_backend(name)
    assert says in raised.value.message
    assert ("Did you mean" in says) == ("Did you mean" in raised.value.message)


def test_two_distributions_under_one_name_are_a_clash(install: Install) -> None:
    install("one", "same = provider.testing:FakeBackend")
    install("two", "same = provider.testing.fake:FakeBackend")
    with pytest.raises(UnknownBackend, match=r"more than once: .*\((one|two) 1\.0\).*\((one|two) 1\.0\)"):
        find_backend("same")


def test_an_import_that_fails_is_named_with_its_distribution(install: Install) -> None:
    install("broken", "broken = no_such_module:Backend")
    with pytest.raises(BackendUnavailable, match=r"broken.*cannot be imported.*no_such_module"):
        find_backend("broken")


def test_what_is_no_backend_is_refused(install: Install) -> None:
    install("strange", "strange = pathlib:Path")
    with pytest.raises(BackendUnavailable, match="has no Options, concurrent, outputs, load, run, close"):
        find_backend("strange")


@frozen
class Options:
    seed: int = 3
    mode: str = "a"


class WithOptions(FakeBackend):
    Options = Options


def test_options_reach_the_backend_typed_with_defaults_filled_in() -> None:
    assert own_options("b", WithOptions, {"seed": 5}) == Options(seed=5)


def test_an_unknown_option_says_which_there_are() -> None:
    with pytest.raises(SettingsError, match=r"options.sed: unknown option of backend 'b'; its options are: mode, seed"):
        own_options("b", WithOptions, {"sed": 5})


def test_an_option_of_another_type_is_refused() -> None:
    with pytest.raises(SettingsError, match="Expected `int`, got `str`"):
        own_options("b", WithOptions, {"seed": "5"})
