"""What the configuration says of a model's replicas: `options:` of a model with `backend: ray`."""

from typing import Any

from attrs import field, frozen


@frozen
class RayOptions:
    """Options of the backend `ray`.

    Attributes:
        backend: what the replicas run.
        options: its own options.
        replicas: fewest replicas; 0 starts the first with the first request.
        max_replicas: most replicas; None for `replicas`: no autoscaling.
        tokens_per_replica: tokens that wait or run, for each replica; more start another one.
        num_cpus: cores of a replica; lanes and threads are planned for them.
        num_gpus: accelerators of a replica.
        resources: further resources of Ray that a replica takes.
        loaded_models: most lazy models that one replica keeps loaded.
        upscale_seconds: for how long there have to be more tokens before replicas are started.
        downscale_seconds: for how long there have to be fewer before they are ended.
        deployment: set by `build_app`: where the replicas are.
        is_shared: set by `build_app`: whether these have other models too.
    """

    backend: str = "torch"
    options: dict[str, Any] = field(factory=dict)
    replicas: int = 1
    max_replicas: int | None = None
    tokens_per_replica: int = 4096
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    resources: dict[str, float] = field(factory=dict)
    loaded_models: int = 3
    upscale_seconds: float = 5.0
    downscale_seconds: float = 120.0
    deployment: str = ""
    is_shared: bool = False

    @property
    def most(self) -> int:
        """Most replicas."""
        return max(1, self.replicas if self.max_replicas is None else self.max_replicas)

    @property
    def cores(self) -> int:
        """Whole cores of a replica."""
        return max(1, int(self.num_cpus))
