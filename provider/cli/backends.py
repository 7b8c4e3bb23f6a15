"""`emb-provider backends`: what is installed."""

import click


@click.command()
@click.option("--check", is_flag=True, help="Also import each one; exit with 1 if one fails.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def backends(check: bool, as_json: bool) -> None:  # noqa: FBT001 - click passes them by name
    """List the installed backends: name, class, distribution. Nothing is imported."""
    import json  # noqa: PLC0415 - `--help` must not wait for any of this

    from provider.backends.registry import find_backend, installed_backends  # noqa: PLC0415
    from provider.entry_points import distribution  # noqa: PLC0415
    from provider.errors import BackendError  # noqa: PLC0415

    rows = []
    for name, points in installed_backends().items():
        problem = None
        if check:
            try:
                find_backend(name)
            except BackendError as exc:
                problem = exc.message
        for point in points:
            owner = distribution(point)
            rows.append({"name": name, "class": point.value, "distribution": owner, "problem": problem})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        for row in rows:
            outcome = [row["problem"] or "ok"] if check else []
            click.echo("\t".join([str(row["name"]), str(row["class"]), str(row["distribution"]), *outcome]))
    click.get_current_context().exit(1 if any(row["problem"] for row in rows) else 0)
