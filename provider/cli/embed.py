"""`emb-provider embed`: texts, files or standard input to vectors, without a server."""

from pathlib import Path

import click

from provider.cli.options import config_option, model_options


@click.command()
@click.argument("texts", nargs=-1)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A file of texts, - for standard input; may be given more than once.",
)
@click.option(
    "--input-format",
    type=click.Choice(["auto", "lines", "jsonl"]),
    default="auto",
    show_default=True,
    help="One text a line, or one JSON string or object a line; auto goes by the file's name.",
)
@click.option("--field", default="text", show_default=True, help="The field of a JSON object that holds the text.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write here, not to the terminal."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["auto", "jsonl", "npy", "parquet"]),
    default="auto",
    show_default=True,
    help="auto goes by the output's name.",
)
@click.option("--dimensions", type=click.IntRange(min=1), help="Keep the leading dimensions only.")
@click.option(
    "--truncate", type=click.Choice(["none", "start", "end"]), help="What happens to texts that are too long."
)
@click.option("--input-type", help="query or document: the model's own prompt for that.")
@click.option("--prompt-name", help="One of the model's prompts.")
@model_options
@config_option
def embed(
    texts: tuple[str, ...],
    files: tuple[Path, ...],
    input_format: str,
    field: str,
    output: Path | None,
    output_format: str,
    dimensions: int | None,
    truncate: str | None,
    input_type: str | None,
    prompt_name: str | None,
    model: str | None,
    backend: str | None,
    device: str | None,
    dtype: str | None,
    config: Path | None,
) -> None:
    """Embed TEXTS, the texts in files, or standard input.

    Writes JSON lines (each input and its `embedding`), a NumPy array (texts, dimensions) of float32, or a Parquet file.
    Vectors have length 1. An output file appears when it is complete, or not at all.
    """
    from provider.cli.embedding import EmbedJob, run  # noqa: PLC0415 - `--help` must not wait for the engine

    job = EmbedJob(
        texts=texts,
        files=files,
        input_format=input_format,
        field=field,
        output=output,
        output_format=output_format,
        dimensions=dimensions,
        truncate=truncate,
        input_type=input_type,
        prompt_name=prompt_name,
    )
    run(job, model=model, backend=backend, device=device, dtype=dtype, config=config)
