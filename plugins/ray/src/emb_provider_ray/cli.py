"""`emb-provider-ray`: the service on Ray, from the command line."""

import signal
import threading
from pathlib import Path

import click

from provider.cli import run_cli
from provider.cli.options import config_option, model_flags, model_options
from provider.process import cleaning_up_after_signals, exiting_at_once, handled_signals


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """emb-provider on Ray."""


@cli.command()
@model_options
@click.option("--host", help="Address to listen on; 0.0.0.0 for every interface, :: for IPv6 too.")
@click.option("--port", help="Port to listen on, on every node.")
@click.option("--workers", help="Processes that answer HTTP.")
@click.option("--address", help="Cluster to serve on, such as auto; none: one of this machine, until the command ends.")
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(0), help="Fewest replicas of a model.")
@click.option("--max-replicas", type=click.IntRange(1), help="Most replicas of a model  [default: as --replicas].")
@click.option("--num-cpus", default=1.0, show_default=True, help="Cores of a replica.")
@click.option("--num-gpus", default=0.0, show_default=True, help="Accelerators of a replica.")
@click.option("--ingress-cpus", default=1.0, show_default=True, help="Cores of a process that answers HTTP.")
@config_option
def serve(
    model: str | None,
    backend: str | None,
    device: str | None,
    dtype: str | None,
    host: str | None,
    port: str | None,
    workers: str | None,
    address: str | None,
    replicas: int,
    max_replicas: int | None,
    num_cpus: float,
    num_gpus: float,
    ingress_cpus: float,
    config: Path | None,
) -> None:
    """Serve the configuration on a cluster. A second call updates it without losing a request.

    --replicas and the options after it are for models whose backend is not ray: others have them under `options:`.
    """
    from emb_provider_ray.application import application  # noqa: PLC0415 - `--help` must not wait for ray
    from emb_provider_ray.deploying import connected, deploy  # noqa: PLC0415
    from emb_provider_ray.placement import of_replicas, with_options  # noqa: PLC0415
    from provider.app import read_configuration  # noqa: PLC0415
    from provider.server.preflight import check_access, check_models  # noqa: PLC0415
    from provider.telemetry.logs import configure_logging  # noqa: PLC0415

    flags = model_flags(model, backend, device, dtype)
    server = {"server.host": host, "server.port": port, "server.workers": workers}
    flags |= {name: value for name, value in server.items() if value is not None}
    settings = with_options(
        read_configuration(config, flags).settings,
        replicas=replicas,
        max_replicas=max_replicas,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    # What is wrong is said before a cluster starts.
    application(settings, ingress_cpus=ingress_cpus)
    check_models(of_replicas(settings, is_here=address is None))
    check_access(settings)
    configure_logging(settings.log)
    with connected(address, settings.server):
        # Only now: connecting, Ray puts handlers of its own in their place, after which the process aborts.
        with cleaning_up_after_signals():
            deploy(settings, ingress_cpus=ingress_cpus, may_grow=address is not None)
        names = ", ".join(each.served_name for each in settings.all_models())
        click.echo(f"emb-provider: {names} at port {settings.server.port}", err=True)
        if address is None:
            _wait_for_signal()


def _wait_for_signal() -> None:
    ended = threading.Event()
    for each in handled_signals():
        signal.signal(each, lambda *_: ended.set())
    ended.wait()


def main() -> None:
    """The entry point: `run_cli`, and the end of the process."""
    with exiting_at_once():
        run_cli(cli, "emb-provider-ray")
