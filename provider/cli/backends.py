"""`emb-provider backends`: what is installed."""

import click


@click.command()
@click.option("--check", is_flag=True, help="Import each one too, and say what fails.")
def backends(check: bool) -> None:  # noqa: FBT001 - click passes it by name
    """List the installed backends: name, where it is, which distribution brings it. Nothing is imported."""
    from provider.backends.registry import find_backend, installed_backends  # noqa: PLC0415
    from provider.errors import BackendError  # noqa: PLC0415

    for name, points in installed_backends().items():
        for point in points:
            owner = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown distribution"
            line = f"{name}\t{point.value}\t{owner}"
            if check:
                try:
                    find_backend(name)
                    line += "\tok"
                except BackendError as exc:
                    line += f"\t{exc.message}"
            click.echo(line)
