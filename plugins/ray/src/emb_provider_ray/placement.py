"""Which deployment runs which model: pure, and the same for the same settings."""

import hashlib
import math
from collections.abc import Mapping, Sequence
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
    for option in ("upscale_seconds", "downscale_seconds"):
        check_amount(f"model {name!r}: options.{option}", getattr(options, option))
    check_reserved(f"model {name!r}: options.", options.num_cpus, options.num_gpus, options.resources)
    if options.loaded_models < 1:
        msg = f"model {name!r}: options.loaded_models: got {options.loaded_models}; it is at least 1"
        raise SettingsError(msg)


def of_replicas(settings: Settings, *, is_here: bool) -> Settings:
    """The models as replicas load them, for the checks of `provider.server.preflight`.

    Args:
        settings: with options of replicas, or without.
        is_here: whether replicas run on this machine; else its folders, devices and dtypes are not theirs.
    """
    elsewhere: dict[str, Any] = {} if is_here else {"path": None, "device": "auto", "dtype": "auto"}

    def loaded(model: ModelSettings) -> ModelSettings:
        options = ray_options(model)
        return evolve(model, backend=options.backend, options=options.options, **elsewhere)

    return evolve(settings, model=loaded(settings.model), models=[loaded(each) for each in settings.models])


def check_reserved(prefix: str, num_cpus: float, num_gpus: float, resources: Mapping[str, float]) -> None:
    """Refuse what Ray cannot reserve for a process.

    Raises:
        SettingsError: one is wrong; the message starts with `prefix` and its name.
    """
    check_amount(f"{prefix}num_cpus", num_cpus)
    check_amount(f"{prefix}num_gpus", num_gpus)
    if num_gpus > 1 and num_gpus != int(num_gpus):
        msg = f"{prefix}num_gpus: got {num_gpus:g}; above 1 it is a whole number"
        raise SettingsError(msg)
    for resource, amount in resources.items():
        if resource in ("CPU", "GPU"):
            msg = f"{prefix}resources: got {resource}; set num_{resource.lower()}s instead"
            raise SettingsError(msg)
        check_amount(f"{prefix}resources.{resource}", amount)


def check_amount(what: str, value: float) -> None:
    """Refuse a negative number, infinity and NaN, and what is no number.

    Raises:
        SettingsError: `value` is one; the message starts with `what`.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value >= 0):
        msg = f"{what}: got {value!r}; it is a finite number, 0 or more"
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
