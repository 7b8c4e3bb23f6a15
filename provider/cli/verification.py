"""The work behind `emb-provider verify`: load, measure, show."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
import click
from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from provider.cli.chosen import chosen_model
from provider.cli.histogram import check_plot, draw
from provider.cli.pairs import read_pairs
from provider.cli.records import read_records
from provider.cores import available_cores
from provider.domain import Worker
from provider.engine.loading import find_model, load_parts
from provider.engine.verification import Check, Corpus, Peer, Report, Text, Thresholds, verify
from provider.errors import BackendUnavailable, InvalidRequest
from provider.telemetry.logs import configure_logging

# A file or a pipe has no width of its own.
_WIDTH = 110
# Closer than this, which text is furthest says nothing.
_EQUAL = 0.999999
# A text of the caller's from which on it is a passage.
_PASSAGE_CHARACTERS = 400


@frozen
class VerifyJob:
    """What was asked for on the command line; see `emb-provider verify --help`."""

    model: str | None
    backend: str | None
    device: str | None
    dtype: str | None
    config: Path | None
    texts: Path | None
    pairs: Path | None
    json_file: Path | None
    plot: Path | None
    shows_texts: bool
    wants_peer: bool
    limits: Mapping[str, float]


def run(job: VerifyJob) -> bool:
    """Measure, show the table, and write what else was asked for.

    Returns:
        Whether every figure is within bounds.

    Raises:
        InvalidRequest: a file of the command line is at fault.
        ProviderError: a setting, the model or its backend is.
    """
    settings = chosen_model(job.config, job.model, job.backend, job.device, job.dtype)
    configure_logging(attrs.evolve(settings.log, level="WARNING"))
    corpus = _corpus(job)
    if job.plot is not None:
        check_plot(job.plot)
    model = settings.model
    with _steps() as on_step:
        on_step("loading the model")
        found = find_model(
            model, settings.hub, show_progress=sys.stderr.isatty(), notify_download=lambda _phase, _detail: None
        )
        # The share of the cores that each of the server's processes would have.
        parts = load_parts(found, model, Worker(0, settings.server.workers))
        try:
            thresholds = attrs.evolve(Thresholds.of(parts.backend.traits.dtype), **job.limits)
            peer, note = _peer(parts.source.folder, on_step) if job.wants_peer else (None, None)
            report = verify(parts, model, corpus, thresholds, peer=peer, on_step=on_step)
        finally:
            parts.backend.close()
    if note is not None:
        report = attrs.evolve(report, notes=(*report.notes, note))
    _write(report, job)
    return report.passed


def _corpus(job: VerifyJob) -> Corpus:
    corpus = Corpus.bundled()
    texts: list[Text] = []
    if job.pairs is not None:
        pairs = read_pairs(job.pairs)
        corpus = attrs.evolve(corpus, pairs=tuple(pair for pair, _ in pairs))
        places: dict[str, int] = {}
        for pair, line in pairs:
            places.setdefault(pair.first, line)
            places.setdefault(pair.second, line)
        texts = [_text(text, f"{job.pairs}, line {line}") for text, line in places.items()]
    if job.texts is not None:
        texts = [_text(record.text, record.place) for record in read_records([], [job.texts]).texts]
    return corpus.with_sentences(texts) if texts else corpus


def _text(text: str, place: str) -> Text:
    return Text(text, place, "passage" if len(text) > _PASSAGE_CHARACTERS else "sentence")


def _peer(folder: Path, on_step: Callable[[str], None]) -> tuple[Peer | None, str | None]:
    """sentence-transformers, or a sentence that says why there is none."""
    from provider.backends.torch_peer import SentenceTransformersPeer  # noqa: PLC0415 - it brings torch

    on_step("loading sentence-transformers")
    try:
        return SentenceTransformersPeer.load(folder, threads=available_cores()), None
    except BackendUnavailable as exc:
        return None, f"not compared with sentence-transformers: {exc.message}"


@contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """What is being done, on standard error: a spinner on a terminal, a line each elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: click.echo(f"verify: {step}", err=True)
        return
    with console.status("starting") as status:
        yield status.update


def _write(report: Report, job: VerifyJob) -> None:
    to_terminal = job.json_file is not None and str(job.json_file) == "-"
    _show(report, Console(stderr=to_terminal), shows_texts=job.shows_texts)
    if job.plot is not None:
        draw(report, job.plot)
    if job.json_file is None:
        return
    document = json.dumps(report.document(with_texts=job.shows_texts), indent=2, ensure_ascii=False)
    if to_terminal:
        click.echo(document)
        return
    try:
        job.json_file.write_text(f"{document}\n", encoding="utf-8")
    except OSError as exc:
        msg = f"cannot write {job.json_file}: {exc.strerror}"
        raise InvalidRequest(msg) from exc


def _show(report: Report, console: Console, *, shows_texts: bool) -> None:
    """The table, the verdict, and where the worst texts stand."""
    if not console.is_terminal:
        console.width = _WIDTH
    ours, theirs = report.candidate, report.reference
    console.print(
        f"{report.model}: {ours.backend} {ours.dtype} on {ours.device}, measured against {theirs.backend} "
        f"{theirs.dtype} on {theirs.device} with {report.texts} texts",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what")
    for column in ("measured", "allowed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for check in report.checks:
        table.add_row(check.meaning, check.shown(check.measured), _allowed(check), _verdict(check))
    console.print(table)
    if report.worst and report.worst[0].cosine < _EQUAL:
        places = ", ".join(f"{each.place} ({each.cosine:.6f})" for each in report.worst)
        console.print(f"furthest from the reference: {places}", highlight=False, soft_wrap=True, markup=False)
    if shows_texts:
        for each in report.worst:
            console.print(f"  {each.place}: {each.text[:200]!r}", highlight=False, soft_wrap=True, markup=False)
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    console.print(_conclusion(report), highlight=False, soft_wrap=True)


def _allowed(check: Check) -> str:
    if check.allowed is None:
        return "-"
    return f"{'≥' if check.bound == 'least' else '≤'} {check.shown(check.allowed)}"


def _verdict(check: Check) -> Styled:
    if check.allowed is None:
        return Styled("-", style="dim")
    return Styled("ok", style="green") if check.passed else Styled("FAILED", style="bold red")


def _conclusion(report: Report) -> Styled:
    failed = report.first_failure
    if failed is None:
        return Styled(f"PASSED, fingerprint {report.fingerprint}", style="bold green")
    advice = f". Look at: {failed.advice}" if failed.advice else ""
    return Styled(f"FAILED: {failed.sentence}{advice}", style="bold red")
