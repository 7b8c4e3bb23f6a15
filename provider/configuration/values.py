"""From what a file, a variable or a flag holds to the value of a setting, of its type and within its bounds."""

import difflib
import json
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec
from attrs import Attribute, field, fields, frozen

from provider.errors import SettingsError
from provider.files import expanded
from provider.settings import Protected


@frozen
class SettingsLayer:
    """One place that values come from.

    Attributes:
        label: how messages and `emb-provider config` call it.
        values: "section.field" to the raw value; `models` holds the raw list.
        names: "section.field" to the name it has there (an environment variable, a flag), where that differs.
        textual: whether values are text that still has to be read (environment, flags).
    """

    label: str
    values: Mapping[str, Any]
    names: Mapping[str, str] = field(factory=dict)
    textual: bool = False


def read_value(shape: type, section: str, name: str, value: Any, layer: SettingsLayer) -> Any:  # noqa: ANN401
    """`value` as the type of the setting `name`, within its bounds.

    Raises:
        SettingsError: it is not, or there is no such setting.
    """
    setting = known_setting(shape, f"{section}.{name}", name)
    key = f"{section}.{name}"
    where = f"{key} ({layer.names.get(key, layer.label)}{f', {layer.label}' if key in layer.names else ''})"
    expected = _expected(setting)
    problem = SettingsError(
        f"{where}: expected {expected}, got {'a secret' if setting.metadata['secret'] else repr(value)}"
    )
    try:
        if layer.textual and isinstance(value, str):
            value = _from_text(value, setting.type)
        # Numbers in JSON may be 3600 where a float is meant; a float is never taken for an int.
        read = msgspec.convert(value, setting.type, strict=not layer.textual)
    except (msgspec.ValidationError, ValueError) as exc:
        raise problem from exc
    if setting.metadata["path"] and read is not None:
        read = expanded(read, where)
    least, most = setting.metadata["least"], setting.metadata["most"]
    # NaN is neither above nor below anything.
    is_within = read is None or ((least is None or read >= least) and (most is None or read <= most))
    if read == "" or not is_within:
        raise problem
    return read


def _from_text(text: str, wanted: Any) -> Any:  # noqa: ANN401
    kinds = {get_origin(each) for each in (wanted, *get_args(wanted))}
    start = text.lstrip()[:1]
    if (list in kinds and start == "[") or (dict in kinds and (start == "{" or not {list, Literal} & kinds)):
        return json.loads(text)
    if list in kinds:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _expected(setting: "Attribute[Any]") -> str:
    """What a field takes, in words."""
    wanted, least, most = setting.type, setting.metadata["least"], setting.metadata["most"]
    optional = get_origin(wanted) is UnionType and NoneType in get_args(wanted)
    if optional:
        (wanted,) = (each for each in get_args(wanted) if each is not NoneType)
    words: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list[str]: "a list of texts (in the environment: separated by commas)",
        list[
            Protected
        ]: f"a list of some of {', '.join(get_args(Protected))} (in the environment: separated by commas)",
        list[str]
        | dict[str, str]: "a list of texts (in the environment: separated by commas), or a mapping of names to "
        "texts (JSON)",
        dict[str, Any]: "a mapping (in the environment: JSON)",
        dict[str, str] | Literal["recipe"]: "a mapping of names to texts (in the environment: JSON), or recipe",
    }
    text = "one of " + ", ".join(get_args(wanted)) if get_origin(wanted) is Literal else words.get(wanted, str(wanted))
    if least is not None and most is not None:
        text += f" from {least} to {most}"
    elif least is not None:
        text += f", at least {least}"
    return text


def mapping(content: Any, where: str) -> dict[str, Any]:  # noqa: ANN401 - whatever the file holds
    """`content` as a mapping; nothing at all is an empty one.

    Raises:
        SettingsError: it is none.
    """
    if content is None:
        return {}
    if not isinstance(content, dict):
        msg = f"{where}: expected a mapping, got {content!r}"
        raise SettingsError(msg)
    return {str(key): value for key, value in content.items()}


def known_setting(shape: type, where: str, name: str) -> "Attribute[Any]":
    """The setting `name` of a section.

    Raises:
        SettingsError: it has none of that name.
    """
    known: dict[str, Attribute[Any]] = {each.name: each for each in fields(shape)}
    if name not in known:
        raise unknown(where, name, list(known), "setting")
    return known[name]


def unknown(where: str, name: str, known: list[str], kind: str) -> SettingsError:
    """The error for a `kind` of thing that has none of the `known` names."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(sorted(known))}"
    return SettingsError(f"{where}: unknown {kind}; {hint}")
