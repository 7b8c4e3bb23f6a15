"""The work behind `emb-provider bench`: from options to contenders, loads, figures and files."""

import itertools
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import msgspec
from attrs import frozen
from rich.console import Console

from provider.backends.registry import find_entry_point
from provider.cli.bench.contenders import Contender, started
from provider.cli.bench.messages import (
    Arrivals,
    EngineSetup,
    LibrarySetup,
    Load,
    ServerSetup,
    Setup,
    Texts,
)
from provider.cli.bench.report import build_report
from provider.cli.bench.rounds import Plan, run_rounds
from provider.cli.bench.table import show
from provider.cli.bench.texts import SHIPPED, TextPool
from provider.cli.endpoint import Endpoint
from provider.cli.records import ReadOptions, read_records
from provider.errors import ContenderFailed, InvalidRequest

# What clients do: one after the other, many at once, and documents in bulk, alone and several.
_USUAL = ((1, 1), (64, 1), (1, 32), (4, 32))
_DEFAULT_CONCURRENCY, _DEFAULT_BATCH = 4, 1


@frozen
class Bench:
    """What was asked for on the command line; see `emb-provider bench --help`."""

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
    seconds: float
    rounds: int
    timeout: float
    truncate: str | None
    encoding_format: str
    api_key: str | None
    json_file: Path | None
    plot: Path | None
    model: str | None
    backend: str | None
    device: str | None
    dtype: str | None
    config: Path | None

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
            InvalidRequest: an option that means nothing here, or no contender of that kind.
        """
        engine = EngineSetup(
            texts,
            config=str(self.config) if self.config else None,
            model=self.model,
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            truncate=self.truncate,
        )
        if self.url is None:
            return [engine, *(self._rival(each, engine) for each in self.against)]
        if self.backend or self.device or self.dtype:
            msg = "--backend, --device and --dtype choose what runs in process; a server at --url has chosen already"
            raise InvalidRequest(msg)
        return [self._server(self.url, engine), *(self._rival(each, engine) for each in self.against)]

    def _rival(self, name: str, engine: EngineSetup) -> Setup:
        kind, _, rest = name.partition(":")
        if name == "st":
            if find_spec("sentence_transformers") is None:
                msg = "--against st needs sentence-transformers: pip install sentence-transformers"
                raise InvalidRequest(msg)
            return LibrarySetup(engine.texts, config=engine.config, model=engine.model, device=engine.device)
        if kind == "backend" and rest:
            backend, _, dtype = rest.partition("/")
            find_entry_point(backend)
            return msgspec.structs.replace(engine, backend=backend, dtype=dtype or engine.dtype)
        if kind in ("http", "https"):
            return self._server(name, engine)
        msg = f"--against {name!r}: expected st, backend:NAME, backend:NAME/DTYPE, URL or URL#MODEL"
        raise InvalidRequest(msg)

    def _server(self, url: str, engine: EngineSetup) -> ServerSetup:
        base, _, model = url.partition("#")
        Endpoint.of(base)
        return ServerSetup(
            base,
            engine.texts,
            model=model or (self.model if url == self.url else None),
            api_key=self.api_key,
            encoding_format=self.encoding_format,
            truncate=self.truncate,
        )


def run(job: Bench) -> None:
    """Measure, show, write.

    Raises:
        ProviderError: an option is wrong, a contender is not there, or nothing was answered.
    """
    began = datetime.now(UTC)
    if job.plot is not None and find_spec("matplotlib") is None:
        msg = "--plot needs matplotlib: pip install 'emb-provider[plots]'"
        raise InvalidRequest(msg)
    records = read_records((), [job.texts or SHIPPED], ReadOptions(field=job.field))
    sentences = tuple(record.text for record in records.texts)
    texts = Texts(sentences, repeat=job.repeat_texts)
    loads, plan = job.loads(), Plan(job.seconds, job.rounds, job.timeout, seed=secrets.randbits(32))
    setups = job.setups(texts)
    with _progress(plan.total_seconds(len(loads), len(setups))) as tell:
        tell("starting")
        with started(setups) as contenders:
            loads = _in_words(loads, texts, contenders[0])
            outcomes = run_rounds(contenders, loads, plan, tell)
    report = build_report(
        contenders,
        loads,
        outcomes,
        plan=plan,
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
        from provider.cli.bench.plots import draw  # noqa: PLC0415 - an extra

        for path in draw(report, job.plot):
            sys.stderr.write(f"wrote {path}\n")
    silent = [
        each.name for each in report.contenders if not any(r.texts for r in report.results if r.contender == each.name)
    ]
    if silent:
        msg = f"{', '.join(silent)}: not one request was answered with vectors; the table has the errors"
        raise ContenderFailed(msg)


def _in_words(loads: Sequence[Load], texts: Texts, first: Contender) -> list[Load]:
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
