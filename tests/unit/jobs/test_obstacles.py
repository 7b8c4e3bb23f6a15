"""Work on the disk that a job no longer waits for."""

import asyncio
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from waiting import PATIENCE_SECONDS

from provider.jobs.obstacles import finished


async def test_a_file_that_is_opened_for_nobody_is_closed(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    files: list[BinaryIO] = []

    def work() -> BinaryIO:
        begun.set()
        assert go_on.wait(PATIENCE_SECONDS)
        files.append((tmp_path / "a").open("wb"))
        return files[0]

    task = asyncio.create_task(finished(work))
    assert await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files[0].closed
