"""A run of bulk embedding: read and check everything, embed, write. In little memory, however many the texts are."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from itertools import islice
from typing import Self

from provider.bulk.calls import chunks, in_order
from provider.bulk.checkpoint import Checkpoint
from provider.bulk.embedder import Embedder
from provider.bulk.job import EmbedJob
from provider.bulk.output import Destination, Stream
from provider.bulk.phrases import refused
from provider.bulk.progress import ProgressBars, RunSummary
from provider.errors import InvalidRequest, ProviderError
from provider.texts.reading import TextSource
from provider.texts.records import Record

Notify = Callable[[str], object]

# The first texts of a run, so that its bar soon moves.
_FIRST_TEXTS = 32
# Texts that are looked at in one piece before a model is loaded.
_SEEN_TEXTS = 8192
_NAMED_PROBLEMS = 3


class Run:
    """A job whose texts can be read and whose output can be written. Made by `prepared`."""

    def __init__(
        self,
        job: EmbedJob,
        source: TextSource,
        output: Checkpoint | Stream,
        *,
        summary: RunSummary,
        bars: ProgressBars,
        notify: Notify,
    ) -> None:
        self._job, self._source, self._output, self._summary = job, source, output, summary
        self._bars, self._notify = bars, notify

    @classmethod
    @contextmanager
    def prepared(cls, job: EmbedJob, bars: ProgressBars, notify: Notify) -> Iterator[Self]:
        """Read all texts once. What can be known to be wrong is told before a model is loaded.

        Args:
            job: what is embedded, by what, and where the vectors go.
            bars: shown meanwhile.
            notify: told in a sentence what should be known.

        Raises:
            InvalidRequest: a text, an option or the output is at fault.
        """
        destination = Destination.of(job.output, job.output_format, job.shard_rows, job.options.outputs)
        if job.restart and destination.is_stream:
            msg = f"--restart is for output files; {destination.name} always begins anew: remove it"
            raise InvalidRequest(msg)
        with TextSource.opened(job.texts, job.files, job.reading) as source:
            bars.start("reading", None)
            texts, digest = _survey(source, destination, bars)
            for notice in destination.form.notices:
                notify(notice)
            made_from = {"inputs": f"{texts} texts ({digest})"}
            with destination.opened(source, texts, made_from, restart=job.restart) as output:
                summary = RunSummary(destination.name, texts, source.skipped)
                yield cls(job, source, output, summary=summary, bars=bars, notify=notify)

    async def embed(self) -> RunSummary:
        """Embed and write all texts that are not yet embedded.

        Raises:
            ProviderError: a text, the model, or the output is at fault. A note says what is kept.
        """
        output, summary, bars = self._output, self._summary, self._bars
        try:
            bars.start("loading", None)
            async with _opening(self._job, self._notify) as embedder:
                output.begin(embedder.facts, embedder.dimension, embedder.about)
                summary.model, summary.fingerprint, summary.resumed = embedder.model, embedder.fingerprint, output.done
                if 0 < output.done < summary.texts:
                    done = f"{output.done} of {summary.texts} texts are done"
                    self._notify(f"going on with an interrupted run: {done} (--restart begins anew)")
                if embedder.can_check:
                    bars.start("checking", summary.texts - output.done)
                    await self._check(embedder)
                bars.start("embedding", summary.texts, output.done)
                with summary.timed():
                    await self._embed(embedder)
        except ProviderError as exc:
            if kept := self.kept():
                exc.add_note(kept)
            raise
        return summary

    def kept(self) -> str:
        """What to do after a run that was interrupted; empty where nothing is kept."""
        if not self._output.can_be_continued:
            return ""
        done = f"{self._output.done} of {self._summary.texts} texts are done"
        return f". {done}; the same command goes on from there"

    async def _check(self, embedder: Embedder) -> None:
        """Find all texts that cannot be embedded, as far as that can be known before."""
        clauses: list[str] = []
        count, any_too_long = 0, False
        async with aclosing(in_order(self._chunks(embedder), embedder.check, embedder.most_calls)) as checked:
            async for chunk, problems in checked:
                count += len(problems)
                any_too_long = any_too_long or any(problem.is_too_long for problem in problems)
                clauses += [problem.clause for problem in problems[: _NAMED_PROBLEMS - len(clauses)]]
                self._bars.advance(len(chunk))
        if count:
            raise refused(clauses, any_too_long=any_too_long, count=count)

    async def _embed(self, embedder: Embedder) -> None:
        if self._output.is_full:
            await self._finish()
        async with aclosing(in_order(self._chunks(embedder), embedder.embed, embedder.most_calls)) as results:
            async for chunk, embedded in results:
                start = 0
                while start < len(chunk):
                    end = start + self._output.room
                    part = {name: rows[start:end] for name, rows in embedded.outputs.items()}
                    self._output.append(chunk[start:end], part)
                    start = end
                    if self._output.is_full:
                        await self._finish()
                self._summary.add(chunk, embedded)
                self._bars.advance(len(chunk))

    async def _finish(self) -> None:
        """Write a file whose rows are all there."""
        self._source.check_unchanged()
        if self._output.done == self._summary.texts:
            self._bars.start("writing", None)
        for rows in self._output.finish():
            if self._output.done == self._summary.texts:
                self._bars.advance(rows)
            await asyncio.sleep(0)

    def _chunks(self, embedder: Embedder) -> Iterator[Sequence[Record]]:
        """The texts that are not yet embedded."""
        return chunks(islice(self._source, self._output.done, None), embedder, first=_FIRST_TEXTS)


def _survey(source: TextSource, destination: Destination, bars: ProgressBars) -> tuple[int, str]:
    """How many texts there are, and 16 hex digits over all of them and what stands beside them."""
    digest, count = hashlib.blake2b(digest_size=8), 0
    destination.form.expect(source.types())
    for chunk in _pieces(source):
        destination.form.see(chunk)
        for record in chunk:
            content = repr((record.text, record.fields)).encode(errors="surrogatepass")
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        count += len(chunk)
        bars.advance(len(chunk))
    if not destination.form.has_seen_enough:
        for chunk in _pieces(source):
            destination.form.confirm(chunk)
    return count, digest.hexdigest()


def _pieces(records: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(records)
    while chunk := list(islice(iterator, _SEEN_TEXTS)):
        yield chunk


def _opening(job: EmbedJob, notify: Notify) -> AbstractAsyncContextManager[Embedder]:
    """What makes the vectors; nothing is loaded or asked yet."""
    # Each brings what the others can do without: libraries, an HTTP client.
    if job.engine is None:
        from provider.bulk.server import servers  # noqa: PLC0415

        return servers(
            job.urls, job.options, model=job.model, api_key=job.api_key, batch_size=job.batch_size, notify=notify
        )
    if job.processes > 1:
        from provider.bulk.processes import engines  # noqa: PLC0415

        return engines(job.processes, job.engine, job.options, job.prompt, notify=notify)
    from provider.bulk.engine import EngineEmbedder  # noqa: PLC0415

    return EngineEmbedder.opened(job.engine, job.options, job.prompt)
