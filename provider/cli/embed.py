"""`emb-provider embed`: texts to vectors, into a file that can be resumed."""

import os
from pathlib import Path
from typing import Any

import click

from provider.cli.options import config_option, input_options, model_options, single_model_settings, split_prompt
from provider.texts.records import ReadOptions


@click.command()
@click.argument("texts", nargs=-1)
@input_options
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="A file, or a folder (it exists, or ends in /) for shards of Parquet [default: standard output].",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["auto", "jsonl", "npy", "parquet"]),
    default="auto",
    show_default=True,
    help="auto goes by the output's name.",
)
@click.option(
    "--rows-per-shard",
    "shard_rows",
    type=click.IntRange(min=1),
    help="Rows of each file in a folder [default: 100000].",
)
@click.option("--restart", is_flag=True, help="Do not continue an interrupted run.")
@click.option(
    "--output-types",
    default="dense",
    show_default=True,
    metavar="NAME,...",
    help="Of dense, sparse, multi_vector. Others than dense are written as JSON lines.",
)
@click.option("--dimensions", type=click.IntRange(min=1), help="Keep the leading dimensions.")
@click.option(
    "--normalize/--no-normalize",
    default=None,
    help="Vectors of length 1, or as they are [default: the model's setting].",
)
@click.option(
    "--truncate",
    type=click.Choice(["none", "start", "end"]),
    help="What happens to longer texts [default: the model's setting].",
)
@click.option("--input-type", help="query or document: prepend the model's prompt for it.")
@click.option("--prompt-name", help="Prepend this prompt of the model.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Engines, each on its share of the cores or a GPU of its own [default: 1].",
)
@click.option(
    "--url",
    "urls",
    multiple=True,
    help="Ask this server, like http://localhost:9000/v1, instead of loading a model. May be given more than once, for "
    "servers with the same model.",
)
@click.option("--api-key", help="Key of --url [default: $OPENAI_API_KEY].")
@click.option("--batch-size", type=click.IntRange(min=1), help="Texts of a request to --url [default: 64].")
@model_options
@config_option
def embed(
    input_format: str,
    field: str | None,
    column: str | None,
    no_header: bool,  # noqa: FBT001 - click passes options by name
    skip_empty: bool,  # noqa: FBT001
    output_types: str,
    dimensions: int | None,
    normalize: bool | None,  # noqa: FBT001
    truncate: Any,  # noqa: ANN401 - one of three words
    input_type: str | None,
    prompt_name: str | None,
    processes: int | None,
    urls: tuple[str, ...],
    api_key: str | None,
    batch_size: int | None,
    model: str | None,
    backend: str | None,
    device: str | None,
    dtype: str | None,
    config: Path | None,
    **rest: Any,  # noqa: ANN401 - see `EmbedJob`
) -> None:
    """Embed TEXTS (- for standard input), the texts in files, or standard input.

    Writes JSON lines (each input's fields and its `embedding`, `sparse` or `multi_vector`), a NumPy array (texts,
    dimensions) of float32, a Parquet file, or a folder of them. A file appears when it is complete; a run that was
    interrupted is continued by the same command. `--model e5:query` puts the prompt of that name before each text.
    """
    from attrs import evolve  # noqa: PLC0415 - `--help` must not wait for any of this

    from provider.bulk.command import run  # noqa: PLC0415
    from provider.bulk.embedder import Options  # noqa: PLC0415
    from provider.bulk.job import DEFAULT_BATCH_SIZE, EmbedJob  # noqa: PLC0415

    outputs = tuple(dict.fromkeys(name.strip().lower() for name in output_types.split(",") if name.strip()))
    job = EmbedJob(
        reading=ReadOptions(input_format, field, column, not no_header, "skip" if skip_empty else "refuse"),
        options=Options(dimensions, truncate, normalize, input_type, prompt_name, outputs),
        **rest,
    )
    if not urls:
        _check_unused("needs --url", api_key=api_key, batch_size=batch_size)
        name, prompt = split_prompt(config, model)
        engine = single_model_settings(config, name, backend, device, dtype)
        run(evolve(job, engine=engine, prompt=prompt, processes=processes or 1))
        return
    why = "does nothing with --url: the server has its own"
    _check_unused(why, backend=backend, device=device, dtype=dtype, config=config, processes=processes)
    key = api_key or os.environ.get("OPENAI_API_KEY")
    run(evolve(job, urls=urls, model=model, api_key=key, batch_size=batch_size or DEFAULT_BATCH_SIZE))


def _check_unused(why: str, **options: object) -> None:
    """An option that would do nothing is an error."""
    from provider.errors import InvalidRequest  # noqa: PLC0415

    for name, value in options.items():
        if value is not None:
            msg = f"--{name.replace('_', '-')} {why}; remove it"
            raise InvalidRequest(msg)
