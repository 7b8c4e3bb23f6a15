"""`emb-provider verify`: proves a configuration against the float32 reference."""

from pathlib import Path

import click

from provider.cli.options import config_option

_COSINE = click.FloatRange(-1, 1)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("model", required=False)
@click.option("--backend", help="A backend that `emb-provider backends` lists.")
@click.option("--device", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--dtype", help="auto, float32, bfloat16, float16, or a name of the backend's own.")
@click.option("--texts", type=_FILE, help="Compare on these texts: one a line, or JSON lines, instead of the bundled.")
@click.option(
    "--pairs", type=_FILE, help="Rank these pairs: first, second, score as CSV, TSV or JSON lines, not the bundled."
)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), help="- for the terminal."
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the drift to a .svg or .png file.")
@click.option("--show-texts", is_flag=True, help="Show the worst texts themselves, not only where they stand.")
@click.option("--no-peer", is_flag=True, help="Do not compare with sentence-transformers, even if it is installed.")
@click.option("--min-cosine", type=_COSINE, help="Smallest cosine of a text with the reference.")
@click.option("--min-odd-cosine", type=_COSINE, help="The same for odd texts, such as a single letter.")
@click.option("--min-mean-cosine", type=_COSINE, help="Mean cosine with the reference.")
@click.option("--min-invariance", type=_COSINE, help="Smallest cosine of a text alone with itself beside others.")
@click.option("--min-overlap", type=click.FloatRange(0, 1), help="Share of the nearest ten that is the same.")
@click.option("--max-spearman-drop", type=click.FloatRange(min=0), help="Points of 100 below the reference.")
@click.option("--min-speedup", type=click.FloatRange(min=0), help="Times as fast as the reference.")
@config_option
def verify(
    model: str | None,
    backend: str | None,
    device: str | None,
    dtype: str | None,
    texts: Path | None,
    pairs: Path | None,
    json_file: Path | None,
    plot: Path | None,
    show_texts: bool,  # noqa: FBT001 - click passes it by name
    no_peer: bool,  # noqa: FBT001
    config: Path | None,
    **limits: float | None,
) -> None:
    """Compare MODEL (a name, a folder or package:NAME/FOLDER) with the float32 reference, figure by figure.

    What is allowed depends on the dtype; the options --min-… and --max-… change it. Exits with 0 if everything is
    within bounds, 1 if something is not or the model cannot run, 2 if the command line or a setting is wrong.
    """
    from provider.cli.verification import VerifyJob, run  # noqa: PLC0415 - `--help` must not wait for the engine
    from provider.errors import InvalidRequest  # noqa: PLC0415

    job = VerifyJob(
        model=model,
        backend=backend,
        device=device,
        dtype=dtype,
        config=config,
        texts=texts,
        pairs=pairs,
        json_file=json_file,
        plot=plot,
        shows_texts=show_texts,
        wants_peer=not no_peer,
        limits={name: value for name, value in limits.items() if value is not None},
    )
    try:
        has_passed = run(job)
    except InvalidRequest as exc:
        # A file that cannot be read or written as asked is the command line's fault.
        raise click.UsageError(exc.message) from exc
    click.get_current_context().exit(0 if has_passed else 1)
