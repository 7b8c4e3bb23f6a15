"""What installed distributions register by entry point, listed without importing anything, and their own options."""

import contextlib
import re
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any

import attrs
import msgspec

from provider.errors import SettingsError


def installed(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Every name in a group and its entry points, sorted by name. More than one under a name is a clash."""
    found: defaultdict[str, dict[str, EntryPoint]] = defaultdict(dict)
    for point in entry_points(group=group):
        # An editable install can be listed twice under one distribution; the value tells it from a clash.
        found[point.name][point.value] = point
    return {name: tuple(found[name].values()) for name in sorted(found)}


def distribution(point: EntryPoint) -> str:
    """The distribution that an entry point comes with, and its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"


def versions(point: EntryPoint) -> dict[str, str]:
    """Versions of the distribution that an entry point comes with, and of those that it requires and are installed."""
    owner = point.dist
    if owner is None:
        return {}
    found = {owner.name: owner.version}
    for requirement in owner.requires or ():
        required = re.match(r"[\w.-]+", requirement)
        if required is not None and "extra ==" not in requirement:
            with contextlib.suppress(PackageNotFoundError):
                found[required[0]] = version(required[0])
    return found


def clash(what: str, points: tuple[EntryPoint, ...]) -> str:
    """The message for `what` that several distributions register."""
    owners = ", ".join(f"{point.value} ({distribution(point)})" for point in points)
    return f"{what} is registered more than once: {owners}. Uninstall all but one"


def read_options(what: str, shape: type, given: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an instance of `shape`
    """`given` (from an `options:` of the settings) as an instance of the attrs class `shape`, defaults filled in.

    Raises:
        SettingsError: an option that `what` does not have, or a value of another type.
    """
    fields = {each.name: each for each in attrs.fields(shape)}
    for key in given:
        if key not in fields:
            allowed = f"its options are: {', '.join(sorted(fields))}" if fields else "it has no options"
            msg = f"options.{key}: unknown option of {what}; {allowed}"
            raise SettingsError(msg)
    try:
        return msgspec.convert(dict(given), shape)
    except msgspec.ValidationError as exc:
        msg = f"options of {what}: {exc} (got {dict(given)!r})"
        raise SettingsError(msg) from exc
