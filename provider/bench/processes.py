"""Contenders as the benchmark sees them: child processes that are given orders one at a time."""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, Self, TypeVar

import msgspec

from provider.bench.messages import (
    Compute,
    Computed,
    Count,
    Counted,
    EngineSetup,
    Failed,
    Outcome,
    Ready,
    Reply,
    ServerSetup,
    Setup,
    Slice,
)
from provider.errors import ContenderFailed

R = TypeVar("R", Ready, Counted, Computed, Outcome)

_EXIT_TIMEOUT_SECONDS = 10


class ContenderProcess:
    """The child process of one contender.

    Attributes:
        name: as shown; unique among the contenders of a run.
        kind: `server`, `engine` or `library`.
        facts: what it says of itself.
    """

    def __init__(self, setup: Setup, process: "subprocess.Popen[bytes]", stderr: IO[bytes]) -> None:
        """Use `start`."""
        self.kind = str(setup.__struct_config__.tag)
        self.facts: dict[str, Any] = {}
        self.name = self.kind
        self._process, self._stderr = process, stderr

    @classmethod
    @contextmanager
    def start(cls, setup: Setup, *, most_seconds: float | None = None) -> Iterator[Self]:
        """A contender that is ready; its process ends with the block.

        Args:
            setup: what it is.
            most_seconds: that it may take to be ready; None for any.

        Raises:
            ContenderFailed: it is not there, is not ready in time, or does not do what it should; in one line.
        """
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "provider.bench.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
            with process:
                try:
                    contender = cls(setup, process, stderr)
                    contender.facts = contender._ready(setup, most_seconds).facts
                    contender.name = _name(setup, contender.facts)
                    yield contender
                finally:
                    contender._stop()

    def count(self, texts: tuple[str, ...]) -> int:
        """Tokens of `texts` together, by this contender's tokenizer."""
        return self._request(Count(texts), Counted).tokens

    def compute(self, texts: tuple[str, ...]) -> list[list[float]]:
        """For each of `texts` its vector, or its scores; of an engine only."""
        return self._request(Compute(texts), Computed).rows

    def run(self, order: Slice) -> Outcome:
        """Let it bear a slice of load. Blocks until that is over."""
        return self._request(order, Outcome)

    def _ready(self, setup: Setup, most_seconds: float | None) -> Ready:
        if most_seconds is None:
            return self._request(setup, Ready)
        timer = threading.Timer(most_seconds, self._process.kill)
        timer.start()
        try:
            return self._request(setup, Ready)
        except ContenderFailed as exc:
            if timer.is_alive():
                raise
            msg = f"not ready after {most_seconds:.0f} s"
            raise ContenderFailed(msg) from exc
        finally:
            timer.cancel()

    def _request(self, message: Setup | Compute | Count | Slice, expected: type[R]) -> R:
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        reply: Reply = msgspec.json.decode(line, type=Reply) if line else Failed(self._exit_reason())
        if isinstance(reply, Failed):
            raise ContenderFailed(reply.message)
        if not isinstance(reply, expected):
            msg = f"{self.name} answered a {type(reply).__name__}, expected a {expected.__name__}"
            raise ContenderFailed(msg)
        return reply

    def _exit_reason(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_TIMEOUT_SECONDS)
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"the process of {self.name} ended: {last}"

    def _stop(self) -> None:
        """The end of its input ends the process; one that is stuck is killed."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(_EXIT_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()


@contextmanager
def start_contenders(setups: Sequence[Setup]) -> Iterator[list[ContenderProcess]]:
    """All contenders, started one after the other so that none is slowed down by the next; all end with the block."""
    with ExitStack() as stack:
        found: list[ContenderProcess] = []
        for setup in setups:
            contender = stack.enter_context(ContenderProcess.start(setup))
            same = sum(each.name.partition(" (")[0] == contender.name for each in found)
            contender.name += f" ({same + 1})" if same else ""
            found.append(contender)
        yield found


def _name(setup: Setup, facts: dict[str, Any]) -> str:
    if isinstance(setup, ServerSetup):
        return setup.name or setup.url.split("//")[-1].split("/")[0]
    if isinstance(setup, EngineSetup):
        return f"{facts['backend']} {facts['dtype']}"
    return "sentence-transformers"
