"""`emb-provider embed`: its options, and what they ask for."""

from pathlib import Path
from typing import Any

import click

from provider.cli.options import config_option, model_options
from provider.cli.records import FORMATS, ReadOptions


@click.command()
@click.argument("texts", nargs=-1)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A file of texts, plain or gzip; - for standard input. May be given more than once.",
)
@click.option(
    "--input-format",
    type=click.Choice(["auto", *FORMATS]),
    default="auto",
    show_default=True,
    help="One text a line; JSON strings or objects, one a line or in an array; or a table. auto goes by the file's "
    "name, else by its first line.",
)
@click.option("--field", help="The field of a JSON object that holds the text [default: text].")
@click.option(
    "--column", metavar="NAME|N", help="The column of a CSV or TSV file that holds the text, by name or from 1."
)
@click.option("--no-header", is_flag=True, help="The first row of a CSV or TSV file is no header.")
@click.option("--skip-empty", is_flag=True, help="Leave empty texts out, and report them, instead of failing.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write here; without it, or with -, to standard output.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["auto", "jsonl", "npy", "parquet"]),
    default="auto",
    show_default=True,
    help="auto goes by the output's name.",
)
@click.option("--restart", is_flag=True, help="Begin anew instead of going on where an interrupted run ended.")
@click.option("--dimensions", type=click.IntRange(min=1), help="Keep the leading dimensions only.")
@click.option(
    "--normalize/--no-normalize",
    default=None,
    help="Vectors of length 1, or as they are [default: as the model says].",
)
@click.option(
    "--truncate", type=click.Choice(["none", "start", "end"]), help="What happens to texts that are too long."
)
@click.option("--input-type", help="query or document: the model's own prompt for that.")
@click.option("--prompt-name", help="One of the model's prompts.")
@click.option("--url", help="Ask a running server, like http://localhost:9000/v1, instead of loading a model.")
@click.option("--api-key", help="Key for --url [default: $OPENAI_API_KEY].")
@click.option("--batch-size", type=click.IntRange(min=1), help="Texts of one request to --url [default: 64].")
@model_options
@config_option
def embed(
    input_format: str,
    field: str | None,
    column: str | None,
    no_header: bool,  # noqa: FBT001 - click passes options by name
    skip_empty: bool,  # noqa: FBT001
    dimensions: int | None,
    normalize: bool | None,  # noqa: FBT001
    truncate: Any,  # noqa: ANN401 - one of three words
    input_type: str | None,
    prompt_name: str | None,
    **rest: Any,  # noqa: ANN401 - see `EmbedJob`
) -> None:
    """Embed TEXTS (- for standard input), the texts in files, or standard input.

    Writes JSON lines (each input's fields and its `embedding`), a NumPy array (texts, dimensions) of float32, or a
    Parquet file. An output file appears when it is complete; a run that was interrupted is continued by the same
    command.
    """
    from provider.cli.embed.embedder import Options  # noqa: PLC0415 - `--help` must not wait for any of this
    from provider.cli.embed.job import EmbedJob, run  # noqa: PLC0415

    run(
        EmbedJob(
            reading=ReadOptions(input_format, field, column, not no_header, skip_empty),
            options=Options(dimensions, truncate, normalize, input_type, prompt_name),
            **rest,
        )
    )
