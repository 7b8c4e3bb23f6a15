"""A virtual environment for a tool that cannot share the service's: made once, kept, reused."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from attrs import frozen

from provider.errors import ExportFailed

_COMPLETE = ".complete"
# pip's own lines that tell a user who waits how far it is.
_TOLD = ("Downloading ", "Processing ", "Using cached ", "Installing ")


@frozen
class Environment:
    """A virtual environment with the packages of one list."""

    folder: Path

    @classmethod
    def open(cls, place: Path | None, requirements: Path, say: Callable[[str], None]) -> Self:
        """The environment for `requirements`, made if it is not there. Others who want the same one wait.

        Args:
            place: the folder that holds environments; None for `emb-provider` in the user's cache.
            requirements: a list for pip, every package pinned. Another list is another environment.
            say: told what happens, in lines.

        Raises:
            ExportFailed: it cannot be made; nothing is left of it.
        """
        key = f"{requirements.read_text(encoding='utf-8')}\0{sys.version}\0{sysconfig.get_platform()}"
        place = (place or _user_cache()).expanduser().absolute()
        folder = place / f"optimum-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        try:
            with _lock(folder.with_suffix(".lock")):
                if not (folder / _COMPLETE).exists():
                    say(f"making an environment for the export, once; it takes minutes and 1 GB or more: {folder}")
                    _make(folder, requirements, say)
                    (folder / _COMPLETE).touch()
        except OSError as exc:
            msg = f"cannot write to {place}: {exc.strerror or exc}; choose another folder with --environment"
            raise ExportFailed(msg) from exc
        return cls(folder)

    @contextmanager
    def run(self, script: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """Run `script` in it, without the hub; killed if the block is left before it ends."""
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        with _running([str(_python(self.folder)), "-I", str(script), *arguments], offline) as process:
            yield process


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "emb-provider"


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """The lock ends with the process, however that ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(folder: Path, requirements: Path, say: Callable[[str], None]) -> None:
    try:
        # What an interrupted attempt left is cleared away here, too.
        _told([sys.executable, "-m", "venv", "--clear", str(folder)], say, "the environment cannot be made")
        pip = [str(_python(folder)), "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        _told([*pip, "--retries", "2", "--requirement", str(requirements)], say, "pip cannot install optimum")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _told(command: Sequence[str], say: Callable[[str], None], failure: str) -> None:
    """Run `command`, and tell of its progress.

    Raises:
        ExportFailed: it failed.
    """
    last: deque[str] = deque(maxlen=1)
    with _running(command, {}) as process:
        assert process.stdout is not None  # noqa: S101 - for the types: it is a pipe
        for line in map(str.strip, process.stdout):
            if line.startswith(_TOLD):
                say(f"  {line.partition(' (from ')[0][:110]}")
            if line.startswith("ERROR") or (line and not last):
                last.append(line)
    if process.returncode:
        reason = last[-1].removeprefix("ERROR: ") if last else f"it ended with {process.returncode}"
        msg = (
            f"{failure}: {reason}. pip takes packages from where its own settings say (PIP_INDEX_URL, PIP_FIND_LINKS); "
            "or export on a machine that has an index, and copy the folder"
        )
        raise ExportFailed(msg)


@contextmanager
def _running(command: Sequence[str], more: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    # The service's own constraints and installation folders are not those of this environment.
    dropped = {"PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIREMENT"}
    environment = {key: value for key, value in os.environ.items() if key not in dropped} | more
    with subprocess.Popen(  # noqa: S603 - our own commands
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
