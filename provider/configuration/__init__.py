"""From files, environment and flags to `Settings`, and where each value came from.

Later wins over earlier: defaults, an installed package, YAML file, `.env`, environment, flags. A typo or a wrong type
is a `SettingsError` that names the setting, the value and what is allowed.
"""

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml
from attrs import frozen
from dotenv import dotenv_values
from dotenv.parser import parse_stream

from provider.configuration.values import SettingsLayer, known_setting, mapping, read_value, unknown
from provider.errors import SettingsError
from provider.files import read_utf8
from provider.settings import ENV_PREFIX, SECTIONS, ModelSettings, Settings, environment_variable, options_of

# Kubernetes describes a service called `emb-provider` to every pod by variables of these names.
_SERVICE_LINK = re.compile(rf"{ENV_PREFIX}(SERVICE_(HOST|PORT\w*)|PORT_\d+_\w+)")
# What belongs to one model and would be wrong for another: where it comes from, and what it is or may be called.
_MODEL_SOURCE = ("name", "path", "repo", "revision")
_MODEL_IDENTITY = (*_MODEL_SOURCE, "aliases", "prompts", "default_prompt", "normalize")
INSTALLED = "installed package"
"""The label of what an installed package brings."""
_MODELS_VARIABLE = f"{ENV_PREFIX}MODELS"


@frozen
class Configuration:
    """Settings, and for each "section.field" the label of the layer it came from ("default" where nobody set it)."""

    settings: Settings
    sources: Mapping[str, str]


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    installed: Mapping[str, Any] | None = None,
    dotenv: Mapping[str, str | None] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Configuration:
    """Read the YAML file at `path` (None: no file) and lay `.env`, environment and flags over it.

    Args:
        path: the YAML file.
        installed: "section.field" to value: the model of an installed package, for where nothing names one.
        environ: the environment; only `EMB_PROVIDER_*` is looked at.
        dotenv: what `.env` holds, by variable name.
        flags: "section.field" to value, for the command-line flags that were given.

    Raises:
        SettingsError: one message that names setting, value and what is allowed.
    """
    layers = [SettingsLayer(str(path), _from_yaml(path))] if path else []
    layers += [_from_environment(".env", dotenv or {}), _from_environment("environment", environ)]
    layers.append(SettingsLayer("flag", dict(flags or {}), textual=True))
    if not any(f"model.{key}" in layer.values for key in _MODEL_SOURCE for layer in layers):
        layers.insert(0, SettingsLayer(INSTALLED, dict(installed or {})))
    merged: dict[str, tuple[Any, SettingsLayer]] = {}
    for layer in layers:
        if _names_another_model(layer, merged):
            # A folder given for one model must never be served under the name of another.
            for key in _MODEL_IDENTITY:
                merged.pop(f"model.{key}", None)
        merged.update({key: (value, layer) for key, value in layer.values.items()})
    # By section; "" has the sections themselves, and `models`.
    values: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for key, (value, layer) in merged.items():
        section, _, name = key.rpartition(".")
        values[section][name] = read_value(SECTIONS[section], section, name, value, layer) if section else None
    # A section in another is read before that.
    for section, shape in reversed(SECTIONS.items()):
        outer, _, name = section.rpartition(".")
        values[outer][name] = shape(**values[section])
    if "models" in merged:
        values[""]["models"] = list(_further_models(*merged["models"]))
    settings = Settings(**values[""])
    by_name(settings.all_models())
    return Configuration(settings, {key: layer.label for key, (_, layer) in merged.items()})


def by_name(models: Iterable[ModelSettings]) -> dict[str, ModelSettings]:
    """The models by their names and aliases, in their order.

    Raises:
        SettingsError: a name or alias is given twice.
    """
    found: dict[str, ModelSettings] = {}
    for model in models:
        for name in (model.served_name, *model.aliases):
            if name in found:
                msg = (
                    f"model name {name!r} is given twice ({found[name].served_name} and {model.served_name}); "
                    "rename one or drop an alias"
                )
                raise SettingsError(msg)
            found[name] = model
    return found


def read_dotenv(path: Path) -> dict[str, str | None]:
    """The variables in the file `path`, nobody's but ours checked; none if there is no such file.

    Raises:
        SettingsError: it cannot be read, or a line that begins with the name of one of our variables is no assignment.
    """
    if not path.exists() or path.is_dir():  # some call their virtual environment so
        return {}
    text = read_utf8(path, "the file")
    for binding in parse_stream(io.StringIO(text)):
        ours = re.match(rf"(\s*)({ENV_PREFIX}\w+)", binding.original.string)
        if binding.error and ours:
            line = binding.original.line + ours[1].count("\n")
            msg = f"{ours[2]} ({path}, line {line}): expected NAME=value on one line"
            raise SettingsError(msg)
    return dotenv_values(stream=io.StringIO(text))


def _from_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(read_utf8(path, "the configuration file"))
    except yaml.YAMLError as exc:
        msg = f"{path} is no valid YAML: {' '.join(str(exc).split())}"
        raise SettingsError(msg) from exc
    values: dict[str, Any] = {}
    outer = [section for section in SECTIONS if "." not in section]
    for section, content in mapping(document, str(path)).items():
        if section == "models":
            values["models"] = [] if content is None else content
            continue
        if section not in outer:
            where = f"{path}: {section}"
            raise unknown(where, section, [*outer, "models"], "section")
        values.update(_of_section(path, section, content))
    return values


def _of_section(path: Path, section: str, content: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    for name, value in mapping(content, f"{path}: {section}").items():
        key = f"{section}.{name}"
        known_setting(SECTIONS[section], f"{path}: {key}", name)
        if key in SECTIONS:
            yield from _of_section(path, key, value)
        else:
            yield key, value


def _from_environment(label: str, environ: Mapping[str, str | None]) -> SettingsLayer:
    """An empty variable counts as unset: that is what `VARIABLE=` means in compose files."""
    known = {
        environment_variable(section, each): f"{section}.{each.name}"
        for section in SECTIONS
        for each in options_of(section)
    } | {_MODELS_VARIABLE: "models", f"{ENV_PREFIX}CONFIG": ""}
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX) or not text or _is_service_link(variable, text):
            continue
        if variable not in known:
            where = f"{variable} ({label})"
            raise unknown(where, variable, list(known), "variable")
        if key := known[variable]:
            values[key], names[key] = text, variable
    return SettingsLayer(label, values, names, textual=True)


def _is_service_link(variable: str, text: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(variable)) or (
        variable == f"{ENV_PREFIX}PORT" and text.startswith(("tcp://", "udp://"))
    )


def _names_another_model(layer: SettingsLayer, merged: Mapping[str, tuple[Any, SettingsLayer]]) -> bool:
    return any(
        key in layer.values and layer.values[key] != merged.get(key, (None, None))[0]
        for key in ("model.name", "model.path", "model.repo")
    )


def _further_models(raw: Any, layer: SettingsLayer) -> Iterator[ModelSettings]:  # noqa: ANN401
    where = f"models ({layer.names.get('models', layer.label)})"
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except ValueError as exc:
            msg = f"{where}: expected a JSON list of models, got {raw!r}"
            raise SettingsError(msg) from exc
    if not isinstance(raw, list):
        msg = f"{where}: expected a list of models, got {raw!r}"
        raise SettingsError(msg)
    for i, entry in enumerate(raw):
        content = mapping(entry, f"models[{i}]")
        if not {"name", "path", "repo"} & content.keys():
            msg = f"models[{i}] ({layer.label}): expected at least one of name, path and repo, got {sorted(content)}"
            raise SettingsError(msg)
        plain = attrs.evolve(layer, textual=False)
        yield ModelSettings(
            **{name: read_value(ModelSettings, f"models[{i}]", name, value, plain) for name, value in content.items()}
        )
