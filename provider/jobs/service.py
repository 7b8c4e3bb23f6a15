"""Finds jobs that no process runs, and runs them; removes what has expired."""

import asyncio
import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from provider.domain import Caller
from provider.engine.hooks import Hook, JobChanged
from provider.errors import InvalidRequest, StorageFull
from provider.jobs.calls import Calls
from provider.jobs.database import JobsDatabase
from provider.jobs.folder import JobsFolder, Lease
from provider.jobs.records import Job, JobStatus
from provider.jobs.runner import JobRunner, RunLimits
from provider.settings import JobSettings

_LOOK_SECONDS = 1.0
_SWEEP_SECONDS = 600.0
# After a fault of ours, a job is left alone for so long.
_REST_SECONDS = 10.0
_SWEEP = "sweep"

_log = structlog.get_logger("provider.jobs")


class JobService:
    """Files and jobs of one process, beside others that have the same folder.

    Attributes:
        database: what there is.
        folder: where its bytes are.
        settings: limits.
    """

    def __init__(
        self,
        path: Path,
        settings: JobSettings,
        *,
        max_line_bytes: int,
        hook: Hook,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the folder, or make it. Nothing runs until `start`.

        Args:
            path: of the folder, on a local disk.
            settings: limits.
            max_line_bytes: of a line of an input file.
            hook: told of changes of jobs.
            clock: seconds since 1970.

        Raises:
            SettingsError: it cannot be used.
        """
        self.settings = settings
        self.folder = JobsFolder(path, settings.max_bytes)
        self.database = JobsDatabase(self.folder.database, clock)
        self._limits, self._hook = RunLimits(max_line_bytes, settings.max_requests), hook
        self._running: dict[str, JobRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._rests_until: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._problem = ""

    @property
    def running(self) -> int:
        """Jobs that run in this process."""
        return len(self._running)

    @property
    def paused(self) -> int:
        """Of these, those that do not advance."""
        return sum(each.pause is not None for each in self._running.values())

    def start(self, calls: Calls, find_caller: Callable[[str], Caller | None]) -> None:
        """Run jobs from now on.

        Args:
            calls: answer their requests.
            find_caller: whose key has that name.
        """
        run = partial(
            JobRunner,
            database=self.database,
            folder=self.folder,
            calls=calls,
            find_caller=find_caller,
            limits=self._limits,
            hook=self._hook,
        )
        self._task = asyncio.create_task(self._look_for_jobs(run), name="jobs")

    async def close(self) -> None:
        """Stop. Jobs go on where the next process finds them."""
        tasks = [each for each in (self._task, *self._tasks.values()) if each is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.to_thread(self.database.close)

    async def add(self, job: Job) -> None:
        """Run a new job as soon as its turn has come.

        Raises:
            ObjectNotFound, InvalidRequest: as `JobsDatabase.add_job`.
        """
        await asyncio.to_thread(self.database.add_job, job, self.settings.max_open)
        self._hook(JobChanged(job.id, job.status, job.owner, 0, 0, 0))
        self._wake.set()

    async def cancel(self, job_id: str, owner: str) -> Job:
        """Stop a job; its results so far are kept.

        Raises:
            ObjectNotFound: there is none, or it is someone else's.
            InvalidRequest: it has ended.
        """
        before = await asyncio.to_thread(self.database.job, job_id, owner)
        states = {JobStatus.VALIDATING, JobStatus.IN_PROGRESS}
        job = await asyncio.to_thread(partial(self.database.change, job_id, only=states, status=JobStatus.CANCELLING))
        if job.status is not JobStatus.CANCELLING:
            msg = f"Cannot cancel a batch with status '{job.status}'."
            raise InvalidRequest(msg, code="invalid_status")
        if before.status is not JobStatus.CANCELLING:
            done = job.progress
            self._hook(JobChanged(job.id, job.status, owner, done.completed, done.failed, job.total))
        if (runner := self._running.get(job_id)) is not None:
            runner.stop()
        self._wake.set()
        return job

    def remove_file(self, file_id: str, owner: str) -> None:
        """Remove a file. Waits for the disk.

        Raises:
            ObjectNotFound, InvalidRequest: as `JobsDatabase.remove_file`.
            StorageFull: the disk is too full to note it even without the file's bytes.
        """
        try:
            self.database.remove_file(file_id, owner)
        except StorageFull:
            # The file makes room for the note that it is gone.
            self.database.check_unused(file_id, owner)
            self.folder.remove(file_id)
            self.database.remove_file(file_id, owner)
        self.folder.remove(file_id)

    async def _look_for_jobs(self, run: Callable[[Job], JobRunner]) -> None:
        swept_at = float("-inf")
        while True:
            self._wake.clear()
            try:
                if time.monotonic() - swept_at > _SWEEP_SECONDS:
                    swept_at = time.monotonic()
                    await asyncio.to_thread(self._sweep)
                await self._take_jobs(run)
                self._problem = ""
            except (StorageFull, OSError, sqlite3.Error) as exc:
                if str(exc) != self._problem:
                    _log.error("jobs_not_read", reason=str(exc))
                self._problem = str(exc)
            with contextlib.suppress(TimeoutError):
                # Not `wait_for`: it may take a cancellation for an event that comes at the same time.
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()

    async def _take_jobs(self, run: Callable[[Job], JobRunner]) -> None:
        jobs, most = await asyncio.to_thread(self.database.open_jobs), self.settings.max_running
        taken = Counter(job.owner for job in jobs if job.id in self._tasks)
        for job in jobs:
            # Jobs that do not advance take places of their own key's, not of others'.
            if len(self._tasks) - self.paused >= most:
                return
            if taken[job.owner] >= most or job.id in self._tasks:
                continue
            if self._rests_until.get(job.id, 0.0) > time.monotonic():
                continue
            # Not in a thread: a task that is cancelled meanwhile would lose it.
            lease = self.folder.lease(job.id)
            if lease is not None:
                task = asyncio.create_task(self._run(job.id, run), name=job.id)
                self._tasks[job.id] = task
                taken[job.owner] += 1
                # A task that is cancelled before it begins runs none of its code.
                task.add_done_callback(partial(self._leave, job.id, lease))

    def _leave(self, job_id: str, lease: Lease, _: object) -> None:
        lease.end()
        del self._tasks[job_id]
        self._wake.set()

    async def _run(self, job_id: str, run: Callable[[Job], JobRunner]) -> None:
        try:
            # As whoever had the lease before has left it.
            job = await asyncio.to_thread(self.database.job, job_id)
            if job.has_ended:
                return
            runner = self._running[job_id] = run(job)
            if job.progress.lines or job.status is not JobStatus.VALIDATING:
                _log.info("job_resumed", job=job_id, completed=job.progress.completed, failed=job.progress.failed)
            await runner.run()
        except Exception:  # noqa: BLE001 - one job must not end the others
            self._rests_until[job_id] = time.monotonic() + _REST_SECONDS
            _log.exception("job_interrupted", job=job_id, hint=f"it goes on in {_REST_SECONDS:g} s")
        finally:
            self._running.pop(job_id, None)

    def _sweep(self) -> None:
        lease = self.folder.lease(_SWEEP)
        if lease is not None:
            with lease:
                # First the bytes, which nobody can read any more: the database may need their room.
                for file_id in self.database.expired_files():
                    self.folder.remove(file_id)
                self.database.expire()
                self.folder.sweep(self.database.known_files)
