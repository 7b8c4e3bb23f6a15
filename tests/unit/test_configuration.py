"""Every setting from every place, later over earlier, and errors that name setting, value and what is allowed."""

from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from provider.cli.options import model_flags
from provider.configuration import load_settings, read_dotenv
from provider.errors import SettingsError
from provider.settings import SECTIONS, CacheSettings, Settings, StoreSettings, environment_variable, options_of


def load(yaml: str | None = None, environ: Any = None, *, tmp_path: Path | None = None, **more: Any) -> Any:
    path = None
    if yaml is not None:
        assert tmp_path is not None
        path = tmp_path / "litestar.yaml"
        path.write_text(yaml)
    return load_settings(path, environ or {}, **more)


def test_without_any_configuration_the_defaults_hold() -> None:
    settings = load().settings
    assert settings == Settings()
    assert settings.model.served_name == "all-MiniLM-L12-v2"
    assert settings.model.repository == "sentence-transformers/all-MiniLM-L12-v2"
    assert (settings.server.host, settings.server.port, settings.model.max_batch_size) == ("localhost", 9000, 32)


def test_later_places_win_over_earlier_ones_and_are_remembered(tmp_path: Path) -> None:
    found = load(
        "server: {port: 1, host: a}\ncache: {ttl_seconds: 1}\nlog: {level: DEBUG}\n",
        {"EMB_PROVIDER_PORT": "3", "EMB_PROVIDER_CACHE_TTL_SECONDS": "3"},
        tmp_path=tmp_path,
        dotenv={"EMB_PROVIDER_PORT": "2", "EMB_PROVIDER_HOST": "b", "OTHER": "x"},
        flags={"server.port": "4"},
    )
    server = found.settings.server
    assert (server.port, server.host, found.settings.cache.ttl_seconds) == (4, "b", 3.0)
    assert found.sources == {
        "server.port": "flag",
        "server.host": ".env",
        "cache.ttl_seconds": "environment",
        "log.level": str(tmp_path / "litestar.yaml"),
    }


@pytest.mark.parametrize(
    ("variable", "text", "section", "name", "value"),
    [
        ("EMB_PROVIDER_MODEL_PATH", "/m", "model", "path", "/m"),
        ("EMB_PROVIDER_MODEL_NAME", "n", "model", "name", "n"),
        ("EMB_PROVIDER_MAX_BATCH_SIZE", "8", "model", "max_batch_size", 8),
        ("EMB_PROVIDER_MAX_CONTEXT_LENGTH", "128", "model", "max_context_length", 128),
        ("EMB_PROVIDER_DEVICE", "cuda:1", "model", "device", "cuda:1"),
        ("EMB_PROVIDER_BACKEND", "b", "model", "backend", "b"),
        ("EMB_PROVIDER_DTYPE", "float16", "model", "dtype", "float16"),
        ("EMB_PROVIDER_HOST", "0.0.0.0", "server", "host", "0.0.0.0"),
        ("EMB_PROVIDER_PORT", "80", "server", "port", 80),
        ("EMB_PROVIDER_LOG_LEVEL", "DEBUG", "log", "level", "DEBUG"),
        ("EMB_PROVIDER_CACHE_ENABLED", "false", "cache", "enabled", False),
        ("EMB_PROVIDER_CACHE_ENABLED", "1", "cache", "enabled", True),
        ("EMB_PROVIDER_AUTH_KEYS", "a, b", "auth", "keys", ["a", "b"]),
        ("EMB_PROVIDER_AUTH_KEYS", '["a,b"]', "auth", "keys", ["a,b"]),
        ("EMB_PROVIDER_AUTH_KEYS", '{"search": "a"}', "auth", "keys", {"search": "a"}),
        ("EMB_PROVIDER_MODEL_OPTIONS", '{"attention": "eager"}', "model", "options", {"attention": "eager"}),
        ("EMB_PROVIDER_MODEL_LANES", "3", "model", "lanes", 3),
        ("EMB_PROVIDER_SERVER_MAX_BODY_BYTES", "2048", "server", "max_body_bytes", 2048),
    ],
)
def test_a_variable_sets_its_setting(variable: str, text: str, section: str, name: str, value: Any) -> None:
    assert getattr(getattr(load(environ={variable: text}).settings, section), name) == value


def test_a_section_stands_in_another(tmp_path: Path) -> None:
    yaml = "cache: {max_bytes: 5, store: {name: disk, path: /a, ttl_seconds: 60}}"
    found = load(yaml, {"EMB_PROVIDER_CACHE_STORE_PATH": "/b"}, tmp_path=tmp_path)
    assert found.settings.cache == CacheSettings(max_bytes=5, store=StoreSettings("disk", "/b", ttl_seconds=60.0))
    assert found.sources["cache.store.path"] == "environment"
    for slip, says in (
        ("cache: {store: disk}", "cache.store: expected a mapping, got 'disk'"),
        ("cache: {store: {nme: disk}}", r"cache.store.nme: unknown setting; did you mean name"),
        ("cache.store: {name: disk}", "cache.store: unknown section; did you mean cache"),
        ("cache: {store: {ttl_seconds: 0}}", r"cache.store.ttl_seconds .*: expected a number, at least 1, got 0"),
    ):
        with pytest.raises(SettingsError, match=says):
            load(slip, tmp_path=tmp_path)


def test_every_setting_has_a_variable_of_its_own() -> None:
    names = [environment_variable(section, each) for section in SECTIONS for each in options_of(section)]
    assert len(names) == len(set(names)) > 30


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(environ={"EMB_PROVIDER_MODEL_PATH": "", "EMB_PROVIDER_PORT": ""}).settings == Settings()


def test_what_kubernetes_says_of_a_service_of_our_name_is_not_taken_for_settings() -> None:
    environ = {
        "EMB_PROVIDER_PORT": "tcp://10.0.0.7:9000",
        "EMB_PROVIDER_SERVICE_HOST": "10.0.0.7",
        "EMB_PROVIDER_SERVICE_PORT": "9000",
        "EMB_PROVIDER_SERVICE_PORT_HTTP": "9000",
        "EMB_PROVIDER_PORT_9000_TCP": "tcp://10.0.0.7:9000",
        "EMB_PROVIDER_PORT_9000_TCP_ADDR": "10.0.0.7",
    }
    assert load(environ=environ).settings == Settings()


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        (
            {"EMB_PROVIDER_PROT": "1"},
            r"EMB_PROVIDER_PROT \(environment\): unknown variable; did you mean EMB_PROVIDER_P",
        ),
        ({"EMB_PROVIDER_PORT": "abc"}, r"server.port \(EMB_PROVIDER_PORT, environment\): .* 0 to 65535, got 'abc'"),
        ({"EMB_PROVIDER_PORT": "65536"}, "from 0 to 65535, got '65536'"),
        ({"EMB_PROVIDER_MAX_BATCH_SIZE": "0"}, "a whole number, at least 1, got '0'"),
        ({"EMB_PROVIDER_MAX_BATCH_SIZE": "1.5"}, "a whole number"),
        ({"EMB_PROVIDER_CACHE_TTL_SECONDS": "nan"}, "a number, at least 0, got 'nan'"),
        ({"EMB_PROVIDER_CACHE_ENABLED": "maybe"}, "expected true or false, got 'maybe'"),
        ({"EMB_PROVIDER_LOG_LEVEL": "LOUD"}, "one of DEBUG, INFO, WARNING, ERROR, got 'LOUD'"),
        ({"EMB_PROVIDER_MODEL_OPTIONS": "x"}, "a mapping"),
        ({"EMB_PROVIDER_MODEL_PROMPTS": '{"query": 3}'}, "a mapping of names to texts"),
        ({"EMB_PROVIDER_MODELS": "x"}, "a JSON list of models"),
        ({"EMB_PROVIDER_MODELS": '[{"aliases": []}]'}, r"models\[0\].*at least one of name, path and repo"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_allowed(environ: Any, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load(environ=environ)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("sever: {}", "sever: unknown section; did you mean server?"),
        ("server: {prot: 1}", "server.prot: unknown setting; did you mean port?"),
        ("server: {port: '9000'}", "server.port .*: expected a whole number .*, got '9000'"),
        ("server: {port: true}", "expected a whole number .*, got True"),
        ("server: {host: ''}", "server.host .*: expected text, got ''"),
        ("server: 3", "server: expected a mapping, got 3"),
        ("[]", "expected a mapping"),
        ("a: [", "is no valid YAML"),
        ("models: {}", "models .*: expected a list of models"),
        ("models: [{name: x, bakend: y}]", r"models\[0\].bakend: unknown setting; did you mean backend?"),
        ("models: [{name: all-MiniLM-L12-v2}]", "'all-MiniLM-L12-v2' is given twice"),
        ("model: {name: a}\nmodels: [{name: b, aliases: [a]}]", "'a' is given twice"),
        ("auth: {keys: [1]}", "auth.keys .*: expected a list of texts .*, got a secret"),
    ],
)
def test_a_slip_in_the_file_is_named_with_what_is_allowed(tmp_path: Path, yaml: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as raised:
        load(yaml, tmp_path=tmp_path)
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("path", ["~nobody-of-this-name", "~nobody-of-this-name/keys"])
def test_a_home_folder_of_nobody_is_told(path: str) -> None:
    with pytest.raises(SettingsError, match=r"model\.path \(flag\): '~.*there is none called 'nobody-of-this-name'"):
        load(flags={"model.path": path})


def test_an_empty_flag_is_an_error_and_not_a_name() -> None:
    with pytest.raises(SettingsError, match=r"model\.\w+ \(flag\): expected text, got ''"):
        load(flags=model_flags("", None, None, None))


def test_dotenv_is_read_with_and_without_a_byte_order_mark_and_other_peoples_lines_are_theirs(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert read_dotenv(path) == {}
    path.mkdir()
    assert read_dotenv(path) == {}
    path.rmdir()
    path.write_bytes(b'\xef\xbb\xbfEMB_PROVIDER_PORT=1\nexport EMB_PROVIDER_HOST="a" # here\nnot ours\n')
    found = read_dotenv(path)
    assert (found["EMB_PROVIDER_PORT"], found["EMB_PROVIDER_HOST"]) == ("1", "a")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"A=1\n\nEMB_PROVIDER_AUTH_KEYS secret\n", r"EMB_PROVIDER_AUTH_KEYS \(.*\.env, line 3\): expected NAME=value"),
        (b"\xff\xfe", r"cannot read the file .*\.env: line 1 is not UTF-8 text"),
    ],
)
def test_a_dotenv_that_cannot_be_understood_is_one_line_without_its_values(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / ".env"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=says) as raised:
        read_dotenv(path)
    assert "secret" not in raised.value.message


def test_a_missing_file_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the configuration file"):
        load_settings(tmp_path / "nope.yaml", {})
    assert load("", tmp_path=tmp_path).settings == Settings()


def test_a_name_given_later_never_serves_the_earlier_models_folder(tmp_path: Path) -> None:
    yaml = "model: {name: a, path: /a, revision: r, device: cpu, aliases: [b, c], default_prompt: q}"
    other = load(yaml, {"EMB_PROVIDER_MODEL_NAME": "b"}, tmp_path=tmp_path).settings.model
    assert (other.served_name, other.path, other.revision, other.device) == ("b", None, None, "cpu")
    assert (other.aliases, other.default_prompt) == ([], None)
    same = load(yaml, {"EMB_PROVIDER_MODEL_NAME": "a"}, tmp_path=tmp_path).settings.model
    assert (same.path, same.revision) == ("/a", "r")


def test_a_folder_given_later_is_served_under_its_own_name(tmp_path: Path) -> None:
    model = load("model: {name: a, path: /a}", flags={"model.path": "/models/bge-m3"}, tmp_path=tmp_path).settings.model
    assert (model.served_name, model.path) == ("bge-m3", "/models/bge-m3")


@pytest.mark.parametrize(
    ("fields", "name", "repository"),
    [
        ({"name": "BAAI/bge-m3"}, "BAAI/bge-m3", "BAAI/bge-m3"),
        ({"name": "mine", "repo": "BAAI/bge-m3"}, "mine", "BAAI/bge-m3"),
        ({"repo": "BAAI/bge-m3"}, "BAAI/bge-m3", "BAAI/bge-m3"),
        ({"name": "all-mpnet-base-v2"}, "all-mpnet-base-v2", "sentence-transformers/all-mpnet-base-v2"),
        ({"path": "/models/e5/"}, "e5", None),
        ({"path": "."}, Path.cwd().name, None),
        ({"path": "/"}, "/", None),
        ({"path": "package:some_package/model"}, "some_package/model", None),
    ],
)
def test_a_model_is_called_by_its_name_or_where_it_comes_from(fields: Any, name: str, repository: str | None) -> None:
    from provider.settings import ModelSettings

    model = ModelSettings(**fields)
    assert model.served_name == name
    assert repository is None or model.repository == repository


PACKAGED = {"model.name": "small", "model.path": "package:small/model"}


@pytest.mark.parametrize(
    ("environ", "name", "path"),
    [
        ({}, "small", "package:small/model"),
        ({"EMB_PROVIDER_MODEL_ALIASES": "other"}, "small", "package:small/model"),
        ({"EMB_PROVIDER_MODEL_NAME": "small"}, "small", None),
        ({"EMB_PROVIDER_MODEL_PATH": "package:small/model"}, "small/model", "package:small/model"),
        ({"EMB_PROVIDER_MODEL_REVISION": "v1"}, "all-MiniLM-L12-v2", None),
        ({"EMB_PROVIDER_MODEL_NAME": "all-MiniLM-L12-v2"}, "all-MiniLM-L12-v2", None),
        ({"EMB_PROVIDER_MODEL_PATH": "/models/mine"}, "mine", "/models/mine"),
        ({"EMB_PROVIDER_MODEL_REPO": "org/mine"}, "org/mine", None),
    ],
)
def test_an_installed_model_is_the_default_until_anything_names_another(environ: Any, name: str, path: Any) -> None:
    model = load_settings(None, environ, installed=PACKAGED).settings.model
    assert (model.served_name, model.path) == (name, path)


@pytest.mark.parametrize("text", ["[::1]", "{x}", "[a, b]", '{"a": 1}'])
def test_a_text_that_looks_like_json_stays_text(text: str) -> None:
    assert load_settings(None, {"EMB_PROVIDER_HOST": text}).settings.server.host == text
    assert load_settings(None, {}, flags={"model.name": text}).settings.model.name == text


def test_a_list_may_be_json_or_separated_by_commas() -> None:
    for text in ("[a]", '["a"', "[1]"):
        with pytest.raises(SettingsError, match="a list of texts"):
            load_settings(None, {"EMB_PROVIDER_MODEL_ALIASES": text})
    for text in ("a,{b}", ' ["a", "{b}"]'):
        assert load_settings(None, {"EMB_PROVIDER_MODEL_ALIASES": text}).settings.model.aliases == ["a", "{b}"]


def test_every_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [(section, each) for section in SECTIONS for each in options_of(section) if each.metadata["path"]]
    assert {f"{section}.{each.name}" for section, each in paths} >= {
        "model.path",
        "auth.keys_file",
        "hub.cache_folder",
    }
    for section, each in paths:
        environ = {environment_variable(section, each): "~/some/place"}
        value = attrgetter(f"{section}.{each.name}")(load_settings(None, environ).settings)
        assert value == str(tmp_path / "some" / "place")
    assert load_settings(None, {}, flags={"model.path": "~"}).settings.model.path == str(tmp_path)
    (tmp_path / "x.yaml").write_text("models: [{path: ~/more}]", encoding="utf-8")
    assert load_settings(tmp_path / "x.yaml", {}).settings.models[0].path == str(tmp_path / "more")


def test_every_setting_that_is_a_file_or_folder_is_a_path() -> None:
    for section in SECTIONS:
        for each in options_of(section):
            is_named_so = each.name in ("path", "folder", "uds") or each.name.endswith(("_path", "_file", "_folder"))
            assert each.metadata["path"] == is_named_so, each.name


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_file_is_utf8_with_and_without_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(mark + 'model: {name: "größe"}'.encode())
    assert load_settings(path, {}).settings.model.name == "größe"


def test_a_file_in_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes('model:\n  name: "größe"'.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"x\.yaml: line 2 is not UTF-8 text; save the file as UTF-8"):
        load_settings(path, {})
