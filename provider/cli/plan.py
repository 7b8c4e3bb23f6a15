"""`emb-provider plan`: how many machines a load needs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provider.cli.bench import Numbers
from provider.cli.options import FiniteRange, config_option, json_option, model_options, single_model_settings
from provider.cli.progress import steps

if TYPE_CHECKING:
    from provider.planning.profile import CostProfile
    from provider.planning.sizing import Plan

_MIB = 2**20


@click.command()
@click.option("--rate", type=FiniteRange(min=0, min_open=True), required=True, help="Requests a second.")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Texts of a request.")
@click.option(
    "--lengths",
    type=Numbers(int),
    metavar="N,…",
    required=True,
    help="Tokens of a text, special tokens included; of several, each is as likely.",
)
@click.option(
    "--p95",
    type=FiniteRange(min=0, min_open=True),
    required=True,
    metavar="MS",
    help="Milliseconds within which 95 % of the requests are to be answered.",
)
@click.option(
    "--cached",
    type=FiniteRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of the texts that the cache answers; emb_provider_cache_hits_total knows it.",
)
@click.option("--spare", type=click.IntRange(min=0), default=1, show_default=True, help="Replicas that may fail.")
@click.option("--price", type=FiniteRange(min=0), help="Dollars of a replica for an hour.")
@click.option(
    "--profile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What a replica costs, as --save wrote it on such a machine [default: measured on this one].",
)
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write what was measured there.")
@json_option
@model_options
@config_option
def plan(
    rate: float,
    batch: int,
    lengths: tuple[int, ...],
    p95: float,
    cached: float,
    spare: int,
    price: float | None,
    profile: Path | None,
    save: Path | None,
    as_json: bool,  # noqa: FBT001 - click passes it by name
    config: Path | None,
    model: str | None,
    backend: str | None,
    device: str | None,
    dtype: str | None,
) -> None:
    """Say how many replicas serve a load, by a simulation of the scheduler on measured costs.

    One replica is a process with the cores that this command finds, or that the profile has. Requests come at random,
    and a balancer spreads them.
    """
    import msgspec  # noqa: PLC0415 - `--help` must not wait for any of this

    from provider.errors import InvalidRequest  # noqa: PLC0415
    from provider.planning.load import Load  # noqa: PLC0415
    from provider.planning.measure import measure  # noqa: PLC0415
    from provider.planning.profile import CostProfile  # noqa: PLC0415
    from provider.planning.sizing import plan as make  # noqa: PLC0415

    if profile is not None and (model or backend or device or dtype or config or save):
        msg = "--profile says what is served and what it costs: leave out --save and the options that choose a model"
        raise InvalidRequest(msg)
    with steps("plan") as on_step:
        if profile is not None:
            costs = CostProfile.read(profile)
        else:
            costs = measure(single_model_settings(config, model, backend, device, dtype), on_step=on_step)
        if save is not None:
            costs.write(save)
        load = Load(batch, lengths, rate=rate, cached=cached)
        found = make(costs, load, p95_seconds=p95 / 1000, spare=spare, dollars=price, on_step=on_step)
    if as_json:
        click.echo(msgspec.json.encode({"plan": found, "profile": costs}))
        return
    rows = [*_rows(costs, found)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def _rows(profile: "CostProfile", found: "Plan") -> Iterator[tuple[str, str]]:
    lanes = f"{profile.lanes} lane{'s' if profile.lanes > 1 else ''}"
    unit = f"{profile.cores} cores" if profile.is_cpu else f"{profile.device}, {profile.cores} cores"
    yield "a replica", f"{profile.model}, {profile.backend} {profile.dtype}, {lanes}, {unit} ({profile.processor})"
    yield "replicas", f"{found.replicas}, of which {found.spare} may fail"
    yield "of one replica", f"{found.replica_rate:g} requests a second within the latency"
    yield "latency", f"p50 {found.p50_ms:g}, p95 {found.p95_ms:g}, p99 {found.p99_ms:g} ms"
    if found.spare:
        yield "without the spare", f"p95 {found.p95_ms_without_spare:g} ms"
    yield "busy", f"{100 * found.busy:.0f} % of the cores"
    yield "cores", f"{found.cores}"
    yield "memory", f"{found.memory_bytes / _MIB:.0f} MiB, {profile.memory_bytes / _MIB:.0f} each"
    yield "load", f"{found.tokens_per_second:g} tokens a second"
    if found.dollars_per_hour is not None:
        cost = found.dollars_per_billion_tokens
        yield "cost", f"${found.dollars_per_hour:g} an hour, ${cost:g} for a billion tokens"
