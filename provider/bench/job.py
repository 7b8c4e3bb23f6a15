"""A benchmark run: from what is asked for to contenders, loads, figures and files."""

import itertools
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import msgspec
from attrs import evolve, frozen
from rich.console import Console

from provider.backends.registry import find_entry_point
from provider.bench.messages import (
    Arrivals,
    EngineSetup,
    LibraryDtype,
    LibrarySetup,
    Load,
    LoadTask,
    ServerSetup,
    Setup,
    Texts,
)
from provider.bench.processes import ContenderProcess, start_contenders
from provider.bench.report import build_report
from provider.bench.rounds import Schedule, run_rounds
from provider.bench.table import show
from provider.bench.texts import SHIPPED, TextPool
from provider.endpoint import Endpoint
from provider.errors import ContenderFailed, InvalidRequest
from provider.settings import Settings
from provider.texts.reading import read_records
from provider.texts.records import ReadOptions

# What clients do: one after the other, many at once, and documents in bulk, alone and several.
_USUAL = ((1, 1), (64, 1), (1, 32), (4, 32))
_DEFAULT_CONCURRENCY, _DEFAULT_BATCH = 4, 1
_LIBRARY_DTYPES: dict[str, LibraryDtype] = {
    "st": "float32",
    "st/float32": "float32",
    "st/bfloat16": "bfloat16",
    "st/float16": "float16",
}


@frozen
class BenchJob:
    """What is measured, under which loads, and where the figures go.

    Attributes:
        url: base URL of a server; None to measure the engine in this process.
        against: further contenders: `st`, `st/DTYPE`, `backend:NAME`, `backend:NAME/DTYPE`, URL or URL#MODEL.
        model: of the server at `url`; None for the first one that it lists.
        engine: settings with one model, for contenders in this process; None if there are none.
        concurrency: closed loops: requests at a time.
        batch: texts of a request.
        rate: open loops: requests a second.
        arrivals: when requests of an open loop come.
        lengths: tokens of a text; None for texts as they are.
        texts: a file of texts; None for the shipped ones.
        field: of a JSON object that holds the text.
        repeat_texts: the same texts again and again.
        task: embed texts, or rerank them as documents.
        seconds: length of a slice.
        rounds: slices of each load.
        timeout: seconds that requests under way at the end of a slice are waited for.
        truncate: asked for with every text.
        encoding_format: how servers answer.
        api_key: for servers.
        json_file: all figures go there; `-` is standard output, without the table.
        plot: folder for plots.
    """

    url: str | None
    against: tuple[str, ...]
    concurrency: tuple[int, ...] | None
    batch: tuple[int, ...] | None
    rate: tuple[float, ...] | None
    arrivals: Arrivals
    lengths: tuple[int, ...] | None
    texts: Path | None
    field: str | None
    repeat_texts: bool
    task: LoadTask
    seconds: float
    rounds: int
    timeout: float
    truncate: str | None
    encoding_format: str
    api_key: str | None
    json_file: Path | None
    plot: Path | None
    model: str | None = None
    engine: Settings | None = None

    def loads(self) -> list[Load]:
        """Every combination that was asked for; lengths not yet in words.

        Raises:
            InvalidRequest: a closed and an open loop at the same time.
        """
        batches = self.batch or (_DEFAULT_BATCH,)
        if self.rate and self.concurrency:
            msg = "--rate sends requests at fixed times and --concurrency one after the other: choose one of them"
            raise InvalidRequest(msg)
        if self.rate:
            pairs = [(rate, batch) for batch in batches for rate in self.rate]
            loads = [Load(batch, rate=rate, arrivals=self.arrivals) for rate, batch in pairs]
        else:
            asked = self.concurrency or self.batch
            grid = itertools.product(self.concurrency or (_DEFAULT_CONCURRENCY,), batches) if asked else _USUAL
            loads = [Load(batch, concurrency=concurrency) for concurrency, batch in grid]
        lengths = self.lengths or (None,)
        return [msgspec.structs.replace(load, tokens=tokens) for load in loads for tokens in lengths]

    def setups(self, texts: Texts) -> list[Setup]:
        """What is measured, then what it is compared with.

        Raises:
            InvalidRequest: there is no contender of that kind, or its library is missing.
            UnknownBackend: a backend is not installed.
        """
        first = self._engine(texts) if self.url is None else self._server(self.url, texts)
        return [first, *(self._other(each, texts) for each in self.against)]

    def _other(self, name: str, texts: Texts) -> Setup:
        kind, _, rest = name.partition(":")
        if kind in ("http", "https"):
            return self._server(name, texts)
        library = _LIBRARY_DTYPES.get(name)
        if library is not None:
            if find_spec("sentence_transformers") is None:
                msg = "--against st needs sentence-transformers: pip install sentence-transformers"
                raise InvalidRequest(msg)
            return LibrarySetup(texts, self._engine(texts).settings, library)
        if kind == "backend" and rest:
            backend, _, dtype = rest.partition("/")
            find_entry_point(backend)
            engine = self._engine(texts)
            model = evolve(engine.settings.model, backend=backend, dtype=dtype or engine.settings.model.dtype)
            return msgspec.structs.replace(engine, settings=evolve(engine.settings, model=model))
        msg = f"--against {name!r}: expected st, st/DTYPE, backend:NAME, backend:NAME/DTYPE, URL or URL#MODEL"
        raise InvalidRequest(msg)

    def _engine(self, texts: Texts) -> EngineSetup:
        assert self.engine is not None, "contenders in this process need settings"  # noqa: S101
        return EngineSetup(texts, self.engine, self.truncate)

    def _server(self, url: str, texts: Texts) -> ServerSetup:
        base, _, model = url.partition("#")
        Endpoint.of(base)
        return ServerSetup(
            base,
            texts,
            model=model or (self.model if url == self.url else None),
            api_key=self.api_key,
            encoding_format=self.encoding_format,
            truncate=self.truncate,
        )


def run(job: BenchJob) -> None:
    """Measure, show, write.

    Raises:
        ProviderError: an option is wrong, a contender is not there, or nothing was answered.
    """
    began = datetime.now(UTC)
    if job.plot is not None and find_spec("matplotlib") is None:
        msg = "--plot needs matplotlib: pip install matplotlib"
        raise InvalidRequest(msg)
    records = read_records((), [job.texts or SHIPPED], ReadOptions(field=job.field))
    sentences = tuple(record.text for record in records.texts)
    texts = Texts(sentences, repeat=job.repeat_texts, task=job.task)
    loads = job.loads()
    schedule = Schedule(job.seconds, job.rounds, job.timeout, seed=secrets.randbits(32))
    setups = job.setups(texts)
    with _progress(schedule.total_seconds(len(loads), len(setups))) as on_step:
        on_step("starting")
        with start_contenders(setups) as contenders:
            loads = _in_words(loads, texts, contenders[0])
            outcomes = run_rounds(contenders, loads, schedule, on_step)
    report = build_report(
        contenders,
        loads,
        outcomes,
        schedule=schedule,
        texts=f"{'shipped' if job.texts is None else job.texts} ({len(sentences)})",
        repeats_texts=job.repeat_texts,
        truncate=job.truncate,
        started=began,
    )
    if job.json_file is not None:
        _write(job.json_file, msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if str(job.json_file) != "-":
        show(report)
    if job.plot is not None:
        from provider.bench.plots import draw  # noqa: PLC0415

        for path in draw(report, job.plot):
            sys.stderr.write(f"wrote {path}\n")
    silent = [
        each.name for each in report.contenders if not any(r.texts for r in report.results if r.contender == each.name)
    ]
    if silent:
        msg = f"{', '.join(silent)}: not one request was answered as asked; the table has the errors"
        raise ContenderFailed(msg)


def _in_words(loads: Sequence[Load], texts: Texts, first: ContenderProcess) -> list[Load]:
    """Lengths in words, by the first contender's tokenizer; all contenders get the same texts."""
    pool = TextPool.of(texts)
    words: dict[int | None, int] = {
        each.tokens: pool.words_for(each.tokens, first.count) for each in loads if each.tokens is not None
    }
    return [msgspec.structs.replace(each, words=words.get(each.tokens)) for each in loads]


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[str], None]]:
    """What is going on, on standard error, if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as status:
        yield lambda text: status.update(f"{text} (about {seconds:.0f} s of load in all)")


def _write(path: Path, content: bytes) -> None:
    if str(path) == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        path.write_bytes(content)
    except OSError as exc:
        msg = f"cannot write {path}: {exc.strerror}"
        raise InvalidRequest(msg) from exc
