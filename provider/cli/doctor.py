"""`emb-provider doctor`: what this machine can do, and what to serve with."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provider.cli.options import FiniteRange, complete_backends, config_option, json_option, single_model_settings
from provider.cli.progress import steps

if TYPE_CHECKING:
    from provider.doctor.cache_store import CacheStore
    from provider.doctor.machine import Machine
    from provider.doctor.recommendation import Recommendation, Trial

_GIB = 2**30


@click.command()
@click.argument("model", required=False)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    shell_complete=complete_backends,
    help="Measure this backend only; may be given more than once [default: all installed ones].",
)
@click.option("--device", help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--seconds",
    type=FiniteRange(min=1),
    default=60.0,
    show_default=True,
    help="Most time for loading and measuring; what takes longer is left out.",
)
@click.option("--exact", is_flag=True, help="Measure float32 only.")
@click.option("--no-measure", is_flag=True, help="Only say what there is.")
@json_option
@config_option
def doctor(
    model: str | None,
    backends: tuple[str, ...],
    device: str | None,
    seconds: float,
    exact: bool,  # noqa: FBT001
    no_measure: bool,  # noqa: FBT001 - click passes it by name
    as_json: bool,  # noqa: FBT001
    config: Path | None,
) -> None:
    """Say what this machine can do, and which backend and dtype are the fastest for MODEL on it, measured.

    MODEL is a configured name, a folder or package:NAME/FOLDER [default: the configured model]. Nothing is downloaded.
    Exits with 1 if no backend gives the right outputs.
    """
    import json  # noqa: PLC0415 - `--help` must not wait for any of this

    import attrs  # noqa: PLC0415
    import msgspec  # noqa: PLC0415

    from provider.doctor.cache_store import CacheStore  # noqa: PLC0415
    from provider.doctor.machine import Machine  # noqa: PLC0415
    from provider.doctor.recommendation import recommend  # noqa: PLC0415
    from provider.errors import ProviderError  # noqa: PLC0415

    settings = single_model_settings(config, model, device=device)
    settings = attrs.evolve(settings, hub=attrs.evolve(settings.hub, offline=True))
    found, problem = None, None
    with steps("doctor") as on_step:
        on_step("looking at the machine")
        machine = Machine.here()
        store = CacheStore.configured(settings.cache.store)
        if not no_measure:
            try:
                found = recommend(settings, machine, backends, most_seconds=seconds, on_step=on_step, exact=exact)
            except ProviderError as exc:
                problem = exc.message
    if as_json:
        document = {
            "machine": msgspec.to_builtins(machine),
            "cache_store": msgspec.to_builtins(store),
            "advice": machine.advice(),
            "recommendation": msgspec.to_builtins(found),
            "problem": problem,
        }
        click.echo(json.dumps(document, indent=2))
    else:
        for line in _lines(machine, store, found, problem):
            click.echo(line)
    is_well = no_measure or (found is not None and found.exact is not None)
    click.get_current_context().exit(0 if is_well else 1)


def _lines(
    machine: "Machine", store: "CacheStore", found: "Recommendation | None", problem: str | None
) -> Iterator[str]:
    for name, value in (*_facts(machine), ("cache store", _of_store(store))):
        yield f"{name:<13} {value}"
    if found is not None:
        yield ""
        yield f"{found.model}, measured in {found.seconds:.0f} s:"
        yield from _table(found.trials)
        yield ""
        yield from _conclusion(found)
    if problem is not None:
        yield f"\nnot measured: {problem}"
    for line in machine.advice():
        yield f"advice: {line}"


def _facts(machine: "Machine") -> Iterator[tuple[str, str]]:
    torch = machine.torch
    yield "emb-provider", f"{machine.version}, Python {machine.python}, {machine.system}"
    yield "processor", machine.processor
    yield (
        "cores",
        f"{machine.cores} of {machine.all_cores} usable"
        + (" (affinity or container limit)" if machine.cores < machine.all_cores else ""),
    )
    yield "instructions", ", ".join(machine.instructions) or "none that are known to help"
    limit, free = machine.memory_limit_bytes, machine.free_bytes
    yield (
        "memory",
        f"{machine.memory_bytes / _GIB:.1f} GiB"
        + (f", {free / _GIB:.1f} GiB free" if free is not None else "")
        + (f", container limit {limit / _GIB:.1f} GiB" if limit is not None else ", no container limit"),
    )
    if torch.problem is not None:
        yield "torch", f"cannot be imported: {torch.problem}"
    else:
        build = f"CUDA {torch.cuda_build} build" if torch.cuda_build else "build without CUDA"
        yield "torch", f"{torch.version}, {build}, {torch.capability}"
        cuda = [f"{each.name} ({each.memory_bytes / _GIB:.0f} GiB)" for each in torch.cuda]
        yield "CUDA", ", ".join(cuda) or "no device"
        yield "MPS", "yes" if torch.has_mps else "no"
        compiled = "compiled" if torch.has_kernels else "not usable"
        yield "CPU kernels", f"{compiled}, compiler {torch.compiler or 'not found'}"
    for each in machine.backends:
        yield "backend", f"{each.name} ({each.distribution})" + (f": {each.problem}" if each.problem else "")


def _of_store(store: "CacheStore") -> str:
    others = ", ".join(name for name in store.installed if name != store.name)
    works = "" if store.milliseconds is None else f": an entry in {store.milliseconds:.1f} ms"
    return f"{store.name}{f': {store.problem}' if store.problem else works}; also installed: {others}"


def _table(trials: "list[Trial]") -> Iterator[str]:
    head = ("backend", "dtype", "device", "texts/s", "ratio", "agreement")
    rows = [
        (
            each.backend,
            each.dtype,
            each.device or "-",
            f"{each.texts_per_second:.0f}" if each.texts_per_second is not None else "-",
            f"{each.ratio:.2f}" if each.ratio is not None else "-",
            (each.problem or "").partition(". ")[0] or (f"{each.agreement:.6f}" if each.agreement is not None else "-"),
        )
        for each in trials
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)][:-1]
    for row in (head, *rows):
        cells = [
            f"{cell:<{width}}" if place < 3 else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        yield "  ".join([*cells, row[-1]]).rstrip()


def _conclusion(found: "Recommendation") -> Iterator[str]:
    if found.exact is None:
        yield "no backend gives the outputs of eager PyTorch in float32 here; the table says why"
        return
    yield f"recommended: emb-provider serve {found.exact.flags}"
    if found.faster is not None:
        ratio = (found.faster.ratio or 0) / (found.exact.ratio or 1)
        yield (
            f"{ratio:.1f} times as fast, with other outputs: {found.faster.flags}; "
            f"before: emb-provider verify {found.faster.flags}"
        )
