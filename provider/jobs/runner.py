"""One job, from wherever it is to its end.

Requests are answered in pieces of the input, several at a time. A piece counts once its results are on the disk: they
are appended and synced first, then one transaction moves the job's place in the input and the lengths of its files.
Whoever goes on after a crash cuts what stands behind these lengths, and reads on from that place.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import structlog
from attrs import evolve, frozen

from provider.domain import Caller
from provider.engine.hooks import Hook, JobChanged, JobPaused
from provider.errors import StorageFull
from provider.jobs.answering import Answering, KeyRevoked, Piece
from provider.jobs.calls import Calls
from provider.jobs.database import JobsDatabase
from provider.jobs.folder import FileLost, JobsFolder
from provider.jobs.lines import Checked, InputFile, check
from provider.jobs.obstacles import Obstacles
from provider.jobs.records import Job, JobStatus, Pause, Problem, Progress, Purpose, StoredFile
from provider.jobs.results import given_up, request_id

# Of requests that are given up.
_LINES_AT_A_TIME, _BYTES_AT_A_TIME = 1000, 1_000_000
_LOOK_SECONDS = 1.0
_LOG_SECONDS = 30.0

_log = structlog.get_logger("provider.jobs")


@frozen
class RunLimits:
    """Limits of what a job may hold.

    Attributes:
        max_line_bytes: of a line.
        max_requests: of a job.
    """

    max_line_bytes: int
    max_requests: int


class JobRunner:
    """Runs one job, which no other process runs meanwhile. Used on the event loop's thread.

    Attributes:
        job: as it is now.
    """

    def __init__(
        self,
        job: Job,
        *,
        database: JobsDatabase,
        folder: JobsFolder,
        calls: Calls,
        find_caller: Callable[[str], Caller | None],
        limits: RunLimits,
        hook: Hook,
    ) -> None:
        """Nothing runs yet.

        Args:
            job: as it was left.
            database: where it stands.
            folder: where its files are.
            calls: answer requests.
            find_caller: whose key has that name; None if none has any more.
            limits: of its input.
            hook: told of changes.
        """
        self.job = job
        self._database, self._folder, self._calls = database, folder, calls
        self._find_caller, self._limits, self._hook = find_caller, limits, hook
        self._stop = asyncio.Event()
        self._obstacles = Obstacles(job.pause)
        self._told_at = time.monotonic()

    @property
    def pause(self) -> Pause | None:
        """Why it does not advance."""
        return self._obstacles.pause

    async def run(self) -> None:
        """Return when the job has ended. Cancelled, it can be run again."""
        watching = asyncio.create_task(self._watch(), name=f"watch {self.job.id}")
        try:
            if self.job.status is JobStatus.VALIDATING:
                await self._validate()
            if self.job.status is JobStatus.IN_PROGRESS:
                await self._answer_all()
            if not self.job.has_ended:
                await self._end()
        except FileLost as lost:
            await self._lose(lost.file_id)
        finally:
            watching.cancel()

    def stop(self) -> None:
        """The job was cancelled."""
        self._stop.set()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                seen = await asyncio.to_thread(self._database.job, self.job.id)
                self._stop_if(seen)
                await self._tell(seen)
            except (StorageFull, sqlite3.Error) as exc:
                self._obstacles.meet_at_disk(exc)

    def _stop_if(self, seen: Job) -> None:
        if seen.status is JobStatus.CANCELLING or self._is_late:
            self._stop.set()

    @property
    def _is_late(self) -> bool:
        return self._database.now() >= self.job.expires_at

    async def _tell(self, seen: Job) -> None:
        now = time.monotonic()
        if (pause := self._obstacles.to_tell(self._database.now())) is not None:
            self._hook(JobPaused(self.job.id, pause.code, pause.message))
        if seen.pause != self.pause:
            # On a full disk it may take several attempts.
            await asyncio.to_thread(self._database.change, self.job.id, pause=self.pause)
        if now - self._told_at > _LOG_SECONDS:
            self._told_at = now
            done = self.job.progress
            _log.info(
                "job_progress", job=self.job.id, completed=done.completed, failed=done.failed, total=self.job.total
            )

    async def _change(self, **values: Any) -> None:  # noqa: ANN401 - fields of `Job`
        """Change the job, however long the disk takes."""
        before = self.job.status
        self.job = await self._obstacles.until_done(partial(self._database.change, self.job.id, **values))
        if self.job.status is not before:
            done = self.job.progress
            self._hook(
                JobChanged(self.job.id, self.job.status, self.job.owner, done.completed, done.failed, self.job.total)
            )

    async def _validate(self) -> None:
        def look() -> Checked:
            self._folder.opened(self.job.input_file_id, "rb").close()
            return check(
                self._folder.path(self.job.input_file_id),
                self.job.endpoint,
                max_line_bytes=self._limits.max_line_bytes,
                max_requests=self._limits.max_requests,
                is_wanted=lambda: not self._stop.is_set(),
            )

        try:
            checked = await self._obstacles.until_done(look)
        except asyncio.CancelledError:
            self._stop.set()
            raise
        if self._stop.is_set():
            return
        if checked.problems:
            status = JobStatus.FAILED
            await self._change(only={JobStatus.VALIDATING}, status=status, problems=checked.problems)
        else:
            await self._change(only={JobStatus.VALIDATING}, status=JobStatus.IN_PROGRESS, total=checked.total)

    async def _answer_all(self) -> None:
        answering = Answering(self.job, self._calls, self._find_caller, self._obstacles.meet)
        source = await self._open_input()
        try:
            async with contextlib.aclosing(answering.pieces(source, self._stop)) as pieces:
                async for done in pieces:
                    await self._keep(done)
        except KeyRevoked:
            problem = Problem("key_revoked", f"The key {self.job.owner!r} that the batch belongs to was revoked.")
            states = {JobStatus.IN_PROGRESS}
            await self._change(only=states, status=JobStatus.CANCELLING, problems=(problem,))
        finally:
            source.close()

    async def _open_input(self) -> InputFile:
        done = self.job.progress
        file = await self._obstacles.until_done(partial(self._folder.opened, self.job.input_file_id, "rb"))
        return InputFile(file, position=done.position, lines=done.lines)

    async def _keep(self, pieces: Sequence[Piece]) -> None:
        """Put results on the disk, then say so."""
        results = [each for piece in pieces for each in piece.results]
        last = pieces[-1].lines[-1]
        answers = b"".join(each.line for each in results if each.is_answer)
        errors = b"".join(each.line for each in results if not each.is_answer)
        before = self.job.progress
        completed = sum(each.is_answer for each in results)

        def write() -> Job:
            # Beyond the quota a job may still end: its input cannot be removed before.
            if not self._stop.is_set():
                self._folder.check_room(len(answers) + len(errors))
            progress = Progress(
                position=last.end,
                lines=last.number,
                completed=before.completed + completed,
                failed=before.failed + len(results) - completed,
                tokens=before.tokens + sum(each.tokens for each in results),
                output_bytes=self._folder.append(self.job.output_file_id, before.output_bytes, answers),
                error_bytes=self._folder.append(self.job.error_file_id, before.error_bytes, errors),
            )
            return self._database.change(self.job.id, progress=progress, pause=None)

        self.job = await self._obstacles.until_done(write)
        self._obstacles.advanced()
        self._stop_if(self.job)

    async def _end(self) -> None:
        """Answer for what is left, and list the files."""
        self._stop.set()
        seen = await self._obstacles.until_done(partial(self._database.job, self.job.id))
        self.job = evolve(seen, progress=self.job.progress)
        end = JobStatus.CANCELLED if self.job.status is JobStatus.CANCELLING else JobStatus.COMPLETED
        done = self.job.progress
        if end is JobStatus.COMPLETED and (not self.job.total or done.requests < self.job.total):
            end = JobStatus.EXPIRED
        if self.job.total and end is not JobStatus.COMPLETED:
            await self._give_up(end)
            if self.job.progress.requests < self.job.total:
                raise FileLost(self.job.input_file_id)
        if end is JobStatus.COMPLETED:
            await self._change(status=JobStatus.FINALIZING)
        files = await self._obstacles.until_done(self._files)
        await self._change(status=end, files=files, pause=None)

    async def _give_up(self, end: JobStatus) -> None:
        code, message = {
            JobStatus.CANCELLED: ("batch_cancelled", "This request was not run before the batch was cancelled."),
            JobStatus.EXPIRED: (
                "batch_expired",
                "This request could not be executed before the completion window expired.",
            ),
        }[end]
        source = await self._open_input()
        try:
            while lines := await asyncio.to_thread(source.next_lines, _LINES_AT_A_TIME, _BYTES_AT_A_TIME):
                results = [
                    given_up(request_id(self.job.id, line.number), line.custom_id, code, message) for line in lines
                ]
                await self._keep([Piece(lines, results)])
        finally:
            source.close()

    async def _lose(self, file_id: str) -> None:
        """End without the file. What was answered is listed, unless it is that which is lost."""
        which = "input" if file_id == self.job.input_file_id else "output"
        problem = Problem(f"{which}_lost", f"The {which} file {file_id} is no longer whole on the server's disk.")
        files: list[StoredFile] = []
        if which == "input":
            with contextlib.suppress(FileLost):
                files = await self._obstacles.until_done(self._files)
        progress = self.job.progress if files else evolve(self.job.progress, output_bytes=0, error_bytes=0)
        await self._change(status=JobStatus.FAILED, problems=(problem,), files=files, progress=progress, pause=None)

    def _files(self) -> list[StoredFile]:
        """What the job has written, and as long as it says."""
        now, done = self._database.now(), self.job.progress
        sizes = {self.job.output_file_id: done.output_bytes, self.job.error_file_id: done.error_bytes}
        names = {self.job.output_file_id: "output", self.job.error_file_id: "error"}
        for file_id, size in sizes.items():
            self._folder.finish(file_id, size)
        return [
            StoredFile(
                file_id,
                self.job.owner,
                f"{self.job.id}_{names[file_id]}.jsonl",
                Purpose.BATCH_OUTPUT,
                size,
                now,
                now + self.job.output_seconds,
            )
            for file_id, size in sizes.items()
            if size
        ]
