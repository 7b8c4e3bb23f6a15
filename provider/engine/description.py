"""What is said of a model, once: the log, `GET /v1/models`, `emb-provider models` and benchmarks show parts of it."""

from typing import Any, Self

from attrs import asdict, evolve, frozen

from provider.domain import ModelSpec
from provider.engine.loading import ModelParts
from provider.engine.prompts import tells_roles_apart
from provider.models.resolve import Resolved
from provider.settings import ModelSettings
from provider.tasks import described

_OF_LOADED = (
    "bytes",
    "backend",
    "device",
    "dtype",
    "lanes",
    "threads_per_lane",
    "batch_tokens",
    "neighbours",
    "tuning",
    "details",
    "max_tokens",
    "fingerprint",
    "notices",
)


@frozen(kw_only=True)
class ModelDescription:
    """A model in JSON values. None: it does not apply to the model, or, from `fingerprint` on, only loading tells.

    Attributes:
        backend: its name.
        folder: where the files are.
        origin: how they came there.
        revision: of the files, where the hub knows it.
        architecture: the class of the model.
        task, outputs, labels, scores, dimensions, pooling, normalize, similarity: see `provider.tasks.described`.
        max_tokens: most tokens of one input.
        reads_input_type: whether `input_type` of a request changes its vectors.
        prompts: names of the prompts.
        recipe: prompts of the model's card, name to text, where its files have none.
        digest: of the files.
        notices: sentences about the files that an operator should read.
        fingerprint: of the outputs.
        device, dtype, details: as the backend says.
        bytes: size of the weights on disk.
        lanes: forward passes at a time.
        threads_per_lane: CPU threads of each.
        batch_tokens: most tokens of a batch.
        neighbours: which rows may share a batch.
        tuning: its `state`, and what was measured to choose these.
    """

    backend: str
    folder: str
    origin: str
    revision: str | None
    architecture: str
    task: str
    outputs: list[str]
    labels: list[str] | None
    scores: str | None
    dimensions: int | None
    pooling: str | None
    normalize: bool | None
    similarity: str | None
    max_tokens: int
    reads_input_type: bool
    prompts: list[str]
    recipe: dict[str, str] | None
    digest: str
    notices: list[str]
    fingerprint: str | None = None
    device: str | None = None
    dtype: str | None = None
    details: dict[str, Any] | None = None
    bytes: int | None = None
    lanes: int | None = None
    threads_per_lane: int | None = None
    batch_tokens: int | None = None
    neighbours: str | None = None
    tuning: dict[str, Any] | None = None

    @classmethod
    def of_files(cls, settings: ModelSettings, source: Resolved, spec: ModelSpec, notices: tuple[str, ...]) -> Self:
        """Of a model that is not loaded, by what its files say."""
        return cls(
            backend=settings.backend,
            folder=str(source.folder),
            origin=source.origin,
            revision=source.revision,
            architecture=spec.architecture,
            max_tokens=spec.max_tokens,
            reads_input_type=tells_roles_apart(spec),
            prompts=sorted(spec.prompts),
            recipe=dict(spec.recipe) or None,
            digest=spec.fingerprint,
            notices=list(notices),
            **described(spec),
        )

    @classmethod
    def of(cls, settings: ModelSettings, parts: ModelParts) -> Self:
        """Of a loaded model."""
        traits = parts.backend.traits
        return evolve(
            cls.of_files(settings, parts.source, parts.spec, parts.notices),
            backend=parts.backend_name,
            fingerprint=parts.fingerprint,
            device=traits.device,
            dtype=traits.dtype,
            details=dict(traits.extra),
            bytes=parts.weight_bytes,
            lanes=parts.plan.lanes,
            threads_per_lane=parts.plan.threads,
            batch_tokens=parts.limits.max_tokens,
            neighbours=parts.neighbours.allowed,
            tuning=tuning_of(parts),
        )

    def values(self) -> dict[str, Any]:
        """All of it by name."""
        return asdict(self)

    def of_loaded(self) -> dict[str, Any]:
        """What loading told, for the log; what the files say is too long for a line."""
        return {name: getattr(self, name) for name in _OF_LOADED}


def tuning_of(parts: ModelParts) -> dict[str, Any]:
    """Where the choice of lanes, threads and batches stands, and what was measured for it."""
    if parts.tuned is not None:
        return parts.tuned.described()
    return {"state": "pending" if parts.to_tune is not None else "off"}
