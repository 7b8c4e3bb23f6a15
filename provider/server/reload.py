"""Configuration that is read again at SIGHUP: what can change while serving, and what needs a restart."""

import os
from collections.abc import Callable
from operator import attrgetter

import structlog
from attrs import evolve

from provider.errors import ProviderError
from provider.settings import SECTIONS, Settings, options_of

_log = structlog.get_logger("provider.server")

_LIVE_SECTIONS = ("model", "limits")


class ConfigurationReader:
    """The settings in force, and how to read them again."""

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        """Nothing is read yet.

        Args:
            settings: those the service was started with.
            read: reads and checks them as at the start, and raises a ProviderError.
        """
        self.settings, self._read = settings, read
        self._had_terminal = _has_terminal()

    @property
    def is_hangup(self) -> bool:
        """Whether SIGHUP means what it says: the terminal that this process was started on is gone."""
        return self._had_terminal and not _has_terminal()

    def read_again(self) -> Settings | None:
        """The settings in force from now on, with those models and limits that are configured now. Blocking.

        None, and a line in the log that says why, if they are wrong: the old ones stay.
        """
        try:
            new = self._read()
        except ProviderError as exc:
            _log.error("configuration_refused", reason=exc.message)
            return None
        _log.info("configuration_read", restart_needed=needing_restart(self.settings, new))
        self.settings = evolve(self.settings, model=new.model, models=new.models, limits=new.limits)
        return self.settings


def needing_restart(old: Settings, new: Settings) -> list[str]:
    """Names of settings that differ and are read at the start only."""
    return [
        f"{section}.{each.name}"
        for section in SECTIONS
        if section not in _LIVE_SECTIONS
        for each in options_of(section)
        if attrgetter(f"{section}.{each.name}")(old) != attrgetter(f"{section}.{each.name}")(new)
    ]


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
