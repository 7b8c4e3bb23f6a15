"""`emb-provider rerank`: documents by their relevance to a query, scored by the engine in this process."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from provider.cli.options import config_option, input_options, model_options, single_model_settings
from provider.cli.progress import steps
from provider.errors import InvalidRequest
from provider.texts.reading import read_records
from provider.texts.records import Places, ReadOptions, Record

if TYPE_CHECKING:
    import numpy as np

    from provider.domain import Scored, ScoreRequest
    from provider.settings import Settings

    Ranked = tuple[int, np.float32, Record]

_SHOWN_CHARACTERS = 200


@click.command()
@click.argument("query")
@click.argument("documents", nargs=-1)
@input_options
@click.option("-n", "--top-n", type=click.IntRange(min=1), help="Number of results [default: all].")
@click.option(
    "--truncate",
    type=click.Choice(["none", "end"]),
    help="What happens to longer pairs [default: the model's setting].",
)
@click.option("--max-tokens-per-doc", type=click.IntRange(min=1), help="Cut each document to this length first.")
@click.option("--raw-scores", is_flag=True, help="Logits instead of activated scores.")
@click.option("--instruction", help="For models whose template has one.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["auto", "table", "jsonl"]),
    default="auto",
    show_default=True,
    help="auto: a table on a terminal, else JSON lines.",
)
@model_options
@config_option
def rerank(
    query: str,
    documents: tuple[str, ...],
    files: tuple[Path, ...],
    input_format: str,
    field: str | None,
    column: str | None,
    no_header: bool,  # noqa: FBT001 - click passes options by name
    skip_empty: bool,  # noqa: FBT001
    top_n: int | None,
    truncate: Any,  # noqa: ANN401 - one of two words
    max_tokens_per_doc: int | None,
    raw_scores: bool,  # noqa: FBT001
    instruction: str | None,
    output_format: str,
    **model_choice: Any,  # noqa: ANN401 - see `single_model_settings`
) -> None:
    """Put DOCUMENTS (- for standard input), those in files, or those on standard input in the order of their relevance.

    Writes a table, or JSON lines with `index`, `relevance_score` and `document`, the best first. No server is needed.
    """
    from provider.domain import ScoreRequest  # noqa: PLC0415 - `--help` must not wait for any of this
    from provider.telemetry.logs import configure_logging  # noqa: PLC0415

    if not query:
        msg = "the query is empty; give a text to rank the documents by"
        raise InvalidRequest(msg)
    settings = single_model_settings(**model_choice)
    configure_logging(settings.log)
    records = read_records(
        documents, files, ReadOptions(input_format, field, column, not no_header, "skip" if skip_empty else "keep")
    )
    request = ScoreRequest(
        settings.model.served_name,
        tuple(record.text for record in records.texts),
        (query,),
        truncate=truncate,
        max_document_tokens=max_tokens_per_doc,
        raw=raw_scores,
        instruction=instruction,
    )
    scored, seconds = asyncio.run(_scored(settings, request, records.texts))
    results = _ranked(scored, records.texts)[:top_n]
    if output_format == "table" or (output_format == "auto" and sys.stdout.isatty()):
        _print_table(results)
    else:
        for result in results:
            click.echo(orjson.dumps(_line(*result), option=orjson.OPT_SERIALIZE_NUMPY))
    cut = Places()
    for each in scored.truncated:
        cut.add(records.texts[each.index].place)
    parts = [
        f"{len(records.texts)} documents, {scored.usage.tokens} tokens in {seconds:.1f} s",
        *([f"{cut.count} too long and cut ({cut})"] if cut else []),
        *([f"{records.skipped.count} empty and skipped ({records.skipped})"] if records.skipped else []),
        f"model {request.model}, fingerprint {scored.fingerprint}",
    ]
    click.echo(f"emb-provider: {'; '.join(parts)}", err=True)


async def _scored(settings: "Settings", request: "ScoreRequest", records: Sequence[Record]) -> tuple["Scored", float]:
    """The scores, and the seconds that they took."""
    from provider.bulk.engine import loaded  # noqa: PLC0415
    from provider.bulk.phrases import naming  # noqa: PLC0415
    from provider.domain import ScoreTask  # noqa: PLC0415
    from provider.tasks.scores import check_one_label  # noqa: PLC0415

    with steps("rerank", speaks_to_files=False) as on_step:
        on_step("loading the model")
        async with loaded(settings) as (engine, model):
            task = model.spec.find(ScoreTask)
            if task is not None:
                check_one_label(task, model=request.model)
            on_step(f"scoring {len(records)} documents")
            started = time.perf_counter()
            with naming(records):
                scored = await engine.score(request)
            return scored, time.perf_counter() - started


def _ranked(scored: "Scored", records: Sequence[Record]) -> list["Ranked"]:
    scores = list(scored.scores[:, 0])
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [(index, scores[index], records[index]) for index in order]


def _line(index: int, score: "np.float32", record: Record) -> dict[str, Any]:
    document = {"text": record.text} if record.fields is None else record.fields
    return {"index": index, "relevance_score": score, "document": document}


def _print_table(results: "Sequence[Ranked]") -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Column, Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(Column("score", justify="right", no_wrap=True), "document", Column("text", overflow="fold"))
    for _, score, record in results:
        text = " ".join(record.text.split())
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
        table.add_row(f"{score:.4f}", Text(record.place), Text(shown))
    Console().print(table)
