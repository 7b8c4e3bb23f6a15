"""Which deployment runs which model: pure, and the same for the same settings."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import msgspec
from attrs import asdict, evolve, field, frozen

from emb_provider_ray.options import RayOptions
from provider.entry_points import read_options
from provider.errors import SettingsError
from provider.settings import ModelSettings, Settings

BACKEND = "ray"
_CHANGED_IN_PLACE: dict[str, Any] = {"aliases": [], "idle_unload_seconds": None, "pinned": False}


@frozen
class Placement:
    """One deployment.

    Attributes:
        name: of the deployment; the same only for the same models and options.
        models: by served name, as its replicas load them.
        options: of its replicas.
        is_lazy: whether a replica loads a model at its first request, and several beside each other.
    """

    name: str
    models: dict[str, ModelSettings] = field(repr=False)
    options: RayOptions
    is_lazy: bool


def place(models: Sequence[ModelSettings]) -> tuple[list[ModelSettings], list[Placement]]:
    """Where each model runs.

    Args:
        models: as configured; one whose backend is not `ray` has the default options of its replicas.

    Returns:
        The models as the ingress serves them, and the deployments. Every eager model has one of its own; lazy models
        with the same options share one.

    Raises:
        SettingsError: an option is unknown, or of another type.
    """
    served: list[ModelSettings] = []
    placements: list[Placement] = []
    lazy: dict[str, list[tuple[ModelSettings, RayOptions]]] = {}
    for model in models:
        options = ray_options(model)
        if model.lazy:
            shared = evolve(options, backend="", options={}, deployment="", is_shared=False)
            lazy.setdefault(_digest(asdict(shared)), []).append((model, options))
        else:
            placement = _placement(model.served_name, [(model, options)], is_lazy=False)
            placements.append(placement)
            served.append(_served(model, options, placement))
    for together in lazy.values():
        placement = _placement("lazy", together, is_lazy=True)
        placements.append(placement)
        served += [_served(model, options, placement) for model, options in together]
    order = [model.served_name for model in models]
    return sorted(served, key=lambda model: order.index(model.served_name)), placements


def ray_options(model: ModelSettings) -> RayOptions:
    """The options of a model's replicas.

    Raises:
        SettingsError: one is unknown, of another type, or out of range.
    """
    if model.backend != BACKEND:
        return RayOptions(backend=model.backend, options=dict(model.options))
    options: RayOptions = read_options(f"backend {BACKEND!r}", RayOptions, model.options)
    if options.backend == BACKEND:
        msg = f"model {model.served_name!r}: options.backend is what its replicas run, such as torch; got {BACKEND!r}"
        raise SettingsError(msg)
    if options.replicas < 0 or options.most < options.replicas or options.tokens_per_replica < 1:
        msg = (
            f"model {model.served_name!r}: got replicas {options.replicas}, max_replicas {options.max_replicas} and "
            f"tokens_per_replica {options.tokens_per_replica}; replicas is at least 0, max_replicas no less than that, "
            "and tokens_per_replica at least 1"
        )
        raise SettingsError(msg)
    _check_numbers(model.served_name, options)
    return options


def with_options(settings: Settings, **changes: Any) -> Settings:  # noqa: ANN401 - fields of RayOptions
    """`settings` with every model on Ray, and `changes` in the options of those that were not."""

    def changed(model: ModelSettings) -> ModelSettings:
        if model.backend == BACKEND:
            return model
        options = evolve(ray_options(model), **changes)
        return evolve(model, backend=BACKEND, options=asdict(options))

    return evolve(settings, model=changed(settings.model), models=[changed(each) for each in settings.models])


def _check_numbers(name: str, options: RayOptions) -> None:
    for option in ("num_cpus", "num_gpus", "upscale_seconds", "downscale_seconds"):
        check_amount(f"model {name!r}: options.{option}", getattr(options, option))
    for resource, amount in options.resources.items():
        check_amount(f"model {name!r}: options.resources.{resource}", amount)
    if options.num_gpus > 1 and not options.num_gpus.is_integer():
        msg = f"model {name!r}: options.num_gpus: got {options.num_gpus:g}; above 1 it is a whole number"
        raise SettingsError(msg)
    if options.loaded_models < 1:
        msg = f"model {name!r}: options.loaded_models: got {options.loaded_models}; it is at least 1"
        raise SettingsError(msg)


def check_amount(what: str, value: float) -> None:
    """Refuse a negative number, infinity and NaN.

    Raises:
        SettingsError: `value` is one; the message starts with `what`.
    """
    if not (math.isfinite(value) and value >= 0):
        msg = f"{what}: got {value:g}; it is a finite number, 0 or more"
        raise SettingsError(msg)


def _placement(name: str, together: Sequence[tuple[ModelSettings, RayOptions]], *, is_lazy: bool) -> Placement:
    loaded = {
        model.served_name: evolve(
            model, **_CHANGED_IN_PLACE, backend=options.backend, options=options.options, lazy=False
        )
        for model, options in together
    }
    options = evolve(together[0][1], deployment="", is_shared=False)
    # What replicas do not look at may change without new ones: their number, for instance.
    resources = (options.num_cpus, options.num_gpus, options.resources, options.loaded_models)
    key = _digest([*(msgspec.to_builtins(each) for each in loaded.values()), resources, is_lazy])
    return Placement(f"{name.replace('/', '-').replace('#', '-')}.{key}", loaded, options, is_lazy)


def _served(model: ModelSettings, options: RayOptions, placement: Placement) -> ModelSettings:
    return evolve(
        model, backend=BACKEND, options=asdict(evolve(options, deployment=placement.name, is_shared=placement.is_lazy))
    )


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:8]
