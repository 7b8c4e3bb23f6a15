"""The Ray Serve application: the ingress, and a deployment for each model."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from attrs import evolve
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from emb_provider_ray.ingress import Ingress
from emb_provider_ray.placement import Placement, check_amount, place, with_options
from emb_provider_ray.replica import Common, ModelReplica
from emb_provider_ray.scaling import TokenPolicy
from provider.app import read_configuration
from provider.engine.plan import MAX_AUTO_LANES
from provider.errors import SettingsError
from provider.settings import ModelSettings, Settings

NAME = "emb-provider"
"""Of the application, and of its ingress."""
_UNSUPPORTED = {
    "uds": "Ray Serve listens on a port",
    "admin_port": "Ray Serve has one port",
    "tls_certificate_file": "what stands before the cluster ends TLS",
}
# Requests under way are bounded by queue.max_requests, which answers the others with 429; Ray would hold them.
_MORE_THAN_ADMITTED = 4
# Replicas report so often; Ray refuses to look back no further.
_REPORT_SECONDS = 10.0


def build_app(config: Settings | str | Path | Mapping[str, Any] | None = None) -> Application:
    """The application of a configuration, for `serve.run`, `serve run` and `serve deploy`.

    Args:
        config: settings, or the file with them, or `{"config": file, "ingress_cpus": number}` as Ray Serve passes
            arguments; None for what `emb-provider serve` would read here.

    Raises:
        SettingsError: a setting is at fault, or not for Ray.
    """
    if isinstance(config, Settings):
        return application(config)
    given: dict[str, Any] = dict(config) if isinstance(config, Mapping) else {"config": config}
    file, cpus = given.pop("config", None), float(given.pop("ingress_cpus", 1.0))
    if given:
        msg = f"unknown argument {min(given)!r} of the application; it has: config, ingress_cpus"
        raise SettingsError(msg)
    return application(read_configuration(None if file is None else Path(file)).settings, ingress_cpus=cpus)


def application(settings: Settings, *, ingress_cpus: float = 1.0, keep: Sequence[ModelSettings] = ()) -> Application:
    """The application of `settings`.

    Args:
        settings: what to serve.
        ingress_cpus: cores of each ingress; there are `server.workers` of them.
        keep: further models, as `Ingress.models` gives them, whose replicas stay for requests under way.

    Raises:
        SettingsError: a setting is not for Ray.
    """
    _check(settings)
    check_amount("ingress_cpus", ingress_cpus)
    models, placements = place(with_options(settings).all_models())
    _, kept = place(keep)
    common = Common(settings.hub, settings.log, settings.queue.stall_seconds)
    by_name = {each.name: each for each in (*kept, *placements)}
    replicas = [_replicas(each, common, settings.server.workers) for each in by_name.values()]
    without_models = evolve(settings, model=ModelSettings(), models=[])
    admitted = _MORE_THAN_ADMITTED * settings.queue.max_requests
    ingress = serve.deployment(Ingress).options(
        name=NAME,
        num_replicas=settings.server.workers,
        max_ongoing_requests=admitted,
        graceful_shutdown_timeout_s=settings.server.shutdown_seconds,
        ray_actor_options={"num_cpus": ingress_cpus},
        user_config={"models": msgspec.to_builtins(models)},
        # Ray would restart every replica of every deployment at each `serve.run`: only the content may decide.
        version=_digest((without_models, ingress_cpus)),
        _internal=True,
    )
    return ingress.bind(without_models, replicas)


def _check(settings: Settings) -> None:
    for name, reason in _UNSUPPORTED.items():
        if getattr(settings.server, name) is not None:
            msg = f"server.{name} is not for Ray Serve: {reason}; leave it out"
            raise SettingsError(msg)
    if settings.server.port == 0:
        msg = "server.port: got 0, but Ray Serve does not say which port it took; set one from 1 to 65535"
        raise SettingsError(msg)
    if settings.jobs.folder is not None and settings.server.workers > 1:
        msg = "jobs.folder needs one ingress, as its files are on a local disk: set server.workers to 1"
        raise SettingsError(msg)


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _replicas(placement: Placement, common: Common, ingresses: int) -> Application:
    options = placement.options
    # Each ingress has so many batches under way with a replica at most: those that run, and one ahead.
    lanes = max(each.lanes or max(2, min(MAX_AUTO_LANES, options.cores)) for each in placement.models.values())
    scaling: dict[str, Any] = {"num_replicas": options.most}
    if options.max_replicas is not None or not options.replicas:
        policy = AutoscalingPolicy(
            policy_function=TokenPolicy, policy_kwargs={"tokens_per_replica": options.tokens_per_replica}
        )
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=options.replicas,
                max_replicas=options.most,
                look_back_period_s=max(2 * options.upscale_seconds, 1.5 * _REPORT_SECONDS),
                upscale_delay_s=options.upscale_seconds,
                downscale_delay_s=options.downscale_seconds,
                policy=policy,
            )
        }
    return (
        serve.deployment(ModelReplica)
        .options(
            name=placement.name,
            max_ongoing_requests=ingresses * (lanes + 1),
            graceful_shutdown_wait_loop_s=0.5,
            ray_actor_options={
                "num_cpus": options.num_cpus,
                "num_gpus": options.num_gpus,
                "resources": options.resources,
            },
            version=_digest((placement.name, common)),
            _internal=True,
            **scaling,
        )
        .bind(placement.models, common, options.cores, options.loaded_models if placement.is_lazy else 0)
    )
