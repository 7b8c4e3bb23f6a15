"""How far a run is, on standard error if that is a terminal, and what it came to."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from attrs import define, field
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from provider.domain import Embedded
from provider.texts.records import Places, Record


class _RateColumn(ProgressColumn):
    """Steps a second, as of the last half minute."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f}/s")


class ProgressBars:
    """A bar for each step of the work, one after the other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    @classmethod
    @contextmanager
    def shown(cls, *, is_wanted: bool) -> Iterator[Self]:
        """Bars until the end of the block; none where standard error is no terminal. rich obeys NO_COLOR."""
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        is_hidden = not is_wanted or not console.is_terminal
        with Progress(*columns, console=console, disable=is_hidden, transient=True) as progress:
            yield cls(progress)

    def start(self, name: str, total: int | None, done: int = 0) -> None:
        """Replace the bar by that of the next step; one without a total only moves."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total, completed=done)

    def advance(self, count: int) -> None:
        """Move the bar on by `count`."""
        if self._task is not None:
            self._progress.advance(self._task, count)


@define
class RunSummary:
    """What a run came to.

    Attributes:
        output: where the vectors are.
        model: name of the model.
        fingerprint: of the vectors; empty where a server does not tell.
        texts: in the output.
        resumed: of those, how many an earlier run had embedded.
        embedded: of those, how many this run has.
        tokens: of those, as the model took them.
        cut: places of those that were too long.
        skipped: places of empty texts that were left out.
        seconds: time that embedding took.
    """

    output: str
    texts: int
    skipped: Places
    model: str = ""
    fingerprint: str = ""
    resumed: int = 0
    embedded: int = 0
    tokens: int = 0
    cut: Places = field(factory=Places)
    seconds: float = 0.0

    def add(self, records: Sequence[Record], embedded: Embedded) -> None:
        """Count records that were embedded."""
        self.embedded += len(records)
        self.tokens += embedded.usage.tokens
        for each in embedded.truncated:
            self.cut.add(records[each.index].place)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure the time of the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds = time.perf_counter() - started

    def __str__(self) -> str:
        parts = [f"{_texts(self.embedded)}, {self.tokens} tokens in {self.seconds:.1f} s"]
        if self.embedded and self.seconds:
            parts[0] += f" ({self.embedded / self.seconds:.0f} texts/s)"
        if self.resumed:
            parts.append(f"{_texts(self.resumed)} from an earlier run")
        if self.cut:
            parts.append(f"{self.cut.count} too long and cut ({self.cut})")
        if self.skipped:
            parts.append(f"{self.skipped.count} empty and skipped ({self.skipped})")
        fingerprint = f", fingerprint {self.fingerprint}" if self.fingerprint else ""
        parts.append(f"written to {self.output}; model {self.model}{fingerprint}")
        return "; ".join(parts)


def _texts(count: int) -> str:
    return f"{count} text{'' if count == 1 else 's'}"
