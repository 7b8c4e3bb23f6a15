"""Tuning of earlier starts, in the user's cache: while processor, libraries and model are the same, so is what is best.

An entry is removed by removing its folder: `emb-provider/tuning` in `$XDG_CACHE_HOME`, else in `~/.cache`.
"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec
from attrs import evolve

from provider.engine.tuning import MOST_WAITING, Choices, Tuned
from provider.store import Store, key_of, read_manifest, write_manifest

_log = logging.getLogger(__name__)


class Remembered:
    """The tuning of one model on one machine. Whatever is wrong with the disk, nothing is raised.

    Attributes:
        choices: what there is to choose from.
    """

    def __init__(self, choices: Choices, conditions: Mapping[str, object]) -> None:
        """Nothing is read.

        Args:
            choices: what there is to choose from.
            conditions: all else that the best choice depends on.
        """
        self.choices = choices
        self._name = key_of({**conditions, "choices": choices})

    def read(self) -> Tuned | None:
        """What was found at an earlier start; None if nothing was, or if it cannot be read."""
        try:
            return self._tuned(_store().place(self._name))
        except RuntimeError:
            return None

    def keep(self, tuned: Tuned) -> None:
        """Keep it for the next start, if all was compared while nobody else used the cores much.

        If that is impossible, the log says so.
        """
        # What a busy machine gave must not stay for good.
        if not tuned.is_complete or tuned.waiting > MOST_WAITING:
            return
        try:
            _store().fetch(self._name, make=partial(write_manifest, facts=msgspec.to_builtins(tuned)), read=self._tuned)
        except (OSError, RuntimeError, ImportError) as exc:  # ImportError: a system without locks of files
            _log.warning("what was tuned cannot be kept, so that the next start measures again: %s", exc)

    def _tuned(self, place: Path) -> Tuned | None:
        facts = read_manifest(place)
        try:
            tuned = msgspec.convert(facts, Tuned)
        except msgspec.ValidationError:
            return None
        known = tuned.plan in self.choices.plans and tuned.batch_tokens in self.choices.batch_tokens
        return evolve(tuned, is_remembered=True) if known else None


def _store() -> Store:
    """Raises RuntimeError where the user has no home folder."""
    return Store.at(None, "tuning")
