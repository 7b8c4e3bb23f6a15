"""`emb-provider verify`: proves a configuration against the float32 reference."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provider.cli.options import FiniteRange, config_option, run_options, single_model_settings
from provider.cli.progress import steps

if TYPE_CHECKING:
    from provider.settings import Settings
    from provider.verification import Corpus, Text, VerificationReport

_COSINE = FiniteRange(-1, 1)
_SHARE = FiniteRange(0, 1)
_POSITIVE = FiniteRange(min=0)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
# A text of the caller's from which on it is a passage.
_PASSAGE_CHARACTERS = 400


@click.command()
@click.argument("model", required=False)
@run_options
@click.option("--texts", type=_FILE, help="Texts, one a line or JSON lines [default: bundled].")
@click.option(
    "--pairs", type=_FILE, help="Scored pairs: first, second, score as CSV, TSV or JSON lines [default: bundled]."
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write all figures as JSON; -: to standard output.",
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the drift (.svg or .png).")
@click.option("--show-texts", is_flag=True, help="Print the worst texts, not only their places.")
@click.option("--no-peer", is_flag=True, help="Do not compare with sentence-transformers.")
@click.option("--min-cosine", type=_COSINE, help="Vectors: smallest cosine of a text with the reference.")
@click.option("--min-odd-cosine", type=_COSINE, help="Vectors: the same for odd texts.")
@click.option("--min-mean-cosine", type=_COSINE, help="Vectors: mean cosine with the reference.")
@click.option("--min-invariance", type=_COSINE, help="Vectors: smallest cosine of a text alone and beside others.")
@click.option("--min-overlap", type=_SHARE, help="Vectors: share of common nearest ten.")
@click.option("--max-spearman-drop", type=_POSITIVE, help="Vectors: points of 100 below the reference.")
@click.option("--max-score-difference", type=_POSITIVE, help="Scores: largest difference to the reference.")
@click.option("--max-flips", type=_SHARE, help="Scores: share of document pairs in another order.")
@click.option("--min-kendall-tau", type=_COSINE, help="Scores: Kendall's tau with the reference, mean.")
@click.option("--min-speedup", type=_POSITIVE, help="Times as fast as the reference.")
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

    Bounds depend on the dtype and the model's settings; --min-… and --max-… change them. Exits with 1 if a figure is
    out of bounds or the model cannot run.
    """
    from provider.cli.figures import write_figures  # noqa: PLC0415 - `--help` must not wait for the engine
    from provider.errors import InvalidRequest  # noqa: PLC0415
    from provider.telemetry.logs import configure_logging  # noqa: PLC0415
    from provider.verification.histogram import check_plot, draw  # noqa: PLC0415

    try:
        settings = single_model_settings(config, model, backend, device, dtype)
        configure_logging(settings.log)
        corpus = _corpus(texts, pairs)
        if plot is not None:
            check_plot(plot)
        given = {name: value for name, value in limits.items() if value is not None}
        report = _verified(settings, corpus, given, wants_peer=not no_peer)
        write_figures(report, json_file, shows_texts=show_texts)
        if plot is not None:
            draw(report, plot)
    except InvalidRequest as exc:
        # A file that cannot be read or written as asked is the command line's fault.
        raise click.UsageError(exc.message) from exc
    click.get_current_context().exit(0 if report.passed else 1)


def _verified(
    settings: "Settings", corpus: "Corpus", limits: Mapping[str, float], *, wants_peer: bool
) -> "VerificationReport":
    """Load the model of `settings` as the server would, and measure it.

    Raises:
        InvalidRequest: a bound of `limits` is for another task.
        ProviderError: a setting, the model or its backend is at fault.
    """
    import attrs  # noqa: PLC0415

    from provider import verification  # noqa: PLC0415
    from provider.cores import Worker  # noqa: PLC0415
    from provider.engine.finding import find_model  # noqa: PLC0415
    from provider.engine.loading import load_parts  # noqa: PLC0415
    from provider.engine.settling import settled  # noqa: PLC0415

    model = settings.model
    with steps("verify") as on_step:
        on_step("loading the model")
        found = find_model(
            model, settings.hub, show_progress=sys.stderr.isatty(), notify_download=lambda _phase, _detail: None
        )
        # The share of the cores that each of the server's processes would have.
        parts = settled(load_parts(found, model, Worker(0, settings.server.workers)))
        try:
            thresholds = verification.thresholds_for(parts.spec, parts.backend.traits.dtype, model, limits)
            peer = note = None
            if wants_peer:
                on_step("loading sentence-transformers")
                peer, note = verification.load_peer(parts)
            report = verification.verify(parts, model, corpus, thresholds, peer=peer, on_step=on_step)
        finally:
            parts.backend.close()
    return report if note is None else attrs.evolve(report, notes=(*report.notes, note))


def _corpus(texts: Path | None, pairs: Path | None) -> "Corpus":
    """The bundled texts, or the caller's in their place."""
    import attrs  # noqa: PLC0415

    from provider.texts.reading import read_records  # noqa: PLC0415
    from provider.verification import Corpus  # noqa: PLC0415
    from provider.verification.pair_file import read_pairs  # noqa: PLC0415

    corpus, own = Corpus.bundled(), list["Text"]()
    if pairs is not None:
        scored = read_pairs(pairs)
        corpus = attrs.evolve(corpus, pairs=tuple(pair for pair, _ in scored))
        lines: dict[str, int] = {}
        for pair, line in scored:
            lines.setdefault(pair.first, line)
            lines.setdefault(pair.second, line)
        own = [_text(text, f"{pairs}, line {line}") for text, line in lines.items()]
    if texts is not None:
        own = [_text(record.text, record.place) for record in read_records([], [texts]).texts]
    return corpus.with_sentences(own) if own else corpus


def _text(text: str, place: str) -> "Text":
    from provider.verification import Text  # noqa: PLC0415

    return Text(text, place, "passage" if len(text) > _PASSAGE_CHARACTERS else "sentence")
