"""A verification's figures for people and for programs: the table, the conclusion, the JSON document."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from provider.domain import SCORES
from provider.errors import InvalidRequest
from provider.verification import Check, Deviation, VerificationReport

# A file or a pipe has no width of its own.
_WIDTH = 120
# Closer than this, which text is furthest says nothing.
_EQUAL = 1e-6


def write_figures(report: VerificationReport, json_file: Path | None, *, shows_texts: bool) -> None:
    """Print the table, and write everything as JSON if wanted.

    Args:
        report: what was found.
        json_file: where JSON goes; `-` for standard output, and the table then goes to standard error.
        shows_texts: whether the worst texts themselves are shown, too.

    Raises:
        InvalidRequest: the file cannot be written.
    """
    to_terminal = json_file is not None and str(json_file) == "-"
    _show(report, Console(stderr=to_terminal), shows_texts=shows_texts)
    if json_file is None:
        return
    document = json.dumps(report.document(with_texts=shows_texts), indent=2, ensure_ascii=False)
    if to_terminal:
        click.echo(document)
        return
    try:
        json_file.write_text(f"{document}\n", encoding="utf-8")
    except OSError as exc:
        msg = f"cannot write {json_file}: {exc.strerror}"
        raise InvalidRequest(msg) from exc


def _show(report: VerificationReport, console: Console, *, shows_texts: bool) -> None:
    """The table, the verdict, and where the worst texts stand."""
    if not console.is_terminal:
        console.width = _WIDTH
    ours, theirs = report.candidate, report.reference
    console.print(
        f"{report.model}: {ours.backend} {ours.dtype} on {ours.device}, measured against {theirs.backend} "
        f"{theirs.dtype} on {theirs.device} with {report.texts} {'pairs' if SCORES in report.drift else 'texts'}",
        highlight=False,
    )
    console.print(_table(report))
    for output in report.drift:
        worst = [each for each in report.worst if each.output == output]
        if worst and worst[0].drift > _EQUAL:
            places = ", ".join(f"{each.place} ({_drift(each)})" for each in worst)
            label = (
                "furthest from the reference" if len(report.drift) == 1 else f"{output}: furthest from the reference"
            )
            console.print(f"{label}: {places}", highlight=False, soft_wrap=True, markup=False)
    if shows_texts:
        for each in report.worst:
            console.print(f"  {each.place}: {each.text[:200]!r}", highlight=False, soft_wrap=True, markup=False)
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    console.print(_conclusion(report), highlight=False, soft_wrap=True)


def _table(report: VerificationReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what")
    for column in ("measured", "allowed", "noise"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for check in report.checks:
        noise = "-" if check.noise is None else f"{check.noise:.1g}"
        table.add_row(check.meaning, check.shown(check.measured), _allowed(check), noise, _verdict(check))
    return table


def _drift(each: Deviation) -> str:
    """As it is measured: a difference for scores, a cosine for all else."""
    return f"{each.drift:.6f}" if each.output == SCORES else f"{1 - each.drift:.6f}"


def _allowed(check: Check) -> str:
    if check.allowed is None:
        return "-"
    return f"{'≥' if check.bound == 'least' else '≤'} {check.shown(check.allowed)}"


def _verdict(check: Check) -> Text:
    if check.allowed is None:
        return Text("-", style="dim")
    return Text("ok", style="green") if check.passed else Text("FAILED", style="bold red")


def _conclusion(report: VerificationReport) -> Text:
    failed = report.first_failure
    if failed is None:
        return Text(f"PASSED, fingerprint {report.fingerprint}", style="bold green")
    advice = f". Look at: {failed.advice}" if failed.advice else ""
    return Text(f"FAILED: {failed.sentence}{advice}", style="bold red")
