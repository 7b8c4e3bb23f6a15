"""`emb-provider bench`: how fast a server or a backend is."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from provider.cli.options import FiniteRange, config_option, model_options, single_model_settings

if TYPE_CHECKING:
    from provider.bench.job import BenchJob

N = TypeVar("N", int, float)


class Numbers(click.ParamType, Generic[N]):  # type: ignore[type-arg]  # older versions of click have no arguments
    """Positive numbers, separated by commas."""

    name = "numbers"

    def __init__(self, kind: type[N]) -> None:
        self._kind: type[N] = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[N, ...]:  # noqa: ANN401 - click's signature
        """The numbers, each once, in the order given."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(dict.fromkeys(self._kind(part) for part in str(value).split(",")))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 < each < 1e9 for each in numbers):
            kind = "whole numbers" if self._kind is int else "numbers"
            self.fail(f"{value!r}: expected positive {kind}, separated by commas", param, ctx)
        return numbers


@click.command()
@click.option("--url", help="Server, like http://localhost:9000/v1 [default: the configured model in process].")
@click.option(
    "--against",
    multiple=True,
    metavar="CONTENDER",
    help="Compare with st or st/DTYPE (sentence-transformers), backend:NAME or backend:NAME/DTYPE (in process), URL or "
    "URL#MODEL (a server). Repeatable.",
)
@click.option(
    "--concurrency",
    type=Numbers(int),
    metavar="N,…",
    help="Closed loop: requests at a time [default: 4; without --batch 1 x 1, 64 x 1, 1 x 32, 4 x 32 requests x texts]",
)
@click.option("--batch", type=Numbers(int), metavar="N,…", help="Texts of a request [default: 1].")
@click.option("--rate", type=Numbers(float), metavar="R,…", help="Open loop: requests a second.")
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "even"]),
    default="poisson",
    show_default=True,
    help="Arrivals of an open loop.",
)
@click.option(
    "--lengths",
    type=Numbers(int),
    metavar="N,…",
    help="Tokens of a text, special tokens included [default: texts as they are].",
)
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="Texts, one a line or JSON lines [default: bundled].",
)
@click.option("--field", help="Field of a JSON object that holds the text [default: text].")
@click.option("--repeat-texts", is_flag=True, help="Send the same texts again: measures caches.")
@click.option(
    "--task",
    type=click.Choice(["embed", "rerank"]),
    default="embed",
    show_default=True,
    help="rerank: texts are the documents of one query, and --lengths those of pairs.",
)
@click.option("--seconds", type=FiniteRange(min=0.05), default=2.0, show_default=True, help="Length of a slice.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Slices of each load.")
@click.option(
    "--timeout",
    type=FiniteRange(min=0.05),
    default=60.0,
    show_default=True,
    help="Seconds to wait for the last answers of a slice.",
)
@click.option("--truncate", type=click.Choice(["none", "start", "end"]), help="Sent with every request.")
@click.option(
    "--encoding-format",
    type=click.Choice(["base64", "float"]),
    default="base64",
    show_default=True,
    help="Encoding of servers' answers; OpenAI's clients ask for base64.",
)
@click.option("--api-key", envvar="OPENAI_API_KEY", help="Key of servers [default: $OPENAI_API_KEY].")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write all figures as JSON; -: to standard output, without the table.",
)
@click.option("--plot", type=click.Path(file_okay=False, path_type=Path), help="Folder for plots (PNG).")
@model_options
@config_option
def bench(**options: Any) -> None:  # noqa: ANN401 - see `BenchJob`, which has a field for each
    """Measure how fast a server answers, or a backend runs in process, alone or compared with others.

    Every contender bears every load in every round, in turn; ratios are medians over the rounds.
    """
    from provider.bench.job import run  # noqa: PLC0415 - `--help` must not wait for any of this

    run(bench_job(**options))


def bench_job(
    *,
    config: Path | None,
    model: str | None,
    backend: str | None,
    device: str | None,
    dtype: str | None,
    **options: Any,  # noqa: ANN401
) -> "BenchJob":
    """What the options ask for.

    Raises:
        InvalidRequest: an option has no effect.
        SettingsError: naming the setting at fault.
    """
    from provider.bench.job import BenchJob  # noqa: PLC0415
    from provider.errors import InvalidRequest  # noqa: PLC0415

    is_remote = options["url"] is not None
    if is_remote and (backend or device or dtype):
        msg = "--backend, --device and --dtype choose what runs in process; a server at --url has chosen already"
        raise InvalidRequest(msg)
    if is_remote and all(each.startswith(("http:", "https:")) for each in options["against"]):
        return BenchJob(**options, model=model)
    return BenchJob(**options, model=model, engine=single_model_settings(config, model, backend, device, dtype))
