"""`emb-provider serve`: start the service."""

from pathlib import Path

import click

from provider.cli.options import config_option, model_flags, model_options


@click.command()
@model_options
@click.option("--host", help="Address to listen on; 0.0.0.0 for every interface.")
@click.option("--port", help="Port to listen on; 0 picks a free one.")
@config_option
def serve(
    model: str | None,
    backend: str | None,
    device: str | None,
    dtype: str | None,
    host: str | None,
    port: str | None,
    config: Path | None,
) -> None:
    """Start the service. Flags win over the environment, the environment over `.env`, that over the file."""
    import sys  # noqa: PLC0415

    from provider.app import create_app, read_configuration  # noqa: PLC0415 - `--help` must not wait for litestar
    from provider.cli.preflight import check_models  # noqa: PLC0415
    from provider.cli.server import run_server  # noqa: PLC0415
    from provider.telemetry.logs import configure_logging  # noqa: PLC0415

    flags = model_flags(model, backend, device, dtype)
    flags |= {name: value for name, value in (("server.host", host), ("server.port", port)) if value is not None}
    settings = read_configuration(config, flags).settings
    configure_logging(settings.log)
    check_models(settings)
    run_server(create_app(settings, show_progress=sys.stderr.isatty()), settings.server)
