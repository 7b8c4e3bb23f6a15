"""`emb-provider serve`: start the service."""

from pathlib import Path

import click

from provider.cli.options import config_option, model_flags, model_options


@click.command()
@model_options
@click.option("--host", help="Address to listen on; 0.0.0.0: all interfaces, :: IPv6 too.")
@click.option("--port", help="Port to listen on; 0: a free one.")
@click.option("--workers", help="Processes that share port and cores.")
@config_option
def serve(
    model: str | None,
    backend: str | None,
    device: str | None,
    dtype: str | None,
    host: str | None,
    port: str | None,
    workers: str | None,
    config: Path | None,
) -> None:
    """Start the service. Flags override the environment, which overrides `.env`, which overrides the file."""
    import sys  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    from provider.app import create_app, read_configuration  # noqa: PLC0415 - `--help` must not wait for litestar
    from provider.configuration import INSTALLED  # noqa: PLC0415
    from provider.cores import available_cores  # noqa: PLC0415
    from provider.server.graceful import run_server  # noqa: PLC0415
    from provider.server.preflight import check_access, check_models, check_store, check_workers  # noqa: PLC0415
    from provider.server.reload import ConfigurationReader  # noqa: PLC0415
    from provider.server.supervisor import run_workers  # noqa: PLC0415
    from provider.settings import DEFAULT_MODEL, Settings  # noqa: PLC0415
    from provider.telemetry.logs import configure_logging  # noqa: PLC0415

    flags = model_flags(model, backend, device, dtype)
    server = {"server.host": host, "server.port": port, "server.workers": workers}
    flags |= {name: value for name, value in server.items() if value is not None}

    def checked(settings: Settings) -> Settings:
        check_workers(settings, cores=available_cores())
        check_access(settings)
        check_models(settings)
        check_store(settings)
        return settings

    configuration = read_configuration(config, flags)
    configure_logging(configuration.settings.log, never_block=True)
    settings = checked(configuration.settings)
    if configuration.sources.get("model.path") == INSTALLED:
        structlog.get_logger("provider.server").info(
            "packaged_model",
            model=settings.model.served_name,
            hint=f"no model is configured; --model {DEFAULT_MODEL} serves that one from the hub",
        )
    reader = ConfigurationReader(settings, lambda: checked(read_configuration(config, flags).settings))
    show_progress = sys.stderr.isatty()
    if settings.server.workers > 1:
        run_workers(reader, show_progress=show_progress)
    else:
        run_server(create_app(settings, show_progress=show_progress), settings.server, reader)
